"""Runs an exchange as three passes of `map`, and goes on from the pieces that an earlier run left.

    items ──scatter──▶ sent-*.rows ──decide──▶ decided-*.rows ──settle──▶ files of the items, settled-*.json

Rows go through files, so a worker, a node or the driver that is lost costs what was under way. What a worker holds is
bounded by bytes: HELD_BYTES of rows, beside what the work itself takes for one item or one part.
"""

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, cast

import numpy as np

from winnow.pipeline import storage
from winnow.pipeline.artifact import read_json
from winnow.pipeline.errors import AccountingError, FailedShards
from winnow.pipeline.exchange.pieces import Inbox, Piece, gaps, pieces_in, tiling
from winnow.pipeline.exchange.steps import DECIDED, SENT, SETTLED, Decide, Scatter, Settle, Settling, Span
from winnow.pipeline.exchange.work import Exchange
from winnow.pipeline.executors.contract import Executor, Item, Needs, Result, Stateless
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.executors.watching import Measured, Watch, measured
from winnow.pipeline.progress import StageProgress

HELD_BYTES = 640 << 20
"""Rows that a worker gathers before it commits a piece, and that it reads at once.

A worker takes this and the copies that the work makes of one part, about a GB, which machines of 2 GB a core have. It
holds two parts of `duplicates`, 256 MiB of vectors each with their keys. Half of it would be four times the requests:
D bytes are D / HELD pieces, and each is read in D / HELD ranges.
"""

_SPAN = 256  # items at most that a worker takes as one: it loses no more of them, and they are one step of progress
_SPANS = 4  # for each worker, so that all of them end together
_BINS = 4096  # of items in the index of a piece: 32 kB, and as many workers may settle
_LEAST_BYTES = 1 << 20  # of a span of parts: below, each would be some requests for next to nothing
_TRIES = 6  # of both steps: another run that is ahead may remove what this one is about to read


@contextmanager
def folder_apart(executor: Executor, scratch: str, store: str) -> Iterator[str]:
    """A folder of this moment alone, which all workers see: of this machine, where they are its threads.

    Those that killed runs left in the same place are removed first.
    """
    if isinstance(executor, LocalExecutor) and not scratch:
        with storage.scratch_folder() as temporary:
            yield str(temporary)
        return
    parent = storage.join(scratch or store, "scratch")
    storage.remove_abandoned_folders(parent)
    folder = storage.join(parent, uuid.uuid4().hex)
    try:
        yield folder
    finally:
        storage.remove_folder(folder)


def _as_it_is(result: Result) -> Result:
    return result


