"""The three steps of an exchange in a worker, each for a span of items or parts: scatter, decide, settle.

Each writes pieces (pieces.py), and continues where an earlier try stopped, even one that was killed.
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
"""Names of the pieces of each step."""

_ITEM = "__item"  # column with the item that each row of a decision belongs to


@dataclass(frozen=True)
class Span(Generic[Item]):
    """Consecutive items or parts, as one unit of work. first: the number of the first one in `items`."""

    first: int
    items: tuple[Item, ...]

    @property
    def stop(self) -> int:
        """The number after the last."""
        return self.first + len(self.items)

    @property
    def url(self) -> str:
        """Its name in errors."""
        first, last = item_name(self.items[0]), item_name(self.items[-1])
        return first if len(self.items) == 1 else f"{first} to {last}"

    def named(self) -> Iterator[tuple[int, Item]]:
        """(number, item) of each item."""
        return enumerate(self.items, self.first)


class _Failures:
    """Collects the failed items of a span while the others go on, to raise them together at the end."""

    def __init__(self) -> None:
        self._errors: list[tuple[str, Exception]] = []

    def add(self, item: object, error: Exception) -> None:
        """Add a failed item. Raises its error at once if every other item would fail too."""
        failure(item_name(item), error)
        self._errors.append((item_name(item), error))

    def close(self) -> None:
        """Raises SpanError if items failed."""
        if self._errors:
            raise SpanError(self._errors) from self._errors[0][1]


@dataclass(frozen=True)
class Settling:
    """How items receive decisions: by bins of consecutive items, because the index of a piece has an entry per bin.

    starts: int64 (bins + 1,), the first item of each.
    """

    starts: np.ndarray

    @classmethod
    def of(cls, items: int, most: int) -> "Settling":
        """Bins of nearly equal numbers of items."""
        bins = max(1, min(items, most))
        return cls(np.arange(bins + 1) * items // bins)

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.starts) - 1

    def bin_of(self, items: np.ndarray) -> np.ndarray:
        """The bin of each item: int64 (n,)."""
        found: np.ndarray = np.searchsorted(self.starts, items, side="right") - 1
        return found


@dataclass(frozen=True)
class ScatterTask(Generic[Item]):
    """Sends the rows of some items to the parts; a piece is committed once it has `held` bytes."""

    work: Exchange[Item, Any]
    label: str
    folder: str
    held: int

    def __call__(self, span: Span[Item]) -> None:
        # a single item that is tried again wrote no piece, so listing a thousand pieces would cost more than the item
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
                    f"{self.label}: `scatter` must send rows to parts in [0, {self.work.parts}), got part {part}"
                )
        for part, table in tables.items():
            box.add(part, table)

    def _commit(self, box: Outbox, first: int, stop: int) -> None:
        if stop > first:
            box.commit(piece_url(self.folder, SENT, first, stop))


@dataclass(frozen=True)
class DecideTask:
    """Decides on some parts, in batches of `held` bytes; writes one piece for each batch."""

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
        """Decide on one batch; a function of its own, so that no variable keeps the batch's tables afterwards."""
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
                f"{self.label}: `decide` must answer for items in [0, {last}), but part {part} gave item {stray}"
            )
        for number, at in split_rows(self.settling.bin_of(items)):
            tables = [decided[item] for item in items[at].tolist()]
            of = pa.array(np.repeat(items[at], [len(table) for table in tables]).astype(np.int32))
            # one table per bin, not per item, because a part may decide on a hundred thousand items
            box.add(number, pa.concat_tables(tables).combine_chunks().append_column(_ITEM, of))


@dataclass(frozen=True)
class SettleTask(Generic[Item, Result]):
    """Settles some items. Writes their results next to the pieces, for a run that resumes.

    recorded: whether to write the results; they must then be plain JSON.
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
        """Settle one batch of bins; a function of its own for the reason in DecideTask."""
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
    """The rows of each item, ordered by part."""
    found: dict[int, list[pa.Table]] = {}
    for table in tables:
        items, rows = np.asarray(table[_ITEM]), table.drop_columns([_ITEM])
        if (items[1:] < items[:-1]).any():  # rows of several parts; within a part, items are in order
            order = np.argsort(items, kind="stable")
            items, rows = items[order], rows.take(pa.array(order))
        starts = np.flatnonzero(np.diff(items, prepend=-1)).tolist()
        for first, stop in pairwise([*starts, len(items)]):
            found.setdefault(int(items[first]), []).append(rows.slice(first, stop - first))
    return found


def _stops(folder: str, step: str) -> dict[int, int]:
    return stops_of(pieces_in(folder).get(step, []))


def _plain(value: Any) -> object:
    """A numpy number as a Python number, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"the result of an item must be plain JSON, got {type(value)}")
