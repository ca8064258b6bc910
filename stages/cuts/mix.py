"""The cut `mix`: keeps the samples with the highest weighted sum of several values, such as several scores."""

import math
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field as plain_field
from functools import partial
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_json, write_json
from winnow.pipeline.columns import column
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.fingerprint import IF_GIVEN
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.stages.cuts.contract.findings import Findings, looked, over, unequal, unless_equal
from winnow.stages.cuts.contract.finished import Check, Contents, FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.contract.source import Source
from winnow.stages.cuts.cut import Amount, Cut, Of
from winnow.stages.cuts.fields.value import FieldValue
from winnow.stages.cuts.keeping import Ranked
from winnow.stages.cuts.score import Joined, join_of
from winnow.stages.cuts.similarity import Cosine
from winnow.stages.kernels.exact_sums import Moments, merge_moments
from winnow.stages.pools.sample_names import Names
from winnow.stages.survivors import Survivors

SCALES = "scales.json"

Normalise = Literal["z", "minmax", "none"]

_Source = Cosine | FieldValue | Joined


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True))
class Part:
    """One value of a mix, and its weight; with a weight below 0 low values are better.

    by: the image-text cosine of this encoder. Or field: a field of the pool, or a column of the job. Or from, column,
    uid, key and shard: a column of parquet files. missing: of the two latter, as in `score`.
    """

    weight: float = 1.0
    by: str | None = None
    column: str | None = None
    source: storage.Files | None = Field(default=None, alias="from")
    uid: str = "uid"
    key: str | None = None
    shard: str | None = None
    missing: Literal["error", "drop"] = "error"
    field: str | None = plain_field(default=None, metadata=IF_GIVEN)

    def __post_init__(self) -> None:
        joined = self.source is not None and self.column is not None
        alone = self.source is None and self.column is None
        own = [name for name in (self.by, self.field) if name is not None]
        if not (alone and len(own) == 1 if own else joined):
            raise JobError(
                "a value of a mix must have one of by (an encoder), field (of the pool), and from with column (of "
                f"parquet files), got by = {self.by}, field = {self.field}, from = {self.source}, "
                f"column = {self.column}"
            )

    def stored(self, survivors: Survivors) -> "Cosine | FieldValue | None":
        """The source of a value that the store has; None for a column of files, which is joined first."""
        if self.field is not None:
            return FieldValue(survivors, survivors.field_named(self.field), "highest", self.missing)
        return None if self.by is None else Cosine(survivors, self.by)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Mix(Cut):
    """Keep the samples of the highest Σ weight · normalised value.

    values: with their weights. normalise: z, (v − mean) / standard deviation; minmax, (v − least) / (greatest −
    least); or none; over the samples that have all values. A value that is the same for all samples counts 0.
    Exactly one of fraction, count and threshold (the sum must be greater). of: the base of the fraction.
    """

    values: tuple[Part, ...]
    normalise: Normalise = "z"
    fraction: float | None = None
    count: int | None = None
    threshold: float | None = None
    of: Of = "survivors"
    kind: ClassVar[str] = "mix"

    def __post_init__(self) -> None:
        self.amount()
        if not self.values:
            raise JobError("mix.values must have at least one value, such as {by: clip, weight: 0.5}, got none")

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, self.threshold, self.of)

    def encoders(self) -> tuple[str, ...]:
        """See Cut.encoders."""
        return tuple(dict.fromkeys(part.by for part in self.values if part.by is not None))

    def check(self, given: Given) -> None:
        """See Cut.check; each encoder must have text vectors."""
        for part in self.values:
            if part.by is not None:
                given.check_encoder(self.kind, part.by)
                given.check_text(self.kind, part.by)
            if part.field is not None:
                given.check_field("mix.values.field", part.field)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """A join for each column of files, the sums of all samples, then the selection. No vector is read."""
        joins: list[Stage] = []
        sources: list[_Source] = []
        for part in self.values:
            if (own := part.stored(survivors)) is not None:
                sources.append(own)
                continue
            names = Names.of(survivors, part.uid, part.key, part.shard)
            files = cast(str | tuple[str, ...], part.source)
            number = f"scores_{len(joins) + 1}"
            join = join_of(survivors, files, cast(str, part.column), names, part.missing, number)
            joins.append(join)
            sources.append(Joined(survivors, artifact_of(join, store), "highest"))
        mixed = MixedStage(survivors, tuple(sources), tuple(part.weight for part in self.values), self.normalise)
        values = Joined(survivors, artifact_of(mixed, store), "highest")
        return [*joins, mixed, Ranked(self.kind, values, survivors, self.amount())]

    def shown(self) -> Shown:
        """See Cut.shown."""
        return Shown("Keeps the samples with the highest weighted sum of several values.", "value", "weighted sum")

    def contents(self) -> Mapping[str, Contents]:
        """See Cut.contents."""
        return {MixedStage.name: Contents(beside=(SCALES,))}

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """See Cut.checks."""
        return {MixedStage.name: check_mixed}

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again: the sums from their values and the stored scales."""
        value, there = mixed_rows(self.sources(cut), self.weights, read_scales(cut.prepared[MixedStage.name]), item)
        return {"value": pa.array(value, mask=~there)}

    @property
    def weights(self) -> tuple[float, ...]:
        """In the order of the values."""
        return tuple(part.weight for part in self.values)

    def sources(self, cut: FinishedCut) -> tuple[Source, ...]:
        """Where the values of a finished cut come from."""
        joins = iter(made for stage, made in cut.prepared.items() if stage != MixedStage.name)
        return tuple(part.stored(cut.before) or Joined(cut.before, next(joins), "highest") for part in self.values)


def check_mixed(cut: FinishedCut, run: Run) -> Findings:
    """Check that the scales follow from the values of all samples, and the sums from both."""
    options, mixed = cast(Mix, cut.options), cut.prepared[MixedStage.name]
    moments = moments_of(run, options.sources(cut), f"verify: {cut.name}")
    found = unless_equal(f"{cut.name}: {SCALES}", scales(moments, options.normalise), read_scales(mixed))
    return found + over(run, partial(_mixed_of, cut), run.items, f"{cut.name}.{MixedStage.name}")


def _mixed_of(cut: FinishedCut, item: ShardItem) -> Findings:
    options, mixed = cast(Mix, cut.options), cut.prepared[MixedStage.name]
    value, there = mixed_rows(options.sources(cut), options.weights, read_scales(mixed), item)
    stored = column(mixed.read(item.index, ["value"]), "value", null=np.inf)  # no sum is infinite
    rows, what = np.flatnonzero(cut.before.mask(item.index)), f"{cut.name}.{MixedStage.name}"
    made = np.where(there, value, np.inf)
    return looked(samples=len(rows)) + unequal(item, what, rows, made[rows], stored[rows], cut.pool.who)


Scale = tuple[float, float]
"""What is subtracted from a value, and what it is divided by; divided by 0 means that the value counts 0."""


def scales(moments: tuple[Moments, ...], normalise: Normalise) -> list[Scale]:
    """The scale of each value."""
    if normalise == "none":
        return [(0.0, 1.0)] * len(moments)
    if normalise == "z":
        return [(found.mean, found.deviation) for found in moments]
    return [(found.low, found.high - found.low) if found.count else (0.0, 0.0) for found in moments]


def moments_of(run: Run, sources: tuple[Source, ...], label: str) -> tuple[Moments, ...]:
    """The moments of each value over the samples that have all of them. Raises DataError for one that is not finite."""
    found = run.reduce(_Measure(sources), merge_moments, run.items, label)
    return merge_moments([tuple(Moments() for _ in sources), *found])


def mixed_rows(
    sources: tuple[Source, ...], weights: tuple[float, ...], scale: list[Scale], item: ShardItem
) -> tuple[np.ndarray, np.ndarray]:
    """Σ weight · (value − subtracted) / divided of every row, float64 (n,), and which rows have all values, bool (n,).

    The terms are added in the order of the job, row by row, so blocks and workers change no bit.
    """
    columns, there = _columns(sources, item)
    total = np.zeros(len(there))
    for values, weight, (less, by) in zip(columns, weights, scale, strict=True):
        if by:
            total += weight * ((values - less) / by)
    return total, there


def read_scales(mixed: Artifact) -> list[Scale]:
    """What MixedStage wrote."""
    found = cast(list[list[float]], read_json(mixed.meta(SCALES))["scales"])
    return [(less, by) for less, by in found]


def _columns(sources: tuple[Source, ...], item: ShardItem) -> tuple[list[np.ndarray], np.ndarray]:
    """The values as float64 (n,) each, 0 where a row has not all of them; and which rows have."""
    rows = [source.rows(item) for source in sources]
    there = np.logical_and.reduce([part.group >= 0 for part in rows])
    columns = [np.where(there, part.value, 0).astype(np.float64) for part in rows]
    for number, values in enumerate(columns):
        if (lost := np.flatnonzero(~np.isfinite(values))).size:
            raise DataError(
                f"values of a mix must be finite, but value {number} of shard {item.url} is {values[lost[0]]} in row "
                f"{lost[0]}; drop such samples first, or give them a number"
            )
    return columns, there


@plain_dataclass(frozen=True)
class _Measure:
    sources: tuple[Source, ...]

    def __call__(self, item: ShardItem) -> tuple[Moments, ...]:
        columns, there = _columns(self.sources, item)
        return tuple(Moments.of(values[there]) for values in columns)


@plain_dataclass(frozen=True)
class _Commit:
    stage: "MixedStage"
    scale: tuple[Scale, ...]
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        value, there = mixed_rows(self.stage.sources, self.stage.weights, list(self.scale), item)
        summary = {"rows": len(value), "missing": int((self.stage.survivors.mask(item.index) & ~there).sum())}
        self.out.write(item.index, pa.table({"value": pa.array(value, mask=~there)}), summary)
        return summary


@plain_dataclass(frozen=True)
class MixedStage:
    """Two passes: the exact mean, deviation and range of each value, then the weighted sum of every sample."""

    survivors: Survivors
    sources: tuple[_Source, ...]
    weights: tuple[float, ...]
    normalise: Normalise
    name: ClassVar[str] = "mixed"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard with the column `value`, float64, null where a sample has not all values; scales.json."""
        found = scales(moments_of(run, self.sources, f"{self.name}: scales"), self.normalise)
        if not all(math.isfinite(number) for scale in found for number in scale):
            raise DataError(f"values of a mix must have finite ranges and deviations, got {found}; scale them first")
        write_json(out.meta(SCALES), {"scales": [list(scale) for scale in found]})
        totals = run.fill(_Commit(self, tuple(found), out), out, self.name)
        return {"rows": totals.number("rows"), "missing": totals.number("missing"), "scales": found}
