"""The contract of a column: a value that winnow computes for every sample, which cuts use like a field of the pool."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa

from winnow.pipeline.adoption import PARTS, adopt
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.fingerprint import canonical, fingerprint
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary
from winnow.pipeline.store.shard_files import FILES
from winnow.stages.cuts.contract.findings import Findings, looked, over, unequal
from winnow.stages.cuts.contract.finished import Contents, Readable
from winnow.stages.cuts.contract.given import Given
from winnow.stages.pool_field import KINDS, VALUE, Field
from winnow.stages.survivors import Survivors

COLUMN = "column"
"""The name of the stage that makes one, and the first part of its label."""


@dataclass(frozen=True)
class Beside:
    """What the stage of a column is laid out beside.

    known: every readable sample, as a Survivors that no cut has seen. recipe: fingerprint of what decides the rows and
    the vectors that the column reads, without the input shards.
    """

    known: Survivors
    recipe: str

    @property
    def reads(self) -> tuple[Artifact, ...]:
        """The artifacts that the column reads: the samples, and the vectors of its encoders."""
        return (self.known.samples, *(made for _, made in self.known.encoded))


class Column:
    """One entry of a job's `columns`: a frozen dataclass with its options, and everything special about its kind.

    kind: its name, which one of its options has too: a job chooses the kind by that option. types: the columns of its
    files; each is bool, int64, float64 or string. A column must define these two and `values`. All else has defaults.
    """

    kind: ClassVar[str]
    types: ClassVar[Mapping[str, pa.DataType]]

    def values(self, known: Survivors, item: ShardItem, rows: np.ndarray) -> Mapping[str, pa.Array]:
        """The values of some rows of one shard, for each of `types` (m,), null where a row has none.

        rows: ascending row numbers, int64 (m,). The value of a row must not depend on the other rows.
        """
        raise NotImplementedError

    def chosen(self) -> str:
        """Which column of its files cuts read under the name that the job gives."""
        return VALUE

    def identity(self) -> object:
        """What decides the values, for the fingerprint. Default: the options as they are.

        A column with an option for a file must return the hash of the file in its place.
        """
        return canonical(self)

    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders whose vectors it reads. Default: option `by`, if it has one."""
        by = getattr(self, "by", None)
        return () if by is None else (by,)

    def check(self, where: str, given: Given) -> None:
        """Raises JobError if the job lacks what the column needs. Default: `encoders` must be encoders of the job."""
        for by in self.encoders():
            given.check_encoder(where, by)

    def look(self, widths: Mapping[str, int]) -> str:
        """What `winnow plan` tells of its own files; "" for nothing. Raises what a run would raise for a bad file.

        widths: numbers of a vector of each encoder, as far as they are known before a run.
        """
        del widths
        return ""

    def stage(self, beside: Beside) -> Stage:
        """The stage that makes it. Default: `values` of every shard, which pools that grow take over."""
        return ColumnStage(self.identity(), beside.reads, self, beside.known, beside.recipe)

    def contents(self) -> Contents:
        """What the artifact of its stage holds. Default: a table for each shard, and what taking over leaves."""
        return Contents(beside=(PARTS, FILES))

    def verify(self, made: "FinishedColumn", run: Run) -> Findings:
        """Check the stored values. Default: those of a sample of rows are the same, computed anew."""
        return over(run, partial(_again, self, made), run.items, made.field.label)


@dataclass(frozen=True)
class FinishedColumn:
    """A column of a finished job. known: every readable sample. pool: who they are, and which of them a check reads."""

    field: Field
    known: Survivors
    pool: Readable


@dataclass(frozen=True)
class ColumnStage:
    """Computes a column shard by shard. identity, reads: what decides it. The name in the job is not in it."""

    identity: object
    reads: tuple[Artifact, ...]
    column: Column = field(metadata={"fingerprint": False})
    known: Survivors = field(metadata={"fingerprint": False})
    recipe_of_rows: str = field(metadata={"fingerprint": False})
    name: ClassVar[str] = COLUMN
    version: ClassVar[int] = 1

    @property
    def recipe(self) -> str:
        """A fingerprint without the shards: artifacts of one recipe have the same values for the same shard."""
        return fingerprint([self.name, self.version, self.identity, self.recipe_of_rows])

    def look(self, widths: Mapping[str, int]) -> str:
        """See Looking.look."""
        return self.column.look(widths)

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard with the columns `types`. Raises DataError for values of another type or length."""
        adopted = adopt(run, out, self.recipe)
        totals = run.fill(_Compute(self, out), out, f"{self.name} {self.column.kind}")
        return {**column_report(self.column, totals.number("rows"), totals.number("null")), "adopted": adopted}


def column_report(column: Column, rows: int, nulls: int) -> Summary:
    """The report of a column's stage. nulls: rows without a value."""
    notes = [f"{nulls:,} of {rows:,} samples have no value"] if nulls else []
    return {"rows": rows, "null": nulls, "types": {name: str(kind) for name, kind in column.types.items()}} | (
        {"notes": notes} if notes else {}
    )


@dataclass(frozen=True)
class _Compute:
    stage: ColumnStage
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        rows = np.arange(self.stage.known.samples.read(item.index, ["position"]).num_rows)
        found = checked(self.stage.column, item, self.stage.known, rows)
        summary: Summary = {"rows": len(rows), "null": found[next(iter(self.stage.column.types))].null_count}
        self.out.write(item.index, pa.table(found), summary)
        return summary


def checked(column: Column, item: ShardItem, known: Survivors, rows: np.ndarray) -> dict[str, pa.Array]:
    """`values` in the order of `types`. Raises DataError unless each has the type and the length that it must have."""
    found = column.values(known, item, rows)
    for name, kind in column.types.items():
        if name not in found or found[name].type != kind or len(found[name]) != len(rows):
            came = f"{found[name].type} of {len(found[name])} rows" if name in found else f"only {', '.join(found)}"
            raise DataError(
                f"{item.url}: column {column.kind} must give {name}, {kind} of {len(rows)} rows, got {came}; "
                "correct its values"
            )
    return {name: found[name] for name in column.types}


def check_kind(name: str, found: object) -> str | None:
    """Why an object cannot be a column of that name; None if it can. For kinds.py."""
    if not (isinstance(found, type) and issubclass(found, Column)):
        return "must be a dataclass that inherits winnow.stages.columns.column.Column"
    if getattr(found, "kind", None) != name:
        return f"must have the name of its entry point as kind, got {getattr(found, 'kind', None)!r}"
    if name not in getattr(found, "__dataclass_fields__", {}):
        return f"must be a dataclass with an option {name}, because a job chooses it by that"
    wrong = [str(kind) for kind in getattr(found, "types", {}).values() if kind not in KINDS.values()]
    return f"must have types among {', '.join(KINDS)}, got {', '.join(wrong)}" if wrong else None


def _again(column: Column, made: FinishedColumn, item: ShardItem) -> Findings:
    rows = made.pool.sampled(item.index)
    try:
        values = checked(column, item, made.known, rows)
    except JobError as error:  # a file of the user that is gone; the values may be right all the same
        return Findings(notes=(f"{made.field.label}: its values are not checked: {error}",))
    stored = made.field.made.read(item.index).take(pa.array(rows))
    found = looked(column_values=len(rows))
    for name, anew in values.items():
        wanted, seen = (np.array(one.to_pylist(), object) for one in (anew, stored[name]))
        found += unequal(item, f"{made.field.label}.{name}", rows, wanted, seen, made.pool.who)
    return found
