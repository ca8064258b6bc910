"""The three steps of an exchange, as a worker does them on some items or parts: scatter, decide, settle.

Each leaves pieces (pieces.py), and begins where an earlier try, which may have been killed, left off.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.columns import split_rows
from winnow.pipeline.errors import SpanError, WinnowError
from winnow.pipeline.exchange.pieces import Inbox, Mail, Outbox, piece_url, pieces_in, stops_of
from winnow.pipeline.exchange.work import Exchange
from winnow.pipeline.executors.contract import Item, Result, item_name
from winnow.pipeline.executors.retries import failure
from winnow.pipeline.executors.watching import Measured, measured
from winnow.pipeline.storage.s3_object import one_version

SENT, DECIDED, SETTLED = "sent", "decided", "settled"
"""What the pieces of each step are called."""

_ITEM = "__item"  # the column that says whose the rows of a decision are


@dataclass(frozen=True)
class Span(Generic[Item]):
    """Some items or parts that lie side by side, as one item of work. first: the number of the first of `items`."""

    first: int
    items: tuple[Item, ...]

    @property
    def stop(self) -> int:
        """The number after the last."""
        return self.first + len(self.items)

    @property
    def url(self) -> str:
        """What an error calls it."""
        first, last = item_name(self.items[0]), item_name(self.items[-1])
        return first if len(self.items) == 1 else f"{first} to {last}"

    def named(self) -> Iterator[tuple[int, Item]]:
        """(number, item) of each."""
        return enumerate(self.items, self.first)


class _Failures:
    """The items of one span that failed: the others go on, and then all of these are told."""

    def __init__(self) -> None:
        self._errors: list[tuple[str, Exception]] = []

    def add(self, item: object, error: Exception) -> None:
        """Note an item that failed. Raises the error where no other item can do better."""
        failure(item_name(item), error)
        self._errors.append((item_name(item), error))

    def close(self) -> None:
        """Raises SpanError where some failed."""
        if self._errors:
            raise SpanError(self._errors) from self._errors[0][1]


@dataclass(frozen=True)
class Settling:
    """How items receive what is decided on them: in so many bins of neighbours, for the index of a piece has each bin.

    starts: int64 (bins + 1,), the first item of each.
    """

    starts: np.ndarray

    @classmethod
    def of(cls, items: int, most: int) -> "Settling":
        """Bins of as many items each, as nearly as possible."""
        bins = max(1, min(items, most))
        return cls(np.arange(bins + 1) * items // bins)

    @property
    def bins(self) -> int:
        """How many."""
        return len(self.starts) - 1

    def bin_of(self, items: np.ndarray) -> np.ndarray:
        """The bin of each item: int64 (n,)."""
        found: np.ndarray = np.searchsorted(self.starts, items, side="right") - 1
        return found


@dataclass(frozen=True)
class Scatter(Generic[Item]):
    """Sends the rows of some items to the parts; a piece is committed once it has `held` bytes."""

    work: Exchange[Item, Any]
    label: str
    folder: str
    held: int

    def __call__(self, span: Span[Item]) -> None:
        # one item that is tried again has left no piece; the list of a thousand pieces is worth more than an item
        there = _stops(self.folder, SENT) if len(span.items) > 1 else {}
        failures = _Failures()
        box, begun, at = Outbox(self.work.parts), span.first, span.first
        while at < span.stop:
            if at in there:
                self._commit(box, begun, at)
                begun = at = there[at]
                continue
            item = span.items[at - span.first]
            try:
                self._send(item, box)
            except (WinnowError, OSError) as error:
                failures.add(item, error)
                self._commit(box, begun, at)
                begun = at + 1
            at += 1
            if box.held >= self.held:
                self._commit(box, begun, at)
                begun = at
        self._commit(box, begun, at)
        failures.close()

    def _send(self, item: Item, box: Outbox) -> None:
        with one_version():
            tables = self.work.scatter(item)
        for part in tables:
            if not 0 <= part < self.work.parts:
                raise ValueError(
                    f"{self.label}: rows go to a part in [0, {self.work.parts}), got part {part}; fix `scatter`"
                )
        for part, table in tables.items():
            box.add(part, table)

    def _commit(self, box: Outbox, first: int, stop: int) -> None:
        if stop > first:
            box.commit(piece_url(self.folder, SENT, first, stop))


@dataclass(frozen=True)
class Decide:
    """Decides on some parts, of which as many are read together as have `held` bytes; a piece for each such batch."""

    work: Exchange[Any, Any]
    label: str
    folder: str
    held: int
    inbox: Inbox
    settling: Settling

    def __call__(self, span: Span[str]) -> None:
        mail = self.inbox.read(span.first, span.stop)
        batches = mail.batches(self.held)
        there = _stops(self.folder, DECIDED) if len(batches) > 1 else {}
        failures = _Failures()
        for first, stop in batches:
            while first in there:
                first = there[first]
            if first < stop:
                self._decide(mail, span, first, stop, failures)
        failures.close()

    def _decide(self, mail: Mail, span: Span[str], first: int, stop: int, failures: _Failures) -> None:
        """One batch, in a frame of its own: tables that are left in a variable would keep all of its bytes."""
        box, begun = Outbox(self.settling.bins), first
        for part, tables in mail.tables(first, stop):
            try:
                decided = self.work.decide(part, tables) if tables else {}
            except (WinnowError, OSError) as error:
                failures.add(span.items[part - span.first], error)
                self._commit(box, begun, part)
                begun = part + 1
            else:
                self._send(part, decided, box)
                if box.held >= self.held:
                    self._commit(box, begun, part + 1)
                    begun = part + 1
        self._commit(box, begun, stop)

    def _commit(self, box: Outbox, first: int, stop: int) -> None:
        if stop > first:
            box.commit(piece_url(self.folder, DECIDED, first, stop))

    def _send(self, part: int, decided: Mapping[int, pa.Table], box: Outbox) -> None:
        items = np.array(sorted(item for item, table in decided.items() if len(table)), np.int64)
        last = int(self.settling.starts[-1])
        if len(items) and not (items[0] >= 0 and items[-1] < last):
            stray = items[0] if items[0] < 0 else items[-1]
            raise ValueError(
                f"{self.label}: part {part} decides on items in [0, {last}), got item {stray}; fix `decide`"
            )
        for number, at in split_rows(self.settling.bin_of(items)):
            tables = [decided[item] for item in items[at].tolist()]
            of = pa.array(np.repeat(items[at], [len(table) for table in tables]).astype(np.int32))
            # one table a bin, not one an item: a part may decide on a hundred thousand items
            box.add(number, pa.concat_tables(tables).combine_chunks().append_column(_ITEM, of))


@dataclass(frozen=True)
class Settle(Generic[Item, Result]):
    """Settles some items, and commits their results beside the pieces, for a run that goes on after this one.

    recorded: whether to, which takes results that are plain JSON.
    """

    work: Exchange[Item, Result]
    label: str
    folder: str
    held: int
    inbox: Inbox
    settling: Settling
    recorded: bool

    def __call__(self, span: Span[Item]) -> list[tuple[int, Measured[Result]]]:
        bins = self.settling.bin_of(np.array([span.first, span.stop - 1]))
        mail = self.inbox.read(int(bins[0]), int(bins[1]) + 1)
        failures = _Failures()
        results: list[tuple[int, Measured[Result]]] = []
        for first, stop in mail.batches(self.held):
            results += self._settle(mail, span, first, stop, failures)
        failures.close()
        if self.recorded:
            lines = {str(index): found.result for index, found in results}
            url = piece_url(self.folder, SETTLED, span.first, span.stop, "json")
            storage.write_bytes(url, json.dumps(lines, default=_plain).encode())
        return results

    def _settle(
        self, mail: Mail, span: Span[Item], first: int, stop: int, failures: _Failures
    ) -> list[tuple[int, Measured[Result]]]:
        """One batch of bins, in a frame of its own as in Decide."""
        results: list[tuple[int, Measured[Result]]] = []
        for number, tables in mail.tables(first, stop):
            of = _by_item(tables)
            for index in range(*self.settling.starts[number : number + 2].tolist()):
                item = span.items[index - span.first]
                try:
                    results.append((index, measured(self.work.settle, item, of.get(index, []))))
                except (WinnowError, OSError) as error:
                    failures.add(item, error)
        return results


def _by_item(tables: Sequence[pa.Table]) -> dict[int, list[pa.Table]]:
    """The rows of each item, in the order in which they came: by part."""
    found: dict[int, list[pa.Table]] = {}
    for table in tables:
        items, rows = np.asarray(table[_ITEM]), table.drop_columns([_ITEM])
        if (items[1:] < items[:-1]).any():  # rows of several parts, each with its items in order
            order = np.argsort(items, kind="stable")
            items, rows = items[order], rows.take(pa.array(order))
        starts = np.flatnonzero(np.diff(items, prepend=-1)).tolist()
        for first, stop in pairwise([*starts, len(items)]):
            found.setdefault(int(items[first]), []).append(rows.slice(first, stop - first))
    return found


def _stops(folder: str, step: str) -> dict[int, int]:
    return stops_of(pieces_in(folder).get(step, []))


def _plain(value: Any) -> object:
    """A number of numpy as JSON has it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"the result of an item must be plain JSON, got {type(value)}")
