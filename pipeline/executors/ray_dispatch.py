"""Sends the items of one pass to Ray actors: a queue for each actor, retries, deadlines, replacement of failing actors.

Each actor has one call in progress and a second one that waits, except at the end of a pass, so that no actor idles
between calls. If an actor dies, its items go back to the queue. If its call had several items, each is then sent alone,
so that the item that kills its worker does not cost the others a try. If a worker, its GPU or its node is at fault, its
items go to another worker, and this does not count as a try; docs/faults.md says when that ends.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.batching import PassItems, Waiting
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.deadlines import Deadline
from winnow.pipeline.executors.ray_faults import DEATHS, Broken, answer_of, first_line
from winnow.pipeline.executors.ray_pool import ActorPool, Nodes, is_gone
from winnow.pipeline.executors.retries import Account, Failure

_QUIET_S = 10.0  # starting actors on an idle cluster takes less
_GRACE_S = 5.0  # most schedulers wait 30 seconds between SIGTERM and SIGKILL
_SPARED = 2  # an item whose workers fail or leave more often than this counts as at fault itself


@dataclass
class _Call:
    """The items of a call that an actor has. since: when it began, as far as the driver knows."""

    items: list[int]
    since: float


@dataclass
class _Seat:
    """One actor of the pool as the driver sees it: whether it answers, and the calls that were sent to it.

    process, node: of its last greeting. ended: a process that the driver has ended. moved: whether it replaces an actor
    on an avoided node. charged: the items for which its last death counted as a try.
    """

    actor: Any
    process: int | None = None
    node: str | None = None
    ended: int | None = None
    moved: bool = False
    greeting: Any = None  # reference that is ready when the actor runs; None if it is known to run
    sent: dict[Any, _Call] = field(default_factory=dict)  # by reference of the answer, the oldest call first
    charged: list[int] = field(default_factory=list)


class Dispatcher:
    """Runs one pass: sends every item to an actor, and again if it fails. failed: how often each item has failed."""

    def __init__(self, items: PassItems, label: str, needs: Needs, pool: ActorPool) -> None:
        self._items, self._label, self._needs, self._pool = items, label, needs, pool
        self._at: dict[Any, _Seat] = {}  # by reference that is not ready yet
        self._account = Account(label, items.count, needs.spare)
        self._deadline = Deadline(needs)
        self._nodes = Nodes(pool, label)
        self._failed_on: dict[int, set[str | None]] = {}  # by item: the nodes whose GPU failed at it
        self._spared, self._late = Counter[int](), Counter[int]()
        self.failed = Counter[int]()

    def results(self) -> Iterator[tuple[int, Any]]:
        """(item, result) in any order. If items fail for good, raises FailedShards after all others are done."""
        self._seats = [_Seat(actor) for actor in self._pool.begin(self._needs, self._items.count)]
        self._waiting = Waiting(self._items, len(self._seats))
        try:
            for seat in self._seats:
                self._greet(seat)
            yield from self._all()
        finally:
            for seat in self._seats:
                if (
                    seat.moved and seat.greeting is not None
                ):  # it still waits for room, which the next pass may not need
                    self._pool.drop(seat.actor)
            self._pool.end()
        self._account.close()

    def _all(self) -> Iterator[tuple[int, Any]]:
        while self._waiting or any(seat.sent for seat in self._seats):
            self._hand_out()
            for reference in self._ready():
                if reference not in self._at:  # its actor was ended because of another answer
                    continue
                seat = self._at.pop(reference)
                if reference == seat.greeting:
                    self._greeted(seat)
                else:
                    yield from self._answered(seat, reference)
            self._end_late()
            if self._account.over:
                _settle(self._seats)
                break

    def _greet(self, seat: _Seat) -> None:
        """Ask the actor to answer before it gets work: an actor without room would keep its work forever."""
        # Ray repeats the call through any number of restarts, so it fails only if there will be no further one
        seat.greeting = seat.actor.greet.options(max_task_retries=-1).remote()
        self._at[seat.greeting] = seat

    def _greeted(self, seat: _Seat) -> None:
        try:
            process, node = ray.get(seat.greeting)
        except ray.exceptions.RayError as error:  # it cannot start on its node; the error says why
            self._pool.drop(seat.actor)
            self._seats.remove(seat)
            self._nodes.cannot_start(error)
            if not self._seats:
                raise JobError(f"a node must be able to run a worker, but none can: {error}") from error
            return
        if process == seat.ended:  # it answered before it was ended, so new work would be lost with it
            self._greet(seat)
            return
        if seat.charged and is_gone(
            seat.node
        ):  # only now is it known that the node left, so the items did not kill their worker
            self.failed.subtract(seat.charged)
        seat.process, seat.node, seat.greeting, seat.charged = process, node, None, []

    def _hand_out(self) -> None:
        # a second call waits at each actor, so that no actor idles; at the end of a pass it would only wait in a queue
        waiting, seats = self._waiting, self._seats
        depth = 2 if len(waiting) > 2 * len(seats) else 1
        at_once = 2 if self._needs.prefetch else 1
        for filled in range(depth):  # every actor gets its first call before any actor gets a second
            for seat in seats:
                if waiting and seat.greeting is None and len(seat.sent) == filled:
                    if self._shuns(seat, seats):
                        waiting.defer()
                        if self._shuns(seat, [other for other in seats if other.greeting is None]):
                            continue
                    queued = (item for call in seat.sent.values() for item in call.items)
                    if filled and (waiting.next_alone() or any(item in waiting.alone for item in queued)):
                        continue
                    items = waiting.take()
                    reference = self._items.send(seat.actor, items)
                    seat.sent[reference] = _Call(items, time.monotonic() if filled < at_once else math.inf)
                    self._at[reference] = seat

    def _shuns(self, seat: _Seat, others: Sequence[_Seat]) -> bool:
        """Whether a GPU of this node failed at the next item, and an actor of another node could take the item."""
        nodes = self._failed_on.get(self._waiting.first) if self._failed_on else None
        return nodes is not None and seat.node in nodes and any(other.node not in nodes for other in others)

    def _ready(self) -> list[Any]:
        """All references that are ready before the next check of deadlines."""
        pending = list(self._at)
        idle = all(seat.greeting is not None for seat in self._seats)
        try:
            ready, _ = ray.wait(pending, num_returns=1, timeout=_QUIET_S if idle else self._deadline.tick_s)
            if not ready:
                if idle:
                    self._pool.say_waiting()
                return []
            # all ready references in one request; one request each would make the driver slower than a thousand workers
            found: list[Any] = ray.wait(pending, num_returns=len(pending), timeout=0)[0]
        except KeyboardInterrupt:
            _settle(self._seats)
            raise
        return found

    def _answered(self, seat: _Seat, reference: Any) -> Iterator[tuple[int, Any]]:
        """The results of a call. Items that it did not do, or that failed, go back to the queue."""
        try:
            answer = answer_of(reference)
        except DEATHS as error:
            self._died(seat, error)
            return
        now, call = time.monotonic(), seat.sent.pop(reference)
        for queued in list(seat.sent.values())[:1]:
            queued.since = min(queued.since, now)
        if answer is None:
            self._spare(call.items, "its answer was lost with its node")
            return
        (seconds, outcomes), items = answer, call.items
        # when its time slice is over, a call answers for its first items only; the others go next
        self._waiting.saw(len(outcomes), seconds)
        self._waiting.back(items[len(outcomes) :])
        self._deadline.saw((seconds or now - call.since) / len(outcomes))
        for item, (good, value) in zip(items, outcomes, strict=False):
            if good:
                self._account.done()
                yield item, value
            elif good is None:
                self._broke(seat, item, value)
            else:
                self._again(item, value)

    def _broke(self, seat: _Seat, item: int, broken: Broken) -> None:
        """A worker process cannot go on: put its items back and start a new process."""
        lost = self._forgotten(seat)
        self._waiting.back(lost)
        if broken.what == "memory":
            # a process at its memory limit may fail in other ways too, so a new one tries again
            if self._needs.prefetch:  # two items at once may have been too many
                self._waiting.alone.update([item, *lost])
            self._again(item, [Failure(self._items.name(item), f"its worker ran out of memory: {broken.message}")])
            self._restart(seat)
            return
        if broken.what == "device":
            self._waiting.alone.add(item)
            self._failed_on.setdefault(item, set()).add(seat.node)
            self._spare([item], f"the GPU of its worker failed: {broken.message}")
        else:
            self._waiting.back([item])
        cause = item if broken.what == "device" else object()
        self._nodes.failed(str(seat.node), cause, broken)
        if seat.node in self._nodes.avoided:
            self._replaced(seat, broken)
        else:
            self._restart(seat)

    def _restart(self, seat: _Seat) -> None:
        self._pool.restart(seat.actor)
        seat.ended = seat.process
        self._greet(seat)

    def _replaced(self, seat: _Seat, broken: Broken) -> None:
        """Replace the actor on another node, or drop it. Raises the error if no actor is left, or all nodes fail."""
        actor = self._pool.replace(seat.actor, self._nodes.avoided)
        self._seats.remove(seat)
        if actor is not None:
            self._seats.append(_Seat(actor, moved=True))
            self._greet(self._seats[-1])
        if not self._seats or (self._nodes.everywhere and not self._account.any_done):
            raise broken.error

    def _end_late(self) -> None:
        """End the process of each item that exceeds its deadline, and try the item once more, alone."""
        now, limit_s = time.monotonic(), self._deadline.limit_s
        late = [seat for seat in self._seats if any(now - call.since > limit_s for call in seat.sent.values())]
        for seat in late:
            # of two items at once the older one, because the other may only have waited for it
            items = min(seat.sent.values(), key=lambda call: call.since).items
            self._waiting.back([item for item in self._forgotten(seat) if item not in items])
            self._restart(seat)
            self._waiting.alone.update(items)
            if len(items) > 1:
                self._waiting.back(items)
                continue
            self._late.update(items)
            again = self._late[items[0]] > 1
            self._again(items[0], [Failure(self._items.name(items[0]), self._deadline.missed(), lasting=again)])

    def _forgotten(self, seat: _Seat) -> list[int]:
        """Forget the calls of an actor whose process ends. Returns their items, the oldest first."""
        items = [item for call in seat.sent.values() for item in call.items]
        for reference in seat.sent:  # each of them would report the same death, which must count only once
            self._at.pop(reference, None)
        seat.sent.clear()
        return items

    def _died(self, seat: _Seat, error: BaseException) -> None:
        items, gone = self._forgotten(seat), is_gone(seat.node)
        self._greet(seat)
        if gone:
            self._spare(items, f"its node left: {first_line(error)}")
        elif len(items) > 1:  # each gets a worker to itself, which shows the item that is at fault
            self._waiting.alone.update(items)
            self._waiting.back(items)
        else:
            seat.charged = items
            self._again(items[0], [Failure(self._items.name(items[0]), f"its worker died: {first_line(error)}")])

    def _spare(self, items: Sequence[int], why: str) -> None:
        """Send items to another worker. This counts as a try only for items to which it happened too often."""
        self._spared.update(items)
        self._waiting.back([item for item in items if self._spared[item] <= _SPARED])
        for item in items:
            if self._spared[item] > _SPARED:
                self._again(item, [Failure(self._items.name(item), why)])

    def _again(self, item: int, failures: Sequence[Failure]) -> None:
        if self.failed[item] < self._needs.retries and not all(found.lasting for found in failures):
            self.failed[item] += 1
            self._waiting.again(item)
        else:
            self._account.failed(failures)


def _settle(seats: Sequence[_Seat]) -> None:
    """Wait a little for the calls in progress, so that no file is left half written, and cancel those that wait."""
    queued = [reference for seat in seats for reference in list(seat.sent)[1:]]
    for reference in queued:
        ray.cancel(reference)
    running = [next(iter(seat.sent)) for seat in seats if seat.sent]
    if running:
        ray.wait(running, num_returns=len(running), timeout=_GRACE_S)
