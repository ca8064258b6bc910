"""The stage `vectors`: the unit vectors of one encoder, an artifact of its own, row by row beside the samples.

Another encoder leaves its bytes alone. A sample whose vector has no direction is a reject of this artifact: out for
every cut of a job that has the encoder. Vectors that a pool brings are checked, and stay where they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline.adoption import adopt
from winnow.pipeline.artifact import Artifact, read_schema
from winnow.pipeline.columns import column
from winnow.pipeline.executors.contract import Needs, Stateless
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.totals import Told
from winnow.stages.encoders import Encoding
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.filling import filled
from winnow.stages.one_decode import EmbedShards, Encoded
from winnow.stages.pools.precomputed.widths import WIDTHS, Widths
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import Reject
from winnow.stages.pools.unchanged import check_unchanged
from winnow.stages.preview.early import Early
from winnow.stages.rejects import FAILED, NO_VECTORS, vectors_report
from winnow.stages.vector_files import commit_directions, cosine

PIXELS = {"exact": "exact", "fast": "fast 2"}
"""The value of `preprocess` in a fingerprint. If the pixels of one mode change, its value changes, and no other."""

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Vectors:
    """Vectors of one encoder for a pool with images.

    samples: the artifact with a row for each. identity: hashes of the weights, so that new weights under an old name
    make a new artifact. The encoder's name in the job is not in it. recipe_of_rows: that of the samples. encoder,
    encoding, needs, and `beside`, the encoders that come after it in the job: how to run; if their vectors are missing
    too, one pass makes them all.
    """

    samples: Artifact
    reader: Reader
    identity: Mapping[str, str]
    batch_size: int
    preprocess: str
    precision: str
    device: str
    recipe_of_rows: str = field(metadata={"fingerprint": False})
    called: str = field(metadata={"fingerprint": False})
    encoder: Encoder = field(metadata={"fingerprint": False})
    encoding: Encoding = field(metadata={"fingerprint": False})
    needs: Needs = field(metadata={"fingerprint": False})
    beside: tuple[Encoded, ...] = field(default=(), metadata={"fingerprint": False})
    name: ClassVar[str] = "vectors"
    reads_pool: ClassVar[Literal["whole", "kept"]] = "whole"
    embeds: ClassVar[bool] = True
    version: ClassVar[int] = 1

    @classmethod
    def of(
        cls,
        samples: Artifact,
        reader: Reader,
        recipe_of_rows: str,
        called: str,
        encoder: Encoder,
        encoding: Encoding,
        needs: Needs,
    ) -> "Vectors":
        """The stage for an encoder. It reads its weights to hash them."""
        encoding = resolved(encoding, needs)
        return cls(
            samples=samples,
            reader=reader,
            identity=encoder.identity(),
            batch_size=encoding.batch_size,
            preprocess=PIXELS[encoding.preprocess],
            precision=encoding.precision,
            device=encoding.device.partition(":")[0],
            recipe_of_rows=recipe_of_rows,
            called=called,
            encoder=encoder,
            encoding=encoding,
            needs=needs,
        )

    @property
    def recipe(self) -> str:
        """See Samples.recipe."""
        numbers = self.batch_size, self.preprocess, self.precision, self.device
        return fingerprint([self.name, self.version, self.recipe_of_rows, self.identity, numbers])

    def rejecting(self, made: Artifact) -> tuple[Artifact, ...]:
        """See Rejecting.rejecting."""
        return self.samples, made

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard. Those that an earlier artifact of the same recipe has are taken over."""
        adopted = adopt(run, out, self.recipe)
        own = Encoded(self.called, self.encoder, out, self.recipe)
        task = EmbedShards(self.reader, self.samples, self.beside, self.encoding, alone=True).missing(run)
        task = replace(task, encoders=(own, *task.encoders))
        early = Early(run, self.reader, out, tuple(each.out for each in task.encoders[1:]))
        label = f"{self.name}.{self.called}"
        totals = filled(run, task, out, label, self.needs, [early], partial(_give_up, self.samples, out))
        return {**vectors_report(totals), "width": _width(out, run), "adopted": adopted}


