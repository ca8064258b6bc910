"""Leaves `coverage-…/`: strata.parquet (a row per range of the score: size, quota), and who stays of each by chance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact, write_table
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.keep_top import Rows, Thresholds, kept
from winnow.pipeline.order import reversed_order
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.pipeline.storage import Files
from winnow.stages.cuts.cut import Amount, Cut, Number, Of, Source, funnel, keep_by_quota, select
from winnow.stages.cuts.score import Joined, join_of
from winnow.stages.cuts.score_names import Names
from winnow.stages.cuts.shown import Shown
from winnow.stages.cuts.similarity import Cosine
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.survivors import Survivors


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True))
class Coverage(Cut):
    """Coverage-centric selection (Zheng et al. 2022, arXiv 2210.15809): every range of a score stays represented.

    The score: by, an encoder whose image-text cosine it is; or from, column, uid, key, shard, missing: parquet files,
    as in `score`. hardest: which end of it is hard, the lowest (cosine, AUM) or the highest (EL2N). beta: share of the
    samples that goes from that end first; the paper tunes it. strata: ranges of equal width over what is left.
    Exactly one of fraction and count.
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
                "coverage needs a score: by (an encoder), or both from and column (of parquet files), but by = "
                f"{self.by}, from = {self.source}, column = {self.column} came"
            )

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, None, self.of)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The join where the score is the user's, then one stage; no vector is read."""
        options = _Options(self.hardest, self.beta, self.strata, self.seed)
        if self.by is not None:
            return [CoverageStage(survivors, Cosine(survivors, self.by), self.amount(), options)]
        source, name = cast(str | tuple[str, ...], self.source), cast(str, self.column)
        join = join_of(survivors, source, name, Names.of(survivors, self.uid, self.key, self.shard), self.missing)
        values = Joined(survivors, artifact_of(join, store), "highest")
        return [join, CoverageStage(survivors, values, self.amount(), options)]

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "The hardest go, and what is left is taken evenly from all ranges of the score."
        value = ("value", "your score") if self.by is None else ("cosine", "image-text cosine")
        return Shown(about, *value)


def stratum_of(value: np.ndarray, low: Number, high: Number, strata: int) -> np.ndarray:
    """Which of `strata` ranges of equal width over [low, high] each value is in: int32 (n,).

    value: (n,) of any dtype that is ordered, in [low, high]. A value on an edge is in the upper range, `high` in the
    last; low = high: all 0.
    """
    if not low < high:
        return np.zeros(len(value), np.int32)
    if value.dtype.kind == "f":
        above = value.astype(np.float64) - low
    else:  # whole numbers of any size: what is above the lowest is below 2^64, whatever their sign
        above = (value.view(np.uint64) - np.uint64(int(low) % (1 << 64))).astype(np.float64)
    at = above / float(high - low) * strata
    return np.minimum(at.astype(np.int32), strata - 1)


def edges_of(value: np.dtype, low: Number, high: Number, strata: int) -> np.ndarray:
    """(strata + 1,): where the ranges of `stratum_of` begin, and where the last one ends; the two ends are exact.

    value: dtype of the values. Of floats the edges are float64; of whole numbers their type, each the next one above
    the edge.
    """
    if value.kind == "f":
        return np.linspace(low, high, strata + 1)
    whole = [int(low) - int(low - high) * number // strata for number in range(strata + 1)]
    return np.array(whole, value)


def budgets(size: np.ndarray, total: int) -> np.ndarray:
    """Samples to keep of each stratum: smallest first, each min(size, remaining // strata that are left).

    size: int64 (s,). total: 0 to Σ size. Returns int64 (s,), Σ = total: small strata stay whole, the others share
    what is left evenly. Equal sizes: the lowest index first. Cost O(s log s).
    Raises DataError for a total that the strata cannot hold.
    """
    if not 0 <= total <= size.sum():
        raise DataError(f"the strata must hold the total, but {total} came and they hold {size.sum()}; ask for less")
    budget = np.zeros(len(size), np.int64)
    remaining = total
    for done, stratum in enumerate(np.argsort(size, kind="stable")):
        budget[stratum] = min(int(size[stratum]), remaining // (len(size) - done))
        remaining -= int(budget[stratum])
    return budget


@plain_dataclass(frozen=True)
class _Options:
    hardest: Literal["lowest", "highest"]
    beta: float
    strata: int
    seed: int


@plain_dataclass(frozen=True)
class CoverageStage:
    """Drops the hardest, then keeps the budget of each stratum by a hash of the uid."""

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
            raise DataError(f"coverage divides a range, so scores must be finite, but {low} to {high} came; mend them")
        parts = _Strata(left, low, high, options.strata, options.seed)
        size = np.zeros(options.strata, np.int64)
        for _, sizes in run.each(_Sizes(parts), run.items, "coverage: strata"):
            size += sizes
        wanted = self.amount.number(self.survivors)
        quota = budgets(size, min(wanted, extent.rows))
        write_table(out.meta("strata.parquet"), _table(parts, extent.ends.dtype, size, quota))
        summaries = keep_by_quota(run, out, parts, quota, self.name)
        return funnel(summaries, asked=wanted, hardest=dropped, strata=int((size > 0).sum()))


@plain_dataclass(frozen=True)
class _Extent:
    """How many rows take part, and their lowest and highest value in their own type; none where there are none."""

    rows: int
    ends: np.ndarray

    def __add__(self, other: "_Extent") -> "_Extent":
        ends = np.concatenate([part.ends for part in (self, other) if len(part.ends)] or [self.ends])
        return _Extent(self.rows + other.rows, _ends(ends))


def _ends(value: np.ndarray) -> np.ndarray:
    return np.array([value.min(), value.max()]) if len(value) else value


def _extent(run: Run, source: Source, label: str) -> _Extent:
    """That of all shards."""
    whole = _Extent(0, np.empty(0, np.float32))
    for _, part in run.each(_Measure(source), run.items, label):
        whole += part
    return whole


def _table(parts: "_Strata", value: np.dtype, size: np.ndarray, quota: np.ndarray) -> pa.Table:
    """One row per stratum, the hardest first; low and high are as the score has them."""
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

    def __call__(self, item: ShardItem) -> _Extent:
        rows = self.source.rows(item)
        value = rows.value[rows.group >= 0]
        return _Extent(len(value), _ends(value))


@plain_dataclass(frozen=True)
class _Sizes:
    parts: "_Strata"

    def __call__(self, item: ShardItem) -> np.ndarray:
        group = self.parts.rows(item).group
        return np.bincount(group[group >= 0], minlength=self.parts.strata)


@plain_dataclass(frozen=True)
class _Ease:
    """The score, its order reversed where the highest are the hardest: one group, the easiest first."""

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
    """Those that beta leaves; the hardest are in no group."""

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
    """A hash of the uid as value and the stratum as group, 0 the hardest."""

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
