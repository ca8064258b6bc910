"""Runs an exchange as three passes of `map`, and resumes from the pieces of an earlier run.

    items ──scatter──▶ sent-*.rows ──decide──▶ decided-*.rows ──settle──▶ files of the items, settled-*.json

Rows go through files, so a lost worker, node or driver costs only the pieces in progress. The memory of a worker is
bounded by bytes: HELD_BYTES of rows, and what the work itself needs for one item or one part.
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
from winnow.pipeline.exchange.steps import DECIDED, SENT, SETTLED, DecideTask, ScatterTask, SettleTask, Settling, Span
from winnow.pipeline.exchange.work import Exchange
from winnow.pipeline.executors.contract import Executor, Item, Needs, Result, Stateless
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.executors.watching import Measured, Watch, measured
from winnow.pipeline.progress import StageProgress

HELD_BYTES = 640 << 20
"""Bytes of rows that a worker gathers before it commits a piece, and that it reads at once.

A worker needs this and the copies that the work makes of one part, about 1 GB, which fits a machine with 2 GB a core.
The bytes hold two parts of `duplicates`, each 256 MiB of vectors with their keys. Half as many bytes would need four
times the requests: D bytes make D / HELD pieces, and each piece is read in D / HELD ranges.
"""

_SPAN = 256  # most items in a span; a worker that dies loses at most one span, and progress counts spans
_SPANS = 4  # spans per worker, so that all workers end at about the same time
_BINS = 4096  # bins of items in the index of a piece: 32 kB; also the most workers that can settle at once
_LEAST_BYTES = 1 << 20  # least size of a span of parts; a smaller one would need several requests for few rows
_TRIES = 6  # tries of both steps, because another run of the job may remove the pieces that this one is about to read


@contextmanager
def folder_apart(executor: Executor, scratch: str, store: str) -> Iterator[str]:
    """A new temporary folder that all workers see; on this machine if they are threads of it.

    First removes the folders that killed runs left in the same place.
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

    folder: URL for the pieces of this work only, because existing pieces are trusted. recorded: whether results are
    stored there for a run that resumes; they must then be plain JSON. held: see HELD_BYTES.
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
        """(index, result) of every item once: first those of an earlier run, then the others; watchers see each."""
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
        """Scatter and decide what no earlier run has done. Raises FailedShards if items or parts fail for good."""
        tries = 0
        while self._all(DECIDED) is None and not self._settled():
            if (tries := tries + 1) > _TRIES:
                raise AccountingError(
                    f"{self._label}: every part must be decided, but one is not; delete {self._folder} and run again"
                )
            sent = self._all(SENT)
            try:
                self._scatter() if sent is None else self._decide(sent)
            except FailedShards:
                self._look()
                # another run of the same job is ahead, and has removed what this one was about to read
                if self._all(DECIDED) is None and (sent is None or self._all(SENT) is not None):
                    raise
            else:
                self._look()
        self._remove(SENT)

    def settle(self, settled: Collection[int] = ()) -> Iterator[tuple[int, Measured[Result]]]:
        """(index, result) of all items except the `settled` ones, in any order; then removes the rows.

        Call `prepare` before.
        """
        left = set(range(len(self._items))) - set(settled)
        inbox = Inbox(tuple(self._all(DECIDED) or ()), self._settling.bins)
        task = SettleTask(self._work, self._label, self._folder, self._held, inbox, self._settling, self._recorded)
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
        """The pieces of a step; None if some are missing."""
        return tiling(self._pieces.get(step, []), self._work.parts if step == DECIDED else len(self._items))

    def _settled(self) -> bool:
        """Whether the results of all items exist."""
        return self._recorded and tiling(self._pieces.get(SETTLED, []), len(self._items)) is not None

    def _remove(self, step: str) -> None:
        storage.remove([piece.url for piece in self._pieces.get(step, [])])

    def _scatter(self) -> None:
        missing = gaps(self._pieces.get(SENT, []), len(self._items))
        spans = [span for first, stop in missing for span in self._spans(self._items, first, stop, self._size())]
        task = ScatterTask(self._work, self._label, self._folder, self._held)
        self._run(task, spans, "scatter", len(self._items), "shards")

    def _decide(self, sent: Sequence[Piece]) -> None:
        parts = [f"part {part}" for part in range(self._work.parts)]
        size = sum(piece.size for piece in sent)
        count = min(len(parts), _SPANS * self._executor.workers, -(-size // _LEAST_BYTES))
        missing = gaps(self._pieces.get(DECIDED, []), len(parts))
        each = -(-len(parts) // max(1, count))
        spans = [span for first, stop in missing for span in self._spans(parts, first, stop, each)]
        inbox = Inbox(tuple(sent), len(parts))
        task = DecideTask(self._work, self._label, self._folder, self._held, inbox, self._settling)
        self._run(task, spans, "decide", len(parts), "parts")

    def _run(
        self, task: Callable[[Span[Any]], None], spans: Sequence[Span[Any]], step: str, count: int, of: str
    ) -> None:
        """Run the pass of one step, `scatter` or `decide`, with its own progress line."""
        label = f"{self._label} ({step})"
        with StageProgress(label, count, count - sum(len(span.items) for span in spans), of=of) as progress:
            for at, _ in self._executor.map(Stateless(task), spans, label, self._needs):
                for _ in spans[at].items:
                    progress.advance()

    def _size(self) -> int:
        """Number of items in a span: see _SPAN and _SPANS."""
        return max(1, min(_SPAN, -(-len(self._items) // (_SPANS * self._executor.workers))))

    def _spans(self, items: Sequence[Any], first: int, stop: int, size: int) -> Iterator[Span[Any]]:
        for at in range(first, stop, size):
            yield Span(at, tuple(items[at : min(at + size, stop)]))

    def _unsettled(self, left: Collection[int]) -> list[Span[Item]]:
        """Spans of whole bins with all items that are not settled."""
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
