"""The passes that keep exactly what a cut asks for; they write `kept` and the cut's columns for every row.

A cut is (value, group, quota). Cuts differ in one pure function from the columns of a shard to values and groups: a
`Source`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import scattered
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.keep_top import Merging, Partial, Pass, Rows, Selection, Thresholds, kept, merge
from winnow.pipeline.order import beyond, reversed_order
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.totals import Totals
from winnow.stages.cuts.contract.source import Source
from winnow.stages.cuts.cut import Amount, Number
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.survivors import Survivors

_TOGETHER = 64  # selections that share their passes: each shard returns a few KB for each
_CANDIDATES = 1_000_000  # rows that all selections of a pass gather together: 52 MB
_CELLS = 4_000_000  # counts of all selections that wait to be merged: 64 MB


class Rankings(Protocol):
    """Several orders of one shard's samples, by number; picklable."""

    def rows(self, item: ShardItem, wanted: Sequence[int]) -> Iterator[Rows]:
        """The rows of the shard in each wanted order in turn, so that the shard is read once for all orders."""
        ...


@dataclass(frozen=True)
class _Scan:
    source: Source
    step: Pass

    def __call__(self, item: ShardItem) -> Partial:
        return self.step.scan(self.source.rows(item))


@dataclass(frozen=True)
class _ScanEach:
    """One pass of many selections. steps: (number of the order, pass) of each selection."""

    rankings: Rankings
    steps: tuple[tuple[int, Pass], ...]

    def __call__(self, item: ShardItem) -> list[Partial]:
        wanted = list(dict.fromkeys(number for number, _ in self.steps))
        found: dict[int, Partial] = {}
        for number, rows in zip(wanted, self.rankings.rows(item, wanted), strict=True):
            found |= {at: step.scan(rows) for at, (mine, step) in enumerate(self.steps) if mine == number}
        return [found[at] for at in range(len(self.steps))]


@dataclass(frozen=True)
class _MarkKept:
    """Commits `kept` and the cut's columns of one shard, by exact thresholds or by a rule on the values.

    last: whether the summary has the last kept sample: its value, and the first of its columns.
    """

    source: Source
    keep: Callable[[Rows], np.ndarray]
    out: Artifact
    last: bool = False

    def __call__(self, item: ShardItem) -> Summary:
        rows = self.source.rows(item)
        before = self.source.survivors.mask(item.index)
        after, columns = self.keep(rows), self.source.columns(item, rows)
        more = {"last": _last(rows, after, next(iter(columns.values())))} if self.last else {}
        return write_kept(self.out, item, before, after, columns, **more)


def _last(rows: Rows, after: np.ndarray, shown: pa.Array) -> list[Number] | None:
    at = np.flatnonzero(after)
    if not len(at):
        return None
    lowest = int(at[rows.value[at].argmin()])
    return [rows.value[lowest].item(), shown[lowest].as_py()]


@dataclass(frozen=True)
class _Within:
    thresholds: Thresholds

    def __call__(self, rows: Rows) -> np.ndarray:
        return kept(rows, self.thresholds)


@dataclass(frozen=True)
class _Beyond:
    threshold: Number
    lowest: bool

    def __call__(self, rows: Rows) -> np.ndarray:
        value = reversed_order(rows.value) if self.lowest else rows.value
        found: np.ndarray = (rows.group >= 0) & beyond(value, self.threshold, self.lowest)
        return found


def write_kept(
    out: Artifact,
    item: ShardItem,
    before: np.ndarray,
    after: np.ndarray,
    columns: Mapping[str, pa.Array],
    **more: object,
) -> Summary:
    """Commit one shard's verdicts. before, after: bool (n,), in before and after this cut. more: for its summary."""
    if (after & ~before).any():
        raise AccountingError(
            f"{out.name}, {item.url}: a cut may only drop samples, but it brought back {(after & ~before).sum()}"
        )
    summary = {"rows": len(before), "in": int(before.sum()), "kept": int(after.sum()), **more}
    out.write(item.index, pa.table({"kept": pa.array(after), **columns}), summary)
    return summary


def funnel(totals: Totals, **more: object) -> Summary:
    """The report of a cut from its shards' summaries."""
    came, stayed = totals.number("in"), totals.number("kept")
    return {"in": came, "kept": stayed, "dropped": came - stayed, **more}


def select(run: Run, source: Source, quota: np.ndarray, label: str) -> Thresholds:
    """Exact thresholds for quota int64 (groups,); takes as many passes over the shards as ties need (mostly two)."""
    selection = Selection(quota)
    count = 0
    while (step := selection.next_pass()) is not None:
        count += 1
        selection.absorb(run.reduce(_Scan(source, step), merge, run.items, f"{label} (pass {count})"))
    return selection.thresholds()


