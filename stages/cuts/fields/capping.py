"""The stage `cap`: keeps the first samples of each group, in an order by a value or a hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, split_rows, split_table
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.keep_top import Rows, Thresholds, kept
from winnow.pipeline.order import order_keys, reversed_order
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.stages.cuts.fields.value import ranked_last
from winnow.stages.cuts.keeping import funnel, select, write_kept
from winnow.stages.cuts.similarity import Cosine
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.pool_field import Field as PoolField
from winnow.stages.survivors import Survivors

_PART_ROWS = 2_000_000  # samples of one part of the exchange: about 60 bytes each


@dataclass(frozen=True)
class GroupValues:
    """What orders the samples of a group, highest first."""

    survivors: Survivors
    field: PoolField | None
    similarity: str | None
    keep: str
    seed: int

    def of(self, item: ShardItem) -> np.ndarray:
        """The value of every row (n,), in reversed order if the lowest stay; a hash if no value is asked for."""
        if self.field is not None:
            return ranked_last(self.field, item.index, self.keep == "lowest")
        if self.similarity is not None:
            value = Cosine(self.survivors, self.similarity).rows(item).value
        else:
            return -hash_values(self.survivors.uids(item.index), self.seed)  # the lowest hashes stay
        return reversed_order(value) if self.keep == "lowest" else value


@dataclass(frozen=True)
class CapStage:
    """Keeps the first `most` samples of each group; those of one group meet in a part of an exchange.

    A group of millions would not fit there: such giants are few, so keep_top ranks them.
    """

    survivors: Survivors
    groups: Artifact
    values: GroupValues
    most: int
    missing: str
    name: ClassVar[str] = "cap"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard: `kept`, `group`, `size` of the group, and `value`."""
        report = self.groups.done()
        if report is None:
            raise AccountingError(f"{self.groups.name} must be finished before its groups are capped")
        giants: Thresholds | None = None
        if giant := cast(int, report["giants"]):
            giants = select(run, _Giants(self), np.full(giant, self.most, np.int64), f"{self.name}: giants")
        parts = max(1, -(-self.survivors.count() // _PART_ROWS))
        return funnel(run.exchange(_First(self, out, parts, giants), self.name, out))


@dataclass(frozen=True)
class _Giants:
    stage: CapStage

    @property
    def survivors(self) -> Survivors:
        return self.stage.survivors

    def rows(self, item: ShardItem) -> Rows:
        giant = column(self.stage.groups.read(item.index, ["giant"]), "giant", null=-1).astype(np.int32)
        return Rows(self.stage.values.of(item), giant, self.survivors.uids(item.index), item.index)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        del item, rows
        return {}


@dataclass(frozen=True)
class _First:
    """The first samples of each group that is too large and no giant."""

    stage: CapStage
    out: Artifact
    parts: int
    giants: Thresholds | None

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        groups = self.stage.groups.read(item.index, ["number", "giant"])
        number = np.where(np.asarray(groups["giant"].is_null()), column(groups, "number", null=-1), -1)
        at = np.flatnonzero(number >= 0)
        uids = self.stage.survivors.uids(item.index)
        keys = order_keys(self.stage.values.of(item)[at], uids[at], item.index, at)
        best = _first(number[at], keys, self.stage.most)  # no other row of this shard can be among the first of all
        at, keys = at[best], keys[best]
        kind = pa.binary(keys.dtype.itemsize)
        packed = pa.FixedSizeBinaryArray.from_buffers(kind, len(keys), [None, pa.py_buffer(np.ascontiguousarray(keys))])
        columns = {"group": number[at], "key": packed, "shard": np.full(len(at), item.index), "row": at}
        table = pa.table(columns)
        return split_table(table, number[at] % self.parts)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        del part
        table = pa.concat_tables(tables)
        packed = table["key"].combine_chunks()
        width = packed.type.byte_width
        keys = np.frombuffer(packed.buffers()[1], f"S{width}", len(packed), width * packed.offset)
        best = np.flatnonzero(_first(column(table, "group"), keys, self.stage.most))
        shard, row = column(table, "shard")[best], table["row"].take(pa.array(best))
        return {index: pa.table({"row": row.take(pa.array(rows))}) for index, rows in split_rows(shard)}

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        stage = self.stage
        before, groups = stage.survivors.mask(item.index), stage.groups.read(item.index)
        named, free = np.asarray(groups["group"].is_valid()), np.asarray(groups["number"].is_null())
        after = before & free & (named | (stage.missing == "keep"))
        for table in tables:
            after[column(table, "row")] = True
        values = stage.values.of(item)
        if self.giants is not None:
            after |= kept(_Giants(stage).rows(item), self.giants)
        value = pc.if_else(pa.array(before), pa.array(values), pa.scalar(None, pa.array(values).type))
        columns = {"group": groups["group"], "size": groups["size"], "value": value}
        return write_kept(self.out, item, before, after, columns)


def _first(group: np.ndarray, keys: np.ndarray, most: int) -> np.ndarray:
    """Which rows are among the first `most` of their group by key: bool (n,)."""
    order = np.lexsort((keys, group))
    ordered = group[order]
    new = np.r_[True, ordered[1:] != ordered[:-1]][: len(order)]
    starts = np.flatnonzero(new)
    rank = np.arange(len(order)) - starts[np.cumsum(new) - 1]
    found = np.zeros(len(order), bool)
    found[order[rank < most]] = True
    return found
