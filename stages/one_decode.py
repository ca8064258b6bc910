"""Decodes each image of a shard once and commits all that is missing of it: vectors of each encoder, then its samples.

The vectors come first, so where the file of samples exists, the vectors that were made with it do too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.adoption import adopt
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, places_in
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.executors.turns import Turn
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.stages.encoders import Encoding
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.unchanged import check_unchanged
from winnow.stages.sample_files import commit_samples
from winnow.stages.vector_files import commit_vectors

if TYPE_CHECKING:
    from winnow.stages.encoders import Bank

NO_IMAGE = "image-decode"
"""Kind of the reject for a sample whose image another decode could read, and this one cannot."""


@dataclass(frozen=True)
class Encoded:
    """One encoder of a pass, and the artifact of its vectors. name: in the job, for messages. recipe: see Samples."""

    name: str
    encoder: Encoder
    out: Artifact
    recipe: str


@dataclass(frozen=True)
class EmbedShards:
    """The pass over the shards, a task of workers that hold the encoders.

    samples: the artifact of the samples. alone: whether it is finished, and the pass makes vectors only, of the first
    encoder in every shard that it is given.
    """

    reader: Reader
    samples: Artifact
    encoders: tuple[Encoded, ...]
    encoding: Encoding
    alone: bool = False

    def missing(self, run: Run) -> "EmbedShards":
        """The same pass without the encoders whose vectors are finished; files of earlier artifacts are taken over."""
        missing = tuple(each for each in self.encoders if not _finished(each.out))
        for each in missing:
            adopt(run, each.out, each.recipe)
        return replace(self, encoders=missing)

    def open(self) -> Callable[[ShardItem], Summary]:
        """See Task.open; loads the encoders."""
        from winnow.stages.encoders import Bank

        # without encoders images are decoded all the same, and need no GPU
        encoding = self.encoding if self.encoders else replace(self.encoding, device="cpu", precision="fp32")
        return partial(self._embed, Bank.open({each.name: each.encoder for each in self.encoders}, encoding))

    def _embed(self, bank: "Bank", item: ShardItem) -> Summary:
        check_unchanged(self.samples, item.index, item.url, self.reader)
        wanted = [
            each
            for number, each in enumerate(self.encoders)
            if (self.alone and not number) or _lacks(each.out, item.index)
        ]
        bank = bank.only([each.name for each in wanted])
        known = self.samples.read(item.index, ["position", "key"]) if self.alone else None
        empty = known is not None and not known.num_rows  # such as a shard that could not be read
        found = embed(bank, () if empty else self.reader.samples(item.url), item.url)
        if known is not None:
            found = found.at(known)
        summaries = [
            commit_vectors(each.out, item, found.vectors_of(each.name), found.refused[each.name]) for each in wanted
        ]
        if self.alone:
            return summaries[0]
        return commit_samples(self.samples, item, found.samples, found.sides, found.rejects)


def _lacks(out: Artifact, index: int) -> bool:
    """Whether the artifact has yet to make the file of a shard, in its own folder."""
    return out.place(index)[0] == out.name and not storage.exists(out.shard(index))


def _finished(out: Artifact) -> bool:
    done = out.done()
    return done is not None and out.holds(done)


@dataclass(frozen=True)
class EmbeddedShard:
    """The samples of one shard. sides: int32 (2, n), width and height. rejects: of reading and decoding, in order.

    vectors: column → float16 (n, d), zero where refused. refused: encoder → row → why, ascending.
    """

    samples: list[Sample] = field(default_factory=list)
    sides: np.ndarray = field(default_factory=lambda: np.empty((2, 0), np.int32))
    rejects: list[Reject] = field(default_factory=list)
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    refused: Mapping[str, Mapping[int, Reject]] = field(default_factory=dict)

    def vectors_of(self, name: str) -> dict[str, np.ndarray]:
        """Tower → float16 (n, d) of one encoder."""
        return {c.rpartition(".")[2]: v for c, v in self.vectors.items() if c.rpartition(".")[0] == name}

    def at(self, known: pa.Table) -> "EmbeddedShard":
        """The same with a row for each row of `known` (position, key), in its order.

        A sample whose image cannot be decoded this time, as with another library, is refused by every encoder.
        """
        positions = column(known, "position")
        rows = places_in(np.array([sample.position for sample in self.samples], np.int64), positions)
        if np.array_equal(rows, np.arange(len(self.samples))):
            return self
        lost = {reject.position: reject for reject in self.rejects}
        gone = {
            row: lost.get(position, Reject(position, key, NO_IMAGE, "an image must be decoded again, but is not there"))
            for row, position, key in zip(
                np.flatnonzero(rows < 0).tolist(),
                positions[rows < 0].tolist(),
                known["key"].filter(pa.array(rows < 0)).to_pylist(),
                strict=True,
            )
        }
        new = {old: row for row, old in enumerate(rows.tolist()) if old >= 0}
        refused = {
            name: dict(sorted({**gone, **{new[row]: why for row, why in some.items() if row in new}}.items()))
            for name, some in self.refused.items()
        }
        vectors = {name: np.where(rows[:, None] < 0, np.float16(0), each[rows]) for name, each in self.vectors.items()}
        return EmbeddedShard(rejects=self.rejects, vectors=vectors, refused=refused)


def embed(bank: "Bank", samples: Iterable[Sample | Reject], url: str) -> EmbeddedShard:
    """Encode the samples of one shard. Raises AccountingError if a sample is lost on the way."""
    seen = 0

    def counted(turn: Turn) -> Iterator[Sample | Reject]:
        nonlocal seen
        for sample in samples:  # with the first sample the shard is open; then wait for the shard before this one
            turn.begin()
            seen += 1
            yield sample
        turn.end()

    parts = {name: [np.empty((0, width), np.float16)] for name, width in bank.columns().items()}
    kept: list[Sample] = []
    rejects: list[Reject] = []
    refused: dict[str, dict[int, Reject]] = {name: {} for name in bank.names}
    sides = [np.empty((2, 0), np.int32)]
    with bank.turns.one() as turn:
        for batch in bank.encode(counted(turn)):
            for name, some in batch.refused.items():
                refused[name] |= {len(kept) + row: reject for row, reject in some.items()}
            kept += batch.samples
            rejects += batch.rejects
            sides.append(np.stack([batch.widths, batch.heights]))
            for name, vectors in batch.vectors.items():
                parts[name].append(vectors)
    if len(kept) + len(rejects) != seen:
        raise AccountingError(
            f"{url}: {seen} samples must each be embedded or rejected, but {len(kept)} + {len(rejects)} are"
        )
    found = {name: np.concatenate(blocks) for name, blocks in parts.items()}
    return EmbeddedShard(kept, np.concatenate(sides, axis=1), rejects, found, refused)
