"""Runs the items of a pass in threads of this process, and abandons threads that exceed their deadline.

A thread cannot be ended. If one hangs, its item fails and another thread takes its place. It keeps its memory until the
process ends, and `pipeline/lifeline.py` ends the process without waiting for it.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic

from winnow.pipeline.errors import WinnowError
from winnow.pipeline.executors.contract import Item, Needs, Result, Task
from winnow.pipeline.executors.deadlines import Deadline
from winnow.pipeline.executors.retries import Account, Failure, failures
from winnow.pipeline.executors.task_opening import opened
from winnow.pipeline.lifeline import left_behind

_AHEAD = 4
"""Most calls per thread that are begun or done before their results are taken, so that few results are held."""


class _Worker(Generic[Item, Result]):
    """One worker: its threads share what the task opens, which happens when the first thread asks for it."""

    def __init__(self, task: Task[Item, Result]) -> None:
        self._task, self._lock = task, threading.Lock()
        self._function: Callable[[Item], Result] | None = None

    def function(self) -> Callable[[Item], Result]:
        with self._lock:
            if self._function is None:
                self._function = opened(self._task)
            return self._function


@dataclass(eq=False)
class _ThreadSlot(Generic[Item, Result]):
    """One thread of a worker. index: its current item. since: when this try began. left: whether it was abandoned."""

    worker: _Worker[Item, Result]
    index: int | None = None
    since: float = 0.0
    left: bool = False
    thread: threading.Thread | None = None


class Crew(Generic[Item, Result]):
    """The threads of one pass: `workers` workers with one or two threads each.

    failed: is filled with the number of failures of each item.
    """

    def __init__(
        self,
        task: Task[Item, Result],
        items: Sequence[Item],
        name: Callable[[Item], str],
        label: str,
        needs: Needs,
        workers: int,
        failed: Counter[int],
    ) -> None:
        self._task, self._items, self._name, self._label = task, items, name, label
        self._needs, self._failed = needs, failed
        self._account, self._deadline = Account(label, len(items), needs.spare), Deadline(needs)
        self._todo: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._came: queue.SimpleQueue[tuple[int, float, Any]] = queue.SimpleQueue()
        self._slots: list[_ThreadSlot[Item, Result]] = []
        self._left, self._under_way = iter(range(len(items))), set[int]()
        for _ in range(workers):
            worker = _Worker(task)
            for _ in range(2 if needs.prefetch else 1):
                self._hire(worker)

    def results(self) -> Iterator[tuple[int, Result]]:
        """(index, result) in any order. Raises FailedShards at the end; an error that all items would have, at once."""
        try:
            self._hand_out(_AHEAD * len(self._slots))
            look = time.monotonic()
            while self._under_way:
                if (now := time.monotonic()) > look:
                    self._leave_late()
                    look = now + self._deadline.tick_s
                try:
                    index, seconds, outcome = self._came.get(timeout=self._deadline.tick_s)
                except queue.Empty:
                    continue
                if index not in self._under_way:  # it was given up, or another thread has done it
                    continue
                self._under_way.remove(index)
                self._hand_out(1)
                if isinstance(outcome, BaseException):
                    raise outcome  # more important than the other shards: a bug, or an error that all shards would have
                self._deadline.saw(seconds)
                for result in outcome:
                    yield index, result
        finally:
            self._end()
        self._account.close()

    def _hire(self, worker: _Worker[Item, Result]) -> None:
        slot = _ThreadSlot(worker)
        slot.thread = threading.Thread(target=self._work, args=(slot,), name=self._label, daemon=True)
        self._slots.append(slot)
        slot.thread.start()

    def _hand_out(self, count: int) -> None:
        for index in islice(self._left, count):
            self._under_way.add(index)
            self._todo.put(index)

    def _work(self, slot: _ThreadSlot[Item, Result]) -> None:
        while not slot.left and (index := self._todo.get()) is not None:
            outcome: Any
            try:
                outcome = self._tried(slot, index)
            except BaseException as error:  # noqa: BLE001 - of any kind: the driver raises it
                outcome = error
            seconds, slot.index = time.monotonic() - slot.since, None
            self._came.put((index, seconds, outcome))

    def _tried(self, slot: _ThreadSlot[Item, Result], index: int) -> tuple[Result, ...]:
        """The result of an item; nothing if it failed for good, or if the pass was over before."""
        while not self._account.over and not slot.left:
            slot.since, slot.index = time.monotonic(), index
            try:
                result = slot.worker.function()(self._items[index])
            except (WinnowError, OSError) as error:
                # raises if every other shard would fail too
                found = failures(self._name(self._items[index]), error)
                if all(one.lasting for one in found) or self._failed[index] == self._needs.retries:
                    self._account.failed([] if slot.left else found)
                    return ()
                self._failed[index] += 1
            else:
                if not slot.left:
                    self._account.done()
                return (result,)
        return ()

    def _leave_late(self) -> None:
        """Give up items past their deadline. The worker's other thread may wait for such an item: repeat its item."""
        late = [slot for slot in self._slots if self._is_late(slot)]
        for slot in sorted(late, key=lambda slot: slot.since):
            index = slot.index
            if index is None or not self._is_late(slot):
                continue
            fresh = _Worker(self._task)
            for other in [other for other in self._slots if other.worker is slot.worker]:
                if other.index is None:  # it is idle, so it does not wait for the other thread
                    other.worker = fresh
                    continue
                if other is not slot:
                    self._todo.put(other.index)
                self._leave(other)
                self._hire(fresh)
            self._under_way.discard(index)
            self._hand_out(1)
            said = f"{self._deadline.missed()}; its thread cannot be ended and is left behind"
            self._account.failed([Failure(self._name(self._items[index]), said, lasting=True)])

    def _leave(self, slot: _ThreadSlot[Item, Result]) -> None:
        slot.left = True
        self._slots.remove(slot)
        if slot.thread is not None:
            left_behind(slot.thread)

    def _is_late(self, slot: _ThreadSlot[Item, Result]) -> bool:
        return not slot.left and slot.index is not None and time.monotonic() - slot.since > self._deadline.limit_s

    def _end(self) -> None:
        """Begin no further items, and wait for those in progress until their deadlines."""
        while not self._todo.empty():
            self._todo.get()
        for _ in self._slots:
            self._todo.put(None)
        for slot in list(self._slots):
            while slot.thread is not None and slot.thread.is_alive():
                if self._is_late(slot):
                    self._leave(slot)
                    break
                slot.thread.join(self._deadline.tick_s)
