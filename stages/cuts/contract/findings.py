"""The result of a check: what it looked at, how many violations it found, and the first of them as sentences.

A damaged file can hold any value, so content that a check cannot even read is a violation and never a crash.
"""

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline.errors import DataError, FailedShards
from winnow.pipeline.exchange.work import Exchange
from winnow.pipeline.executors.contract import Item, Reduction, Result, Stateless, Task
from winnow.pipeline.stage import Run, ShardItem

MOST_LISTED = 5
"""How many violations a check describes; it counts all of them."""

Violation = tuple[int, int, str]
"""Shard, row (-1 if there is none), and the sentence. Those first in this order are described."""

_UNREADABLE = (
    pa.ArrowException,
    tarfile.TarError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Findings:
    """looked: what was checked and how many. wrong: number of violations. first: the first of them.

    sums: numbers for the driver to add up and compare. notes: what was not checked, and why; not a violation.
    """

    looked: Mapping[str, int] = field(default_factory=dict)
    wrong: int = 0
    first: tuple[Violation, ...] = ()
    sums: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(
            _added(self.looked, other.looked),
            self.wrong + other.wrong,
            tuple(sorted([*self.first, *other.first])[:MOST_LISTED]),
            _added(self.sums, other.sums),
            tuple(dict.fromkeys([*self.notes, *other.notes])),
        )


def _added(left: Mapping[str, int], right: Mapping[str, int]) -> Mapping[str, int]:
    return {name: left.get(name, 0) + right.get(name, 0) for name in {**left, **right}}


def looked(**counts: int) -> Findings:
    """Findings without a violation: how many of each thing were checked. A `_` in a name becomes a blank."""
    return Findings({name.replace("_", " "): count for name, count in counts.items()})


def violated(*sentences: str) -> Findings:
    """Violations of the job as a whole."""
    return Findings(wrong=len(sentences), first=tuple((-1, -1, text) for text in sentences[:MOST_LISTED]))


def unless_equal(what: str, expected: object, came: object) -> Findings:
    """A violation of the job as a whole if the two differ."""
    return violated(f"{what} must be {expected}, but is {came}") if expected != came else Findings()


def unequal(
    item: ShardItem,
    what: str,
    rows: np.ndarray,
    made: np.ndarray,
    stored: np.ndarray,
    who: Callable[[ShardItem, int], str],
) -> Findings:
    """A violation for each row whose value, computed anew, differs from the stored one.

    rows: (m,). made, stored: (m, …), the values computed anew and those in the file. who: describes a row of the shard.
    """
    differs = made != stored
    at = np.flatnonzero(differs.any(axis=tuple(range(1, differs.ndim))))
    by_row = dict(zip(rows[at].tolist(), at.tolist(), strict=True))

    def say(row: int) -> str:
        one = slice(by_row[row], by_row[row] + 1)  # not the value itself: it may be an object of Python
        [wanted], [seen] = made[one].tolist(), stored[one].tolist()
        return f"{who(item, row)}: {what} must be {wanted!r}, but is {seen!r}"

    return violated_rows(item, rows[at], say)


def violated_rows(item: ShardItem, rows: Sequence[int] | np.ndarray, say: Callable[[int], str]) -> Findings:
    """One violation for each row of a shard. say: the sentence for a row; called for the first rows only."""
    first = tuple((item.index, int(row), f"{item.url}, {say(int(row))}") for row in rows[:MOST_LISTED])
    return Findings(wrong=len(rows), first=first)


def of_shard(item: ShardItem, sentence: str) -> Findings:
    """One violation of a shard as a whole."""
    return Findings(wrong=1, first=((item.index, -1, f"{item.url}: {sentence}"),))


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns what libraries raise on damaged content into a DataError that names `what`."""
    try:
        yield
    except _UNREADABLE as error:
        raise DataError(
            f"{what} must be as its job wrote it, but reading it failed: {type(error).__name__}: {error}"
        ) from error


@dataclass(frozen=True)
class _Reading:
    check: Task[Any, Any]

    def open(self) -> Callable[[Any], Any]:
        return partial(_read, self.check, [])


def _read(check: Task[Any, Any], opened: list[Callable[[Any], Any]], item: Any) -> Any:
    """One item; opened: the function of this worker, once an item could open it: what it opens may be damaged too."""
    with reading(item.url):
        if not opened:
            opened.append(check.open())
        return opened[0](item)


def over(
    run: Run,
    check: Callable[[Item], Result] | Task[Item, Result],
    items: Sequence[Item],
    label: str,
    absorb: Callable[[Result], Findings] | None = None,
    merge: Callable[[Sequence[Result]], Result] | None = None,
) -> Findings:
    """The findings of `check` on every item, as tasks of the executor. An item that cannot be read is a violation.

    check: picklable; a task if a worker keeps something for all of its items. items: each has a `url`.
    absorb: turns a result into Findings in this process; None if it is one.
    merge: makes one result of several; None if they are Findings, which add up.
    """
    found = Findings()
    task = Reduction(_Reading(check if isinstance(check, Task) else Stateless(check)), merge or _merge_findings)
    try:
        for _, result in run.each_task(task, items, f"verify: {label}"):
            if result is not None:
                found += cast(Findings, result) if absorb is None else absorb(result)
    except FailedShards as error:
        found += unreadable(error)
    return found


def met(run: Run, work: Exchange[Item, Findings], items: Sequence[Item], label: str) -> Findings:
    """The findings of an exchange over any items. An item that cannot be read is a violation."""
    try:
        return sum(run.exchange_apart(work, items, f"verify: {label}"), Findings())
    except FailedShards as error:
        return unreadable(error)


def _merge_findings(parts: Sequence[Any]) -> Any:
    return sum(parts, Findings())


def unreadable(error: FailedShards) -> Findings:
    """A violation for each item that failed in every try. A message that does not name its item gets it as a prefix."""
    sentences = [m if item in m else f"{item}: {m}" for item, m in error.failures]
    first = tuple((-1, -1, sentence) for sentence in sentences[:MOST_LISTED])
    return Findings(wrong=len(sentences), first=first)
