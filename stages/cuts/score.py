"""The cut `score`: keeps samples by a column from another program, joined by uid, or by a field of the pool."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import DataError, FailedShards, JobError
from winnow.pipeline.exchange.work import numbered
from winnow.pipeline.keep_top import Rows
from winnow.pipeline.order import reversed_order
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Cut, Number, Of
from winnow.stages.cuts.fields.value import FieldValue
from winnow.stages.cuts.keeping import Ranked, one_group
from winnow.stages.cuts.scores.score_files import ScorePart, ToParts, check_columns, one_number_type
from winnow.stages.cuts.scores.score_join import ScoreJoin, Told
from winnow.stages.growth import Growth, Once
from winnow.stages.pools.sample_names import Names
from winnow.stages.survivors import Survivors

_PART_ROWS = 2_000_000  # of samples and scores, which one part of the exchange holds: 40 bytes each


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True))
class Score(Cut):
    """Keep samples by a field of the pool, or by a column of parquet files from another program.

    field: the name of a field of numbers, in place of from and column.
    from: parquet files (glob, folder, list). column: the value, of any number type, no NaN; it is ordered in its own
    type. uid: the column of uids: 32 hex digits, UUIDs or 16 bytes, or values of the column that pool.uid names. key:
    the column of keys, in place of uid; shard: the column of their shards, if keys repeat. Each name must occur once.
    keep: the highest or the lowest values. missing: whether a sample without a value is an error, or is dropped.
    Exactly one of fraction, count, threshold (the value must be beyond it).
    Rows and samples meet by a shuffle: a worker holds a part of them.
    """

    field: str | None = None
    column: str | None = None
    source: storage.Files | None = Field(default=None, alias="from")
    uid: str = "uid"
    key: str | None = None
    shard: str | None = None
    keep: Literal["highest", "lowest"] = "highest"
    missing: Literal["error", "drop"] = "error"
    fraction: float | None = None
    count: int | None = None
    threshold: Number | None = None
    of: Of = "survivors"
    kind: ClassVar[str] = "score"

    def __post_init__(self) -> None:
        self.amount()
        given = [name for name in ("field", "column", "source") if getattr(self, name) is not None]
        if given not in (["field"], ["column", "source"]):
            raise JobError(
                f"score needs a value: field (of the pool), or both from and column (of parquet files), got field = "
                f"{self.field}, from = {self.source}, column = {self.column}"
            )

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, self.threshold, self.of, self.keep == "lowest")

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The join, unless the value is a field; then one stage with one group."""
        if self.field is not None:
            value = FieldValue(survivors, survivors.field_named(self.field), self.keep, self.missing)
            return [Ranked(self.kind, value, survivors, self.amount())]
        names = Names.of(survivors, self.uid, self.key, self.shard)
        join = join_of(survivors, cast(storage.Files, self.source), cast(str, self.column), names, self.missing)
        values = Joined(survivors, artifact_of(join, store), self.keep)
        return [join, Ranked(self.kind, values, survivors, self.amount())]

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "Samples stay by a score that another program made."
        label = "your score"
        if self.field is not None:
            about, label = "Samples stay by a field of the pool.", self.field
        return Shown(about, "value", label, lowest=self.keep == "lowest")

    def check(self, given: Given) -> None:
        """See Cut.check: the field must be one of the pool."""
        if self.field is not None:
            given.check_field("score.field", self.field)

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again."""
        if self.field is not None:
            return {"value": cut.before.field_named(self.field).read(item.index)}
        return joined_value(cut, item, "scores")


def join_of(
    survivors: Survivors,
    source: str | tuple[str, ...],
    column: str,
    names: Names,
    missing: Literal["error", "drop"],
    name: str = "scores",
) -> "JoinStage":
    """The join with a user's files. It lists them, because a changed file must make another artifact.

    name: of the stage, for a cut with several joins.
    """
    patterns = (source,) if isinstance(source, str) else source
    files = storage.identify(storage.expand(patterns, ".parquet"))
    return JoinStage(survivors, tuple(files), column, names, missing, name)


def joined_value(cut: FinishedCut, item: ShardItem, stage: str) -> Mapping[str, pa.Array]:
    """Column `value` of every row of a shard, from a stage that prepares the cut."""
    return {"value": cut.prepared[stage].read(item.index, ["value"])["value"]}


@plain_dataclass(frozen=True)
class JoinStage:
    """One pass that writes the user's value for every row in its own type, null if there is none."""

    survivors: Survivors
    files: tuple[storage.Identity, ...]
    column: str
    names: Names
    missing: str
    name: str = field(default="scores", metadata={"fingerprint": False})  # it is in the fingerprint of every stage
    version: ClassVar[int] = 2

    def look(self, widths: Mapping[str, int]) -> str:
        """See Looking.look."""
        kind, by = check_columns(self.files[0].url, self.column, self.names), " and ".join(self.names.columns)
        return f"column {self.column}, {kind}, by {by} in {len(self.files):,} file{'s' * (len(self.files) > 1)}"

    def growth(self, label: str, step: str) -> Growth | None:
        """See Growing.growth: the first pass reads the user's files, whatever the pool."""
        return Once() if label == f"{self.name}: files" else None

    def width(self, out: Artifact) -> int:
        """See Growing.width."""
        return 0

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard with the column `value`. Raises DataError if two samples have the same key."""
        self.names.check_distinct(run, self.survivors, out)
        found = dict(run.each(ToParts(self.column, self.names), self.files, f"{self.name}: files"))
        parts = [part for at in range(len(self.files)) for part in found[at]]
        kind = one_number_type(parts, self.column)
        scored = sum(part.scored for part in parts)
        if nan := sum(part.nan for part in parts):
            raise DataError(f"column {self.column} must hold numbers, but {nan} of {scored} are NaN")
        parts = list(numbered(parts, len(run.items)))
        count = max(1, -(-(self.survivors.count() + scored) // _PART_ROWS))
        work = ScoreJoin(self.survivors, self.files, self.column, self.names, kind.str, out, count)
        told = Told()
        totals = run.exchange(work, self.name, out, [told], parts)
        self._check(run, told, parts)
        return {"rows": totals.number("rows"), "missing": totals.number("missing")}

    def _check(self, run: Run, told: Told, parts: Sequence[ScorePart]) -> None:
        """Raises DataError if two rows have one name, FailedShards if a sample has no value and must."""
        if told.smallest is not None:
            name, number, row = told.smallest
            url = parts[number - len(run.items)].url
            raise DataError(
                f"every {self.names.what} must have one value in {self.column}, but {told.repeated} are repeated, "
                f"first {name if self.names.key is None else f'in row {row} of {url}'}"
            )
        if told.missing and self.missing == "error":
            urls = [run.items[index].url for index, _, _ in told.missing]
            messages = [
                f"every sample must have a value in column {self.column}, but {count} of shard {url} have none, first "
                f"{first}; set missing: drop to drop them"
                for url, (_, count, first) in zip(urls, told.missing, strict=True)
            ]
            raise FailedShards(self.name, sorted(zip(urls, messages, strict=True)), len(run.items))


@plain_dataclass(frozen=True)
class Joined:
    """Value: the joined column. Rows without a value are not ranked, so they are dropped."""

    survivors: Survivors
    scores: Artifact
    keep: str

    def rows(self, item: ShardItem) -> Rows:
        """See Source.rows."""
        table = self.scores.read(item.index, ["value"])
        values = column(table, "value", null=0)
        there = ~np.asarray(table["value"].is_null())
        values = values if self.keep == "highest" else reversed_order(values)
        groups = one_group(self.survivors.mask(item.index) & there)
        return Rows(values, groups, self.survivors.uids(item.index), item.index)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """See Source.columns."""
        return {"value": self.scores.read(item.index, ["value"])["value"].combine_chunks()}
