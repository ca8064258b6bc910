"""The stage of `duplicates` with `against`: drops samples with the bytes or caption of one that another job kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, split_table, tables_of
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.uid import UID_ARROW, uids_from_bytes, uids_to_bytes
from winnow.stages.cuts.keeping import funnel
from winnow.stages.cuts.semantic.against.other_job import OtherJob, OtherShard
from winnow.stages.cuts.semantic.naming import DUPLICATES, commit_duplicates
from winnow.stages.cuts.semantic.sameness import What, hashes_of
from winnow.stages.kernels.same_names import first_of_name
from winnow.stages.survivors import Survivors

_PART_ROWS = 2_000_000  # of both jobs, which one part of the exchange holds: about 50 bytes each
_OURS = pa.schema([("hash", UID_ARROW), ("item", pa.int32()), ("row", pa.int64())])
_THEIRS = pa.schema([("hash", UID_ARROW), ("uid", UID_ARROW)])

R_co = TypeVar("R_co", covariant=True)


@runtime_checkable
class Settled(Protocol[R_co]):
    """What becomes of a shard once it is known which of its rows repeat a kept one; picklable."""

    def shard(self, item: ShardItem, repeats: pa.Table) -> R_co:
        """repeats: columns DUPLICATES."""
        ...

    def other(self) -> R_co:
        """Of a shard of the other job: nothing."""
        ...


@dataclass(frozen=True)
class Same(Generic[R_co]):
    """The exchange by hash: samples of this job meet those that the other one kept, the smallest uid first."""

    survivors: Survivors
    other: OtherJob
    what: What
    settled: Settled[R_co]
    parts: int

    def scatter(self, item: ShardItem | OtherShard) -> Mapping[int, pa.Table]:
        """See Exchange.scatter."""
        theirs = isinstance(item, OtherShard)
        survivors = self.other.survivors if theirs else self.survivors
        rows = np.flatnonzero(survivors.mask(item.index))
        hashes = hashes_of(survivors, item.index, self.what).take(pa.array(rows))
        if theirs:
            table = pa.table([hashes, uids_to_bytes(survivors.uids(item.index)[rows])], schema=_THEIRS)
        else:
            table = pa.table([hashes, np.full(len(rows), item.index, np.int32), rows], schema=_OURS)
        part = (uids_from_bytes(hashes)["f0"] % np.uint64(self.parts)).astype(np.int64)
        return split_table(table, part)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """See Exchange.decide."""
        theirs = tables_of(tables, _THEIRS)
        ours = tables_of(tables, _OURS)
        uids = uids_from_bytes(theirs["uid"])
        order = np.lexsort((uids["f1"], uids["f0"]))  # so that the first of a hash is that of the smallest uid
        m, hashes = len(order), uids_from_bytes(theirs["hash"])[order]
        first = first_of_name(np.concatenate([hashes, uids_from_bytes(ours["hash"])]))[m:]
        hit = first < m
        named = uids_to_bytes(uids[order][first[hit]])
        cosine = pa.array(np.ones(int(hit.sum()), np.float32))
        found = pa.table([pa.array(column(ours, "row")[hit]), named, cosine], schema=DUPLICATES)
        return split_table(found, column(ours, "item")[hit])

    def settle(self, item: ShardItem | OtherShard, tables: Sequence[pa.Table]) -> R_co:
        """See Exchange.settle."""
        if isinstance(item, OtherShard):
            return self.settled.other()
        return self.settled.shard(item, pa.concat_tables([DUPLICATES.empty_table(), *tables]))


def parts_of(survivors: Survivors, other: OtherJob) -> int:
    """How many parts the exchange needs."""
    return max(1, -(-(survivors.count() + other.survivors.count()) // _PART_ROWS))


@dataclass(frozen=True)
class SameAsOther:
    """Drops every sample with the bytes or the caption of a sample that the other job kept, and names that."""

    name: str
    survivors: Survivors
    other: OtherJob
    what: What
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """One exchange by hash, over the shards of both jobs."""
        settled, parts = _Commit(self.survivors, out), parts_of(self.survivors, self.other)
        work = Same(self.survivors, self.other, self.what, settled, parts)
        return funnel(run.exchange(work, self.name, out, beside=self.other.shards(len(run.items))))


@dataclass(frozen=True)
class _Commit:
    survivors: Survivors
    out: Artifact

    def shard(self, item: ShardItem, repeats: pa.Table) -> Summary:
        return commit_duplicates(self.out, item, self.survivors.mask(item.index), [repeats])

    def other(self) -> Summary:
        return {"rows": 0, "in": 0, "kept": 0}
