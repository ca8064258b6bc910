"""The cut `score`: keeps samples by a column from another program (aesthetic, NSFW, EL2N), joined by uid."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass as plain_dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import DataError
from winnow.pipeline.keep_top import Rows
from winnow.pipeline.order import reversed_order
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.pipeline.uid import uids_to_hex
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Cut, Number, Of
from winnow.stages.cuts.keeping import Ranked, one_group
from winnow.stages.cuts.scores.score_files import ScoreTable, check_columns, load_scores
from winnow.stages.cuts.scores.score_names import Names
from winnow.stages.survivors import Survivors


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True))
class Score(Cut):
    """Keep samples by a column of parquet files from another program.

    from: parquet files (glob, folder, list). column: the value, of any number type, no NaN; it is ordered in its own
    type. uid: the column of uids: 32 hex digits, UUIDs or 16 bytes, or values of the column that pool.uid names. key:
    the column of keys, in place of uid; shard: the column of their shards, if keys repeat. Each name must occur once.
    keep: the highest or the lowest values. missing: whether a sample without a value is an error, or is dropped.
    Exactly one of fraction, count, threshold (the value must be beyond it).
    Every worker holds the whole column: 24 bytes per row of the files.
    """

    column: str
    source: storage.Files = Field(alias="from")
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

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, self.threshold, self.of, self.keep == "lowest")

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The join, then one stage with one group."""
        names = Names.of(survivors, self.uid, self.key, self.shard)
        join = join_of(survivors, self.source, self.column, names, self.missing)
        values = Joined(survivors, artifact_of(join, store), self.keep)
        return [join, Ranked(self.kind, values, survivors, self.amount())]

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "Samples stay by a score that another program made."
        return Shown(about, "value", "your score", lowest=self.keep == "lowest")

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again."""
        return joined_value(cut, item, JoinStage.name)


def join_of(
    survivors: Survivors, source: str | tuple[str, ...], column: str, names: Names, missing: Literal["error", "drop"]
) -> "JoinStage":
    """The join with a user's files. It lists them, because a changed file must make another artifact."""
    patterns = (source,) if isinstance(source, str) else source
    return JoinStage(survivors, tuple(storage.identify(storage.expand(patterns, ".parquet"))), column, names, missing)


def joined_value(cut: FinishedCut, item: ShardItem, stage: str) -> Mapping[str, pa.Array]:
    """Column `value` of every row of a shard, from a stage that prepares the cut."""
    return {"value": cut.prepared[stage].read(item.index, ["value"])["value"]}


@plain_dataclass(frozen=True)
class _JoinScores:
    stage: "JoinStage"
    out: Artifact

    def open(self) -> Callable[[ShardItem], Summary]:
        scores = load_scores([file.url for file in self.stage.files], self.stage.column, self.stage.names)
        return partial(self._join, scores)

    def _join(self, scores: ScoreTable, item: ShardItem) -> Summary:
        survivors = self.stage.survivors
        mask = survivors.mask(item.index)
        values, there = scores.look_up(self.stage.names.of_pool(survivors, item))
        lost = np.flatnonzero(mask & ~there)
        if len(lost) and self.stage.missing == "error":
            raise DataError(
                f"every sample must have a value in column {self.stage.column}, but {len(lost)} of shard {item.url} "
                f"have none, first {self._name(item, int(lost[0]))}; set missing: drop to drop them"
            )
        summary = {"rows": len(mask), "missing": len(lost)}
        self.out.write(item.index, pa.table({"value": pa.array(values, mask=~(mask & there))}), summary)
        return summary

    def _name(self, item: ShardItem, row: int) -> str:
        survivors = self.stage.survivors
        if self.stage.names.key is None:
            return uids_to_hex(survivors.uids(item.index)[row : row + 1])[0]
        return f"key {survivors.table(item.index, ['key'])['key'][row].as_py()}"


@plain_dataclass(frozen=True)
class JoinStage:
    """One pass that writes the user's value for every row in its own type, null if there is none."""

    survivors: Survivors
    files: tuple[storage.Identity, ...]
    column: str
    names: Names
    missing: str
    name: ClassVar[str] = "scores"
    version: ClassVar[int] = 2

    def look(self, widths: Mapping[str, int]) -> str:
        """See Looking.look."""
        kind, by = check_columns(self.files[0].url, self.column, self.names), " and ".join(self.names.columns)
        return f"column {self.column}, {kind}, by {by} in {len(self.files):,} file{'s' * (len(self.files) > 1)}"

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard with the column `value`. Raises DataError if two samples have the same key."""
        self.names.check_distinct(run, self.survivors, out)
        totals = run.fill_task(_JoinScores(self, out), out, self.name)
        return {"rows": totals.number("rows"), "missing": totals.number("missing")}


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