def resolved(encoding: Encoding, needs: Needs) -> Encoding:
    """The encoding with `auto` resolved from the job alone, so that no artifact depends on the machine."""
    device = encoding.device if encoding.device != "auto" else ("cuda" if needs.gpus > 0 else "cpu")
    automatic: Precision = "bf16" if device.startswith("cuda") else "fp32"
    precision: Precision = automatic if encoding.precision == "auto" else encoding.precision
    return replace(encoding, device=device, precision=precision)


def _width(out: Artifact, run: Run) -> int:
    """Numbers of a vector; 0 for a pool without shards."""
    return int(read_schema(out.shard(0)).field("image").type.list_size) if run.shards else 0


def _give_up(
    samples: Artifact, out: Artifact, item: ShardItem, message: str, columns: pa.Schema, like: Summary
) -> None:
    """Commit a shard whose samples were read, and whose vectors cannot be: each sample is a reject."""
    known = samples.read(item.index, ["position", "key"])
    refused = {
        row: Reject(place["position"], place["key"], NO_VECTORS, message) for row, place in enumerate(known.to_pylist())
    }
    zeros = {
        field.name: pa.FixedSizeListArray.from_arrays(
            pa.array(np.zeros(len(known) * field.type.list_size, np.float16)), field.type.list_size
        )
        for field in columns
        if pa.types.is_fixed_size_list(field.type)
    }
    similarity = np.zeros(len(known), np.float32) if "similarity" in columns.names else None
    commit_directions(out, item, len(known), similarity, refused, zeros, {**like, FAILED: {"shards": 1}})


@dataclass(frozen=True)
class StoredVectors:
    """The check of the vectors that a pool brings for one of its encoders, and their cosines; no copy of a vector."""

    samples: Artifact
    reader: Reader
    recipe_of_rows: str = field(metadata={"fingerprint": False})
    encoder: str
    name: ClassVar[str] = "vectors"
    reads_pool: ClassVar[Literal["whole", "kept"]] = "whole"
    version: ClassVar[int] = 1

    @property
    def recipe(self) -> str:
        """See Samples.recipe."""
        return fingerprint([self.name, self.version, self.recipe_of_rows, self.encoder])

    def rejecting(self, made: Artifact) -> tuple[Artifact, ...]:
        """See Rejecting.rejecting."""
        return self.samples, made

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard. Raises PoolError if the vectors have two widths."""
        adopted = adopt(run, out, self.recipe)
        widths = Widths()
        task = Stateless(_CheckShard(self, out))
        told: list[Told] = [Early(run, self.reader, out), widths]
        label = f"{self.name}.{self.encoder}"
        totals = filled(run, task, out, label, None, told, partial(_give_up, self.samples, out))
        width = widths.one(run.shards).get(self.encoder, 0)
        return {**vectors_report(totals), "width": width, "adopted": adopted}


@dataclass(frozen=True)
class _CheckShard:
    stage: StoredVectors
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        reader, name, samples = self.stage.reader, self.stage.encoder, self.stage.samples
        check_unchanged(samples, item.index, item.url, reader)
        known = samples.read(item.index, ["position", "key"])
        if not known.num_rows:  # such as a shard that could not be read
            nothing = np.empty(0, np.float32) if reader.has_text else None
            return commit_directions(self.out, item, 0, nothing, {})
        positions = column(known, "position")
        rejected = cast(Mapping[str, int], samples.summary(item.index)["rejects"])
        faults, width = reader.checked(item.url, name, len(known) + sum(rejected.values()))
        clean = faults.clean[positions]
        keys = known["key"].filter(pa.array(~clean)).to_pylist()
        bad = np.flatnonzero(~clean).tolist()
        refused = dict(zip(bad, faults.rejects_at(positions[~clean], keys), strict=True))
        similarity = None
        if reader.has_text:
            image, text = (reader.vectors(item.url, name, t, positions[clean]) for t in ("image", "text"))
            similarity = np.zeros(len(known), np.float32)
            similarity[clean] = cosine(image, text)
        told = {WIDTHS: {name: width} if clean.any() else {}}
        return commit_directions(self.out, item, len(known), similarity, refused, more=told)
