"""The cut `coverage` (CCS): takes the same number of samples from every range of a score."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact, read_table, write_table
from winnow.pipeline.columns import column
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.keep_top import Rows, Thresholds, kept
from winnow.pipeline.order import reversed_order
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.pipeline.storage import Files
from winnow.pipeline.sums import Sums, dense, merge_sums
from winnow.stages.cuts.contract.explained import Asked, Explained, at_least, at_most
from winnow.stages.cuts.contract.findings import Findings, unless_equal, violated
from winnow.stages.cuts.contract.finished import Contents, CutRows, FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.orders import Ranking, Standings, by_group, by_its_quotas, in_order
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.contract.source import Source
from winnow.stages.cuts.cut import Amount, Cut, Number, Of
from winnow.stages.cuts.keeping import funnel, keep_by_quota, one_group, select
from winnow.stages.cuts.score import Joined, join_of, joined_value
from winnow.stages.cuts.similarity import Cosine, stored_cosine
from winnow.stages.kernels.strata import Extent, budgets, edges_of, stratum_of
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.pools.sample_names import Names
from winnow.stages.survivors import Survivors

STRATA = "strata.parquet"


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True))
class Coverage(Cut):
    """Coverage-centric selection (Zheng et al. 2022, arXiv 2210.15809): every range of a score stays represented.

    The score is the image-text cosine of encoder `by`, or a column of parquet files: from, column, uid, key, shard and
    missing, as in `score`. hardest: which end of the score is hard, the lowest (cosine, AUM) or the highest (EL2N).
    beta: share of the samples that is dropped first, from the hard end; the paper tunes it. strata: number of ranges of
    equal width over the rest. Exactly one of fraction and count.
    """

    by: str | None = None
    column: str | None = None
    source: Files | None = Field(default=None, alias="from")
    uid: str = "uid"
    key: str | None = None
    shard: str | None = None
    missing: Literal["error", "drop"] = "error"
    hardest: Literal["lowest", "highest"] = "lowest"
    beta: float = Field(default=0.0, ge=0, le=1)
    strata: int = Field(default=50, ge=1, le=1 << 20)
    fraction: float | None = None
    count: int | None = None
    of: Of = "survivors"
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    kind: ClassVar[str] = "coverage"

    def __post_init__(self) -> None:
        self.amount()
        joined = self.source is not None and self.column is not None
        alone = self.source is None and self.column is None
        if not (alone if self.by is not None else joined):
            raise JobError(
                "coverage needs a score: by (an encoder), or both from and column (of parquet files), got by = "
                f"{self.by}, from = {self.source}, column = {self.column}"
            )

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, None, self.of)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The join, if the score comes from the user's files, then one stage. No vector is read."""
        options = _Options(self.hardest, self.beta, self.strata, self.seed)
        if self.by is not None:
            return [CoverageStage(survivors, Cosine(survivors, self.by), self.amount(), options)]
        source, name = cast(str | tuple[str, ...], self.source), cast(str, self.column)
        join = join_of(survivors, source, name, Names.of(survivors, self.uid, self.key, self.shard), self.missing)
        values = Joined(survivors, artifact_of(join, store), "highest")
        return [join, CoverageStage(survivors, values, self.amount(), options)]

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "Drops the hardest samples, and samples the rest evenly over all ranges of the score."
        value = ("value", "your score") if self.by is None else ("cosine", "image-text cosine")
        return Shown(about, *value)

    @property
    def _score(self) -> str:
        """The column with its score."""
        return "value" if self.by is None else "cosine"

    def check(self, given: Given) -> None:
        """See Cut.check; the cosine of `by` needs text."""
        super().check(given)
        if self.by is not None:
            given.check_text(self.kind, self.by)

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain: the sample's rank by hash in its stratum, or that it was among the hardest."""
        stratum, value, high = asked.values["stratum"], asked.values[self._score], self.hardest == "highest"
        if stratum is None:  # beta ranks the easiest first: the lowest first if the highest are the hardest
            limit = (at_most if high else at_least)(self._score, value, asked.last(high, ranking=1))
            return Explained((limit,), {"note": f"among the hardest {self.beta:.0%}, which beta drops"})
        [row] = read_table(asked.cut.artifact.meta(STRATA)).slice(stratum, 1).to_pylist()
        note = "a hash of the uid draws in a stratum"
        return Explained(facts={**row, **asked.rank_facts("stratum_"), "note": note})

    def contents(self) -> Mapping[str, Contents]:
        """See Cut.contents."""
        return {self.kind: Contents(beside=(STRATA,))}

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again: the score, and the stratum of every sample that `beta` left."""
        found = joined_value(cut, item, "scores") if self.by is None else stored_cosine(cut, item, self.by)
        strata = read_table(cut.artifact.meta(STRATA))
        ends = np.concatenate([column(strata, "low"), column(strata, "high")])
        ease = np.asarray(found[self._score].fill_null(0))
        if self.hardest == "highest":
            ends, ease = reversed_order(ends), reversed_order(ease)
        left = np.asarray(cut.artifact.read(item.index, ["stratum"])["stratum"].is_valid())
        stratum = np.zeros(len(left), np.int32)
        stratum[left] = stratum_of(ease[left], ends.min().item(), ends.max().item(), len(strata))
        return {**found, "stratum": pa.array(stratum, mask=~left)}

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterator[Ranking]:
        """See Cut.rankings: in each stratum by hash; then all samples, the easiest first, of which `beta` kept some."""
        stratum = column(rows.table, "stratum", null=-1)
        yield Ranking(hash_values(rows.uids, self.seed), np.where(rows.before, stratum, -1), rows.kept)
        ease, there = rows.numbers(self._score, self.hardest == "highest")
        yield Ranking(ease, one_group(rows.before & there), stratum >= 0)

    def laws(self, cut: FinishedCut, run: Run, standings: Sequence[Standings]) -> Findings:
        """See Cut.laws: `beta` drops its share of all samples, and each stratum keeps its budget."""
        strata, left = standings
        came, stayed = int(left.size.sum()), int(left.kept.sum())
        found = in_order(cut, run, standings) + by_its_quotas(cut, STRATA, strata)
        found += unless_equal(f"{cut.name}: what beta leaves of {came}", came - int(self.beta * came), stayed)
        table = read_table(cut.artifact.meta(STRATA))
        size, wanted = column(table, "size"), self.amount().number(cut.before)
        if int(size.sum()) != stayed:
            return found + violated(f"{cut.name}: {STRATA} must hold {stayed} samples, but holds {size.sum()}")
        return found + by_group(cut, STRATA, table, strata, budgets(size, min(wanted, stayed)))


@plain_dataclass(frozen=True)
class _Options:  # this name is in the fingerprint of the stage
    hardest: Literal["lowest", "highest"]
    beta: float
    strata: int
    seed: int


@plain_dataclass(frozen=True)
class CoverageStage:
    """Drops the hardest samples, then keeps the budget of each stratum by a hash of the uid."""

    survivors: Survivors
    scores: Cosine | Joined
    amount: Amount
    options: _Options
    name: ClassVar[str] = "coverage"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """Eight passes over the score: count, two for beta, range, sizes, two for the budgets, one that commits."""
        options = self.options
        ease = _Ease(self.survivors, self.scores, options.hardest == "highest")
        all_in = _extent(run, ease, "coverage: count").rows
        dropped = int(options.beta * all_in)
        left = _Left(ease, select(run, ease, np.array([all_in - dropped], np.int64), "coverage: beta"))
        extent = _extent(run, left, "coverage: range")
        low, high = extent.ends.tolist() or (0.0, 0.0)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(f"coverage: scores must be finite, got {low} to {high}; drop the other samples first")
        parts = _Strata(left, low, high, options.strata, options.seed)
        [size] = dense(run.reduce(_StratumSizes(parts), merge_sums, run.items, "coverage: strata"), options.strata)
        wanted = self.amount.number(self.survivors)
        quota = budgets(size, min(wanted, extent.rows))
        write_table(out.meta(STRATA), _table(parts, extent.ends.dtype, size, quota))
        totals = keep_by_quota(run, out, parts, quota, self.name)
        return funnel(totals, asked=wanted, hardest=dropped, strata=int((size > 0).sum()))


def _extent(run: Run, source: Source, label: str) -> Extent:
    """The extent of the values of all shards."""
    whole = Extent(0, np.empty(0, np.float32))
    return sum(run.reduce(_Measure(source), _merge_extents, run.items, label), whole)


def _merge_extents(parts: Sequence[Extent]) -> Extent:
    return sum(parts[1:], parts[0])


def _table(parts: "_Strata", value: np.dtype, size: np.ndarray, quota: np.ndarray) -> pa.Table:
    """One row per stratum, the hardest first. low and high are values of the score, not in reversed order."""
    ends = np.full((parts.strata, 2), np.nan)
    if size.any():
        edges = edges_of(value, parts.low, parts.high, parts.strata)
        edges = reversed_order(edges) if parts.left.ease.reverse else edges
        ends = np.stack([edges[:-1], edges[1:]], axis=1)
    return pa.table(
        {
            "stratum": pa.array(np.arange(parts.strata, dtype=np.int32)),
            "low": pa.array(ends.min(axis=1)),
            "high": pa.array(ends.max(axis=1)),
            "size": pa.array(size),
            "quota": pa.array(quota),
        }
    )


@plain_dataclass(frozen=True)
class _Measure:
    source: Source

    def __call__(self, item: ShardItem) -> Extent:
        rows = self.source.rows(item)
        value = rows.value[rows.group >= 0]
        return Extent.of(value)


@plain_dataclass(frozen=True)
class _StratumSizes:
    parts: "_Strata"

    def __call__(self, item: ShardItem) -> Sums:
        group = self.parts.rows(item).group
        return Sums.of(group[group >= 0])


@plain_dataclass(frozen=True)
class _Ease:
    """The score, its order reversed if the highest are the hardest: one group, the easiest first."""

    survivors: Survivors
    scores: Source
    reverse: bool

    def rows(self, item: ShardItem) -> Rows:
        rows = self.scores.rows(item)
        return replace(rows, value=reversed_order(rows.value)) if self.reverse else rows

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        return self.scores.columns(item, self.scores.rows(item))


@plain_dataclass(frozen=True)
class _Left:
    """The samples that beta leaves. The hardest are in no group."""

    ease: _Ease
    easiest: Thresholds

    @property
    def survivors(self) -> Survivors:
        return self.ease.survivors

    def rows(self, item: ShardItem) -> Rows:
        rows = self.ease.rows(item)
        return replace(rows, group=np.where(kept(rows, self.easiest), 0, -1).astype(np.int32))

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        return self.ease.columns(item, rows)


@plain_dataclass(frozen=True)
class _Strata:
    """Value: a hash of the uid. Group: the stratum, 0 is the hardest."""

    left: _Left
    low: Number
    high: Number
    strata: int
    seed: int

    @property
    def survivors(self) -> Survivors:
        return self.left.survivors

    def rows(self, item: ShardItem) -> Rows:
        rows = self.left.rows(item)
        at = np.flatnonzero(rows.group >= 0)
        group = np.full(len(rows.group), -1, np.int32)
        group[at] = stratum_of(rows.value[at], self.low, self.high, self.strata)
        return replace(rows, value=hash_values(rows.uid, self.seed), group=group)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        stratum = pa.array(rows.group, mask=rows.group < 0)
        return {**self.left.columns(item, rows), "stratum": stratum}
