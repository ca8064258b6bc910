"""The cut `cap`: at most so many samples of one group, such as a domain, a language or a licence."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, split_rows
from winnow.pipeline.errors import AccountingError, FailedShards, JobError
from winnow.pipeline.keep_top import Rows, Thresholds, kept
from winnow.pipeline.order import order_keys, reversed_order
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.stages.cuts.contract.explained import Asked, Explained
from winnow.stages.cuts.contract.findings import Findings, looked, over, unequal, unreadable, violated_rows
from winnow.stages.cuts.contract.finished import Check, CutRows, FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.orders import Ranking
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.fields.groups import Counting, GroupStage, groups_of
from winnow.stages.cuts.fields.value import ranked_last
from winnow.stages.cuts.keeping import funnel, select, write_kept
from winnow.stages.cuts.similarity import Cosine
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.pool_field import Field as PoolField
from winnow.stages.survivors import Survivors

_PART_ROWS = 2_000_000  # samples of one part of the exchange: about 60 bytes each


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Cap(Cut):
    """Keep at most `most` samples of each group.

    by: the field of the pool whose equal values are a group. domain: the field is a link, and its registered domain is
    the group. Which samples of a group stay: those of the lowest hash of uid and seed, or those with the highest (keep:
    lowest) value of a field or of the image-text cosine of encoder `similarity`; a sample without a value is last.
    missing: whether a sample without a group stays or goes.
    """

    by: str
    most: int = Field(ge=1)
    domain: bool = False
    field: str | None = None
    similarity: str | None = None
    keep: Literal["highest", "lowest"] = "highest"
    missing: Literal["keep", "drop"] = "keep"
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    kind: ClassVar[str] = "cap"

    def __post_init__(self) -> None:
        if self.field is not None and self.similarity is not None:
            raise JobError("cap must order a group by one of field and similarity, got both")
        if self.keep == "lowest" and self.field is None and self.similarity is None:
            raise JobError("cap.keep must be of a field or a similarity, got keep: lowest alone; name one of the two")

    def encoders(self) -> tuple[str, ...]:
        """See Cut.encoders; `by` is a field."""
        return () if self.similarity is None else (self.similarity,)

    def check(self, given: Given) -> None:
        """See Cut.check: `by` and `field` are fields of the pool, `similarity` an encoder with text."""
        given.check_field("cap.by", self.by)
        if self.field is not None:
            given.check_field("cap.field", self.field)
        if self.similarity is not None:
            given.check_encoder("cap.similarity", self.similarity)
            given.check_text("cap.similarity", self.similarity)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The groups and their sizes, then the cut."""
        groups = GroupStage(survivors, survivors.field_named(self.by), self.domain, self.most)
        values = self._values(survivors)
        return [groups, CapStage(survivors, artifact_of(groups, store), values, self.most, self.missing)]

    def _values(self, survivors: Survivors) -> "_Values":
        field = None if self.field is None else survivors.field_named(self.field)
        return _Values(survivors, field, self.similarity, self.keep, self.seed)

    def shown(self) -> Shown:
        """See Cut.shown."""
        group = "registered domain" if self.domain else self.by
        return Shown(f"At most {self.most:,} samples of each {group} stay.", "size", f"samples of the same {group}")

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain: the group, its size, and the sample's rank in it."""
        if asked.values["group"] is None:
            return Explained(facts={"note": f"it has no {self.by}, so it is in no group"})
        note = f"a group of more than {self.most:,} keeps {self.most:,}"
        return Explained(facts={**asked.rank_facts("group_"), "note": note}, decided=f"its group keeps {self.most:,}")

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again; sizes are counted by a check of the whole pool."""
        groups = groups_of(cut.before.field_named(self.by), self.domain, item.index)
        return {"group": groups, "value": pa.array(self._values(cut.before).of(item))}

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterator[Ranking]:
        """See Cut.rankings: one, in the groups that have too many samples."""
        number = column(cut.prepared[GroupStage.name].read(rows.item.index, ["number"]), "number", null=-1)
        yield Ranking(self._values(cut.before).of(rows.item), np.where(rows.before, number, -1), rows.kept)

    def quotas(self, cut: FinishedCut) -> np.ndarray:
        """See Cut.quotas: the same for all."""
        report = cut.prepared[GroupStage.name].done() or {}
        return np.full(cast(int, report["numbers"]), self.most, np.int64)

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """See Cut.checks."""
        return {"caps": _caps}


def _caps(cut: FinishedCut, run: Run) -> Findings:
    """Sizes are those of a new count; small groups stay whole, and samples without a group as `missing` says."""
    options = cast(Cap, cut.options)
    groups = GroupStage(cut.before, cut.before.field_named(options.by), options.domain, options.most)
    found = over(run, _OthersStay(cut), run.items, "caps")
    try:
        return sum(
            run.exchange_apart(_CountAgain(groups, groups.parts(), cut), run.items, f"verify: {cut.name}"), found
        )
    except FailedShards as error:
        return found + unreadable(error)


@plain_dataclass(frozen=True)
class _CountAgain(Counting):
    cut: FinishedCut

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Findings:
        mask, made = self.columns(item, tables)
        sizes = self.cut.artifact.read(item.index, ["size"]), pa.table(made)
        stored, size = (column(table, "size", null=-1) for table in sizes)
        found = unequal(item, f"{self.cut.name}.size", np.arange(len(mask)), size, stored, self.cut.pool.who)
        return looked(sizes=int(mask.sum())) + found


@plain_dataclass(frozen=True)
class _OthersStay:
    cut: FinishedCut

    def __call__(self, item: ShardItem) -> Findings:
        cut, options = self.cut, cast(Cap, self.cut.options)
        groups = cut.prepared[GroupStage.name].read(item.index, ["group", "number"])
        rows = cut.rows(item)
        free = rows.before & np.asarray(groups["number"].is_null())
        named = np.asarray(groups["group"].is_valid())
        wrong = free & (rows.kept != (named | (options.missing == "keep")))
        return violated_rows(
            item,
            np.flatnonzero(wrong),
            lambda row: f"{cut.pool.who(item, row)}: {cut.name} must leave it as it is, for its group is not capped",
        )


@plain_dataclass(frozen=True)
class _Values:
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


@plain_dataclass(frozen=True)
class CapStage:
    """Keeps the first `most` samples of each group; those of one group meet in a part of an exchange.

    A group of millions would not fit there: such giants are few, so keep_top ranks them.
    """

    survivors: Survivors
    groups: Artifact
    values: _Values
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


@plain_dataclass(frozen=True)
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


@plain_dataclass(frozen=True)
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
        return {part: table.take(pa.array(rows)) for part, rows in split_rows(number[at] % self.parts)}

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
