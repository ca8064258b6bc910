"""The stage of `duplicates` with `against` by vectors: drops samples too near to one that another job kept.

Every pair is compared, block by block of the other job's vectors, so the answer is exact. A worker holds one block.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import DataError
from winnow.pipeline.fingerprint import IF_GIVEN
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.uid import UID, uids_to_bytes
from winnow.stages.cuts.keeping import funnel
from winnow.stages.cuts.semantic.against.other_job import OtherBlock, OtherJob, OtherShard, block_items
from winnow.stages.cuts.semantic.naming import DUPLICATES, commit_duplicates, exact_rows
from winnow.stages.kernels.products import nearest_above
from winnow.stages.survivors import Survivors, Tower

_BLOCK_BYTES = 128 << 20  # of float16 vectors of the other job that a worker holds, and the same again to sort them
_SPAN_ROWS = 2_000_000  # samples of the shards that go through all blocks together: 28 bytes each
_SPANS = 4  # for each worker


@dataclass(frozen=True)
class NearOther:
    """Drops every sample whose cosine with one that the other job kept is above 1 - epsilon, and names the nearest.

    same: artifact of the stage before, whose verdicts this one repeats; None if there was none.
    """

    survivors: Survivors
    same: Artifact | None
    other: OtherJob
    by: str
    epsilon: float
    tower: Tower = field(default="image", metadata=IF_GIVEN)
    name: ClassVar[str] = "duplicates"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """One pass over groups of shards, each of which goes through all blocks of the other job's vectors."""
        blocks = blocks_of(run, self.other)
        there = out.present()
        left = [item for item in run.items if item.index not in there]
        spans = spans_of(run, left, self.survivors.count())
        for _ in run.each(partial(_near_span, self, out, blocks), spans, "duplicates: near"):
            pass
        return funnel(run.fill(partial(_made, out), out, self.name), epsilon=self.epsilon, blocks=len(blocks))


@dataclass(frozen=True)
class Span:
    """Neighbouring shards that a worker compares with each block in turn."""

    shards: tuple[ShardItem, ...]

    @property
    def url(self) -> str:
        """The first shard's: what an error calls the span."""
        return self.shards[0].url


def spans_of(run: Run, items: Sequence[ShardItem], samples: int) -> list[Span]:
    """The shards in groups: a few for each worker, and none with many samples."""
    most = max(1, _SPAN_ROWS * len(run.items) // max(1, samples))
    size = max(1, min(most, -(-len(items) // (_SPANS * run.executor.workers))))
    return [Span(tuple(items[at : at + size])) for at in range(0, len(items), size)]


def blocks_of(run: Run, other: OtherJob) -> list[OtherBlock]:
    """The vectors of the other job in blocks. Cost: the footer of each of its shards."""
    shards = other.shards()
    counts = np.zeros(len(shards), np.int64)
    for index, count in run.each(partial(_kept_in, other), shards, "duplicates: against"):
        counts[index] = count
    report = (other.vectors.done() if other.vectors is not None else None) or {}
    width = max(1, cast(int, report.get("width", 1)))
    return block_items(counts.tolist(), shards, max(1, _BLOCK_BYTES // (2 * width)))


def _kept_in(other: OtherJob, shard: OtherShard) -> int:
    return len(other.kept(shard.index))


def _made(out: Artifact, item: ShardItem) -> Summary:
    raise DataError(f"{out.shard(item.index)} must be there after its pass; run the job again")


def nearest_of(
    survivors: Survivors,
    other: OtherJob,
    by: str,
    tower: Tower,
    limit: float,
    blocks: Sequence[OtherBlock],
    rows: Mapping[ShardItem, np.ndarray],
) -> dict[ShardItem, tuple[np.ndarray, np.ndarray]]:
    """For rows of some shards the largest cosine above the limit, 0 if none is, and the uid of that sample.

    float64 (m,) and dtype UID (m,) for each shard. Of equally near samples the smallest uid.
    """
    found = {item: (np.zeros(len(at)), np.zeros(len(at), UID)) for item, at in rows.items()}
    for block in blocks:
        target, uids = _read_block(other, block, tower)
        for item, at in rows.items():
            best, named = found[item]
            for start, vectors in _parts(survivors, item, by, tower, at):
                if vectors.shape[1] != target.shape[1]:
                    raise DataError(
                        f"vectors must be of one width, but those of {by} have {vectors.shape[1]} numbers and those of "
                        f"the other job {target.shape[1]}; compare vectors of one model"
                    )
                value, where = nearest_above(vectors, target, limit)
                hit = np.flatnonzero(where >= 0)
                name, mine = uids[where[hit]], start + hit
                same = value[hit] == best[mine]
                smaller = (name["f0"] < named[mine]["f0"]) | (
                    (name["f0"] == named[mine]["f0"]) & (name["f1"] < named[mine]["f1"])
                )
                better = (value[hit] > best[mine]) | (same & smaller)
                best[mine[better]], named[mine[better]] = value[hit][better], name[better]
    return found


def _parts(
    survivors: Survivors, item: ShardItem, by: str, tower: Tower, rows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    done = 0
    for vectors in survivors.blocks(item.index, item.url, by, tower, rows):
        yield done, vectors
        done += len(vectors)


def _read_block(other: OtherJob, block: OtherBlock, tower: Tower) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float16 (m, d) and uids (m,) of a block, by uid."""
    vectors, uids = [], []
    for shard, first, stop in block.pieces:
        rows = other.kept(shard.index)[first:stop]
        vectors.append(other.survivors.vectors(shard.index, shard.url, other.encoder, tower, rows))
        uids.append(other.survivors.uids(shard.index)[rows])
    named = np.concatenate(uids)
    order = np.lexsort((named["f1"], named["f0"]))
    return np.concatenate(vectors)[order], named[order]


def _near_span(stage: NearOther, out: Artifact, blocks: Sequence[OtherBlock], span: Span) -> None:
    survivors = stage.survivors
    masks = {item: survivors.mask(item.index) for item in span.shards}
    rows = {item: np.flatnonzero(before) for item, before in masks.items()}
    limit = 1.0 - stage.epsilon
    found = nearest_of(survivors, stage.other, stage.by, stage.tower, limit, blocks, rows)
    for item, (best, named) in found.items():
        hit = best > 0
        columns = [pa.array(rows[item][hit]), uids_to_bytes(named[hit]), pa.array(best[hit].astype(np.float32))]
        tables = [pa.table(columns, schema=DUPLICATES)]
        before = masks[item]
        if stage.same is not None:
            same = exact_rows(stage.same, item.index)
            before[column(same, "row")] = True  # these were in before this cut
            tables.append(same)
        commit_duplicates(out, item, before, tables)
