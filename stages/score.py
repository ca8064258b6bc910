"""Leaves `score-…/`: a cut on values that another program computed (EL2N, aesthetic, NSFW …), joined by uid."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline import storage
from pipeline.artifact import Artifact, read_schema, read_table
from pipeline.columns import column, places_in
from pipeline.errors import DataError
from pipeline.keep_top import Rows
from pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of, total
from pipeline.uid import uids_from_pairs, uids_to_hex
from stages.cut import Amount, Of, Ranked, one_group
from stages.formats.columns import uids_of
from stages.survivors import Survivors


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True))
class Score:
    """Keep samples by a value column of parquet files that the user brings.

    from: parquet files (glob, brace, list). column: the value, any number type, no NaN. uid: 32 hex digits or 16
    bytes; every uid once. keep: the highest or the lowest values. missing: what a sample without a value is: an
    error, or dropped. Exactly one of fraction, count, threshold (the value must be beyond it).
    Every worker holds the whole column: 20 bytes per row of the files.
    """

    column: str
    source: str | tuple[str, ...] = Field(alias="from")
    uid: str = "uid"
    keep: Literal["highest", "lowest"] = "highest"
    missing: Literal["error", "drop"] = "error"
    fraction: float | None = None
    count: int | None = None
    threshold: float | None = None
    of: Of = "survivors"
    kind: ClassVar[str] = "score"

    def __post_init__(self) -> None:
        self.amount()

    def amount(self) -> Amount:
        """How much to keep, of values whose sign is turned when the lowest stay."""
        sign = 1 if self.keep == "highest" else -1
        threshold = None if self.threshold is None else sign * self.threshold
        return Amount(self.fraction, self.count, threshold, self.of)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The join, then one stage with one group."""
        join = join_of(survivors, self.source, self.column, self.uid, self.missing)
        values = Joined(survivors, artifact_of(join, store), self.keep)
        return [join, Ranked(self.kind, values, survivors, self.amount())]


def join_of(
    survivors: Survivors, source: str | tuple[str, ...], column: str, uid: str, missing: Literal["error", "drop"]
) -> "JoinStage":
    """The join with a user's files; lists them, so that a changed file makes another artifact."""
    patterns = (source,) if isinstance(source, str) else source
    return JoinStage(survivors, tuple(storage.identify(storage.expand(patterns))), column, uid, missing)


def load_scores(files: tuple[str, ...], value: str, uid: str) -> tuple[np.ndarray, np.ndarray]:
    """The value column of all files, sorted by uid: uids (n,) of dtype UID, values float32 (n,).

    Raises DataError for a missing column, a value that is null or NaN, a uid that is not 32 hex digits or 16 bytes,
    and a uid that comes twice.
    """
    uids, values = [], []
    for url in files:
        table = _columns(url, value, uid)
        uids.append(_uids(table[uid], url))
        values.append(column(table, value).astype(np.float32))
    every, scores = np.concatenate(uids), np.concatenate(values)
    if np.isnan(scores).any():
        raise DataError(f"column {value} must hold numbers, but {np.isnan(scores).sum()} of {len(scores)} are NaN")
    order = np.argsort(every)
    every, scores = every[order], scores[order]
    twice = np.flatnonzero(every[1:] == every[:-1])
    if len(twice):
        text = uids_to_hex(every[twice[:1]])[0]
        raise DataError(f"every uid must have one value in {value}, but {len(twice)} come again, first {text}")
    return every, scores


def look_up(uids: np.ndarray, known: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of uids (m,) in a sorted table, known (n,), values (n,): float32 (m,), and which were there, bool (m,)."""
    if not len(known):
        return np.zeros(len(uids), np.float32), np.zeros(len(uids), bool)
    at = places_in(known, uids)
    return values[at], at >= 0


def _columns(url: str, value: str, uid: str) -> pa.Table:
    schema = read_schema(url)
    for name in (value, uid):
        if name not in schema.names:
            raise DataError(f"{url} must have a column {name}, but it has {', '.join(schema.names)}")
    kind = schema.field(value).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{url}: column {value} must hold numbers, but it is {kind}; name another, or cast it")
    return read_table(url, [value, uid])


def _uids(values: pa.ChunkedArray, url: str) -> np.ndarray:
    raw, known = uids_of(values)
    if not known.all():
        first = values[int(np.flatnonzero(~known)[0])].as_py()
        raise DataError(f"{url}: a uid is 32 hex digits or 16 bytes, but {(~known).sum()} are not, first {first!r}")
    pairs = raw.view(">u8")  # (n, 16) bytes -> (n, 2)
    return uids_from_pairs(pairs[:, 0], pairs[:, 1])


@dataclass(frozen=True)
class _Join:
    stage: "JoinStage"
    out: Artifact

    def open(self) -> tuple[np.ndarray, np.ndarray]:
        files = tuple(file.url for file in self.stage.files)
        return load_scores(files, self.stage.column, self.stage.uid)

    def run(self, state: tuple[np.ndarray, np.ndarray], item: ShardItem) -> Summary:
        survivors = self.stage.survivors
        uids, mask = survivors.uids(item.index), survivors.mask(item.index)
        values, there = look_up(uids, *state)
        lost = np.flatnonzero(mask & ~there)
        if len(lost) and self.stage.missing == "error":
            raise DataError(
                f"every sample must have a value in column {self.stage.column}, but {len(lost)} of shard {item.url} "
                f"have none, first {uids_to_hex(uids[lost[:1]])[0]}; set missing: drop to drop them"
            )
        summary = {"rows": len(uids), "missing": len(lost)}
        self.out.write(item.index, pa.table({"value": pa.array(values, mask=~(mask & there))}), summary)
        return summary


@dataclass(frozen=True)
class JoinStage:
    """One pass: the user's value beside every row, null where there is none."""

    survivors: Survivors
    files: tuple[storage.Identity, ...]
    column: str
    uid: str
    missing: str
    name: ClassVar[str] = "scores"
    version: ClassVar[int] = 1

    def run(self, run: Run, out: Artifact) -> Summary:
        """One file per shard with the column `value`."""
        summaries = run.fill(_Join(self, out), out, self.name)
        return {"rows": total(summaries, "rows"), "missing": total(summaries, "missing")}


@dataclass(frozen=True)
class Joined:
    """The joined column as values; rows without one take no part and are dropped."""

    survivors: Survivors
    scores: Artifact
    keep: str

    def rows(self, item: ShardItem) -> Rows:
        """See Source.rows."""
        table = self.scores.read(item.index, ["value"])
        values = column(table, "value", null=0.0)
        there = ~np.asarray(table["value"].is_null())
        values = values if self.keep == "highest" else -values
        groups = one_group(self.survivors.mask(item.index) & there)
        return Rows(values, groups, self.survivors.uids(item.index), item.index)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """See Source.columns."""
        return {"value": self.scores.read(item.index, ["value"])["value"].combine_chunks()}