class Shuffle(Generic[Item, Result]):
    """One exchange over some items.

    folder: URL where the pieces lie, of this very work alone: what is there under their names is believed. recorded:
    whether results, which must be plain JSON then, are left there for a run that goes on. held: see HELD_BYTES.
    """

    def __init__(
        self,
        executor: Executor,
        work: Exchange[Item, Result],
        items: Sequence[Item],
        label: str,
        needs: Needs,
        folder: str,
        recorded: bool = True,
        held: int = HELD_BYTES,
    ) -> None:
        self._executor, self._work, self._items, self._label = executor, work, items, label
        self._needs, self._folder, self._recorded, self._held = needs, folder, recorded, held
        self._settling = Settling.of(len(items), _BINS)
        self._look()

    def results(self, watch: Watch) -> Iterator[tuple[int, Result]]:
        """(index, result) of every item once: of an earlier run, then the others as they come, told to the watchers."""
        settled = set[int]()
        for index, result in self.earlier():
            settled.add(index)
            yield index, result
        if (count := len(self._items)) > len(settled):
            made = self.settle(settled)
            yield from watch.told(made, self._items, count, self._label, len(settled), before=self.prepare)

    def earlier(self) -> Iterator[tuple[int, Result]]:
        """(index, result) of each item that an earlier run has settled."""
        seen = set[int]()
        for piece in self._pieces.get(SETTLED, []) if self._recorded else ():
            for text, result in read_json(piece.url).items():
                if (index := int(text)) not in seen:
                    seen.add(index)
                    yield index, cast(Result, result)

    def prepare(self) -> None:
        """Scatter and decide, as far as no earlier run did. Raises FailedShards where items or parts still fail."""
        tries = 0
        while self._all(DECIDED) is None and not self._settled():
            if (tries := tries + 1) > _TRIES:
                raise AccountingError(f"{self._label}: every part must be decided; delete {self._folder}, run again")
            sent = self._all(SENT)
            try:
                self._scatter() if sent is None else self._decide(sent)
            except FailedShards:
                self._look()
                # another run of the same job that is ahead removes what this one was about to read
                if self._all(DECIDED) is None and (sent is None or self._all(SENT) is not None):
                    raise
            else:
                self._look()
        self._remove(SENT)

    def settle(self, settled: Collection[int] = ()) -> Iterator[tuple[int, Measured[Result]]]:
        """(index, result) of all items as they come, but of those that are `settled`; then rows are removed.

        Call `prepare` before.
        """
        left = set(range(len(self._items))) - set(settled)
        inbox = Inbox(tuple(self._all(DECIDED) or ()), self._settling.bins)
        task = Settle(self._work, self._label, self._folder, self._held, inbox, self._settling, self._recorded)
        spans = [] if self._settled() else self._unsettled(left)
        try:
            for _, results in self._executor.map(Stateless(task), spans, self._label, self._needs):
                for index, result in results:
                    if index in left:
                        left.discard(index)
                        yield index, result
        except FailedShards:
            self._look()
            if not self._settled():  # as above
                raise
        if left:  # another run of the same job has settled these
            for index, other in self.earlier():
                if index in left:
                    yield index, measured(_as_it_is, other)
        self._remove(DECIDED)

    def _look(self) -> None:
        self._pieces = pieces_in(self._folder)

    def _all(self, step: str) -> list[Piece] | None:
        """The pieces of a step, None while some are missing."""
        return tiling(self._pieces.get(step, []), self._work.parts if step == DECIDED else len(self._items))

    def _settled(self) -> bool:
        """Whether the results of all items are there."""
        return self._recorded and tiling(self._pieces.get(SETTLED, []), len(self._items)) is not None

    def _remove(self, step: str) -> None:
        storage.remove([piece.url for piece in self._pieces.get(step, [])])

    def _scatter(self) -> None:
        missing = gaps(self._pieces.get(SENT, []), len(self._items))
        spans = [span for first, stop in missing for span in self._spans(self._items, first, stop, self._size())]
        task = Scatter(self._work, self._label, self._folder, self._held)
        self._run(task, spans, "scatter", len(self._items), "shards")

    def _decide(self, sent: Sequence[Piece]) -> None:
        parts = [f"part {part}" for part in range(self._work.parts)]
        size = sum(piece.size for piece in sent)
        count = min(len(parts), _SPANS * self._executor.workers, -(-size // _LEAST_BYTES))
        missing = gaps(self._pieces.get(DECIDED, []), len(parts))
        each = -(-len(parts) // max(1, count))
        spans = [span for first, stop in missing for span in self._spans(parts, first, stop, each)]
        inbox = Inbox(tuple(sent), len(parts))
        task = Decide(self._work, self._label, self._folder, self._held, inbox, self._settling)
        self._run(task, spans, "decide", len(parts), "parts")

    def _run(
        self, task: Callable[[Span[Any]], None], spans: Sequence[Span[Any]], step: str, count: int, of: str
    ) -> None:
        """One pass of a step before the last, with a progress of its own."""
        label = f"{self._label} ({step})"
        with StageProgress(label, count, count - sum(len(span.items) for span in spans), of=of) as progress:
            for at, _ in self._executor.map(Stateless(task), spans, label, self._needs):
                for _ in spans[at].items:
                    progress.advance()

    def _size(self) -> int:
        """Items of a span: see _SPAN and _SPANS."""
        return max(1, min(_SPAN, -(-len(self._items) // (_SPANS * self._executor.workers))))

    def _spans(self, items: Sequence[Any], first: int, stop: int, size: int) -> Iterator[Span[Any]]:
        for at in range(first, stop, size):
            yield Span(at, tuple(items[at : min(at + size, stop)]))

    def _unsettled(self, left: Collection[int]) -> list[Span[Item]]:
        """Spans of whole bins with all that is left."""
        bins = np.unique(self._settling.bin_of(np.array(sorted(left), np.int64)))
        starts = self._settling.starts
        size = max(1, self._size() * self._settling.bins // max(1, len(self._items)))
        found: list[Span[Item]] = []
        for run in np.split(bins, np.flatnonzero(np.diff(bins) > 1) + 1) if len(bins) else []:
            for at in range(0, len(run), size):
                some = run[at : at + size]
                first, stop = int(starts[some[0]]), int(starts[some[-1] + 1])
                found.append(Span(first, tuple(self._items[first:stop])))
        return found