def select_each(run: Run, rankings: Rankings, quotas: Sequence[tuple[int, np.ndarray]], label: str) -> list[Thresholds]:
    """Exact thresholds of many selections. A pass reads each shard once for up to 64 of them.

    quotas: (number of the order, int64 (groups,) samples to keep) of each selection. Every 64 selections take as many
    passes as the one that needs most (mostly two or three). Cost: O(n) a pass for every order, and for every selection
    that is not finished. Equal passes, such as the first of one order, are done once.
    """
    found: list[Thresholds] = []
    for first in range(0, len(quotas), _TOGETHER):
        found += _select_together(run, rankings, quotas[first : first + _TOGETHER], f"{label}, from {first}")
    return found


def _select_together(
    run: Run, rankings: Rankings, quotas: Sequence[tuple[int, np.ndarray]], label: str
) -> list[Thresholds]:
    selections = [Selection(quota, max(1, _CANDIDATES // len(quotas))) for _, quota in quotas]
    count = 0
    while steps := {i: step for i, s in enumerate(selections) if (step := s.next_pass()) is not None}:
        count += 1
        # selections of one order often need the same pass; each distinct one is scanned and merged once
        keys = {i: _same(quotas[i][0], step) for i, step in steps.items()}
        distinct = {keys[i]: (quotas[i][0], step) for i, step in steps.items()}
        merging = [Merging(_CELLS // len(distinct)) for _ in distinct]
        task = _ScanEach(rankings, tuple(distinct.values()))
        for partials in run.reduce(task, _merge_each, run.items, f"{label} (pass {count})"):
            for merged, partial in zip(merging, partials, strict=True):
                merged.add(partial)
        results = dict(zip(distinct, (found.merged() for found in merging), strict=True))
        for i, key in keys.items():
            result = results[key]
            selections[i].absorb([] if result is None else [result])
    return [selection.thresholds() for selection in selections]


def _merge_each(parts: Sequence[list[Partial]]) -> list[Partial]:
    return [merge(partials) for partials in zip(*parts, strict=True)]


def _same(number: int, step: Pass) -> tuple[int, bytes, bytes, bool]:
    """A key that is equal for passes with the same result."""
    return number, step.live.tobytes(), step.prefix.tobytes(), step.gather


def keep_by_quota(
    run: Run, out: Artifact, source: Source, quota: np.ndarray, label: str, last: "_Last | None" = None
) -> Totals:
    """Keep exactly min(quota_g, size_g) samples in every group and commit the verdicts.

    last: is told the last kept sample of each shard. Raises AccountingError if another number was kept.
    """
    thresholds = select(run, source, quota, label)
    totals = run.fill(_MarkKept(source, _Within(thresholds), out, last is not None), out, label, [last] if last else [])
    if totals.number("kept") != int(thresholds.count.sum()):
        raise AccountingError(
            f"{out.name}: {int(thresholds.count.sum())} samples must be kept, but {totals.number('kept')} were; "
            f"delete this folder and run again"
        )
    return totals


class _Last:
    """The last kept sample of all shards, from the `last` of their summaries, in any order."""

    def __init__(self) -> None:
        self._found: list[Number] | None = None

    def __call__(self, index: int, summary: Summary) -> None:
        told = cast(list[Number] | None, summary["last"])
        if told is not None:
            self._found = told if self._found is None else min(self._found, told)

    @property
    def shown(self) -> Number | None:
        """Its value as the manifest has it; None if none is kept."""
        return None if self._found is None else self._found[1]


@dataclass(frozen=True)
class Ranked:
    """The stage of a cut with one group: keeps the highest values of all survivors.

    source: the first of its columns is the value as the manifest shows it.
    """

    name: str
    source: Source
    survivors: Survivors
    amount: Amount
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """Two passes for the threshold and one that commits.

        The report's `threshold` is the value of the last kept sample as the manifest has it, None if none is kept.
        """
        last = _Last()
        if self.amount.threshold is not None:
            asked = {}
            keep = _Beyond(self.amount.threshold, self.amount.lowest)
            totals = run.fill(_MarkKept(self.source, keep, out, last=True), out, self.name, [last])
        else:
            asked = {"asked": self.amount.number(self.survivors)}
            quota = np.array([asked["asked"]], np.int64)
            totals = keep_by_quota(run, out, self.source, quota, self.name, last)
        return funnel(totals, **asked, threshold=last.shown)


def value_column(rows: Rows) -> pa.Array:
    """A cut's values for the manifest, null for rows that were out already."""
    at = np.flatnonzero(rows.group >= 0)
    return scattered(rows.value[at], at, len(rows.value))


def one_group(mask: np.ndarray) -> np.ndarray:
    """Group 0 for rows that are in, -1 for the others: int32 (n,)."""
    return np.where(mask, 0, -1).astype(np.int32)


@dataclass(frozen=True)
class UidHash:
    """Value: a hash of the uid. One group."""

    survivors: Survivors
    seed: int

    def rows(self, item: ShardItem) -> Rows:
        """See Source.rows."""
        uids = self.survivors.uids(item.index)
        return Rows(hash_values(uids, self.seed), one_group(self.survivors.mask(item.index)), uids, item.index)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """See Source.columns."""
        return {"hash": value_column(rows)}
