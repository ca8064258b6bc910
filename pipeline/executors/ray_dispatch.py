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
class _ActorSlot:
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
        self._at: dict[Any, _ActorSlot] = {}  # by reference that is not ready yet
        self._account = Account(label, items.count, needs.spare)
        self._deadline = Deadline(needs)
        self._nodes = Nodes(pool, label)
        self._failed_on: dict[int, set[str | None]] = {}  # by item: the nodes whose GPU failed at it
        self._spared, self._late = Counter[int](), Counter[int]()
        self.failed = Counter[int]()

    def results(self) -> Iterator[tuple[int, Any]]:
        """(item, result) in any order. If items fail for good, raises FailedShards after all others are done."""
        self._slots = [_ActorSlot(actor) for actor in self._pool.begin(self._needs, self._items.count)]
        self._waiting = Waiting(self._items, len(self._slots))
        try:
            for slot in self._slots:
                self._greet(slot)
            yield from self._all()
        finally:
            for slot in self._slots:
                if (
                    slot.moved and slot.greeting is not None
                ):  # it still waits for room, which the next pass may not need
                    self._pool.drop(slot.actor)
            self._pool.end()
        self._account.close()

    def _all(self) -> Iterator[tuple[int, Any]]:
        while self._waiting or any(slot.sent for slot in self._slots):
            self._hand_out()
            for reference in self._ready():
                if reference not in self._at:  # its actor was ended because of another answer
                    continue
                slot = self._at.pop(reference)
                if reference == slot.greeting:
                    self._greeted(slot)
                else:
                    yield from self._answered(slot, reference)
            self._end_late()
            if self._account.over:
                _settle(self._slots)
                break

    def _greet(self, slot: _ActorSlot) -> None:
        """Ask the actor to answer before it gets work: an actor without room would keep its work forever."""
        # Ray repeats the call through any number of restarts, so it fails only if there will be no further one
        slot.greeting = slot.actor.greet.options(max_task_retries=-1).remote()
        self._at[slot.greeting] = slot

    def _greeted(self, slot: _ActorSlot) -> None:
        try:
            process, node = ray.get(slot.greeting)
        except ray.exceptions.RayError as error:  # it cannot start on its node; the error says why
            self._pool.drop(slot.actor)
            self._slots.remove(slot)
            self._nodes.cannot_start(error)
            if not self._slots:
                raise JobError(f"a node must be able to run a worker, but none can: {error}") from error
            return
        if process == slot.ended:  # it answered before it was ended, so new work would be lost with it
            self._greet(slot)
            return
        if slot.charged and is_gone(
            slot.node
        ):  # only now is it known that the node left, so the items did not kill their worker
            self.failed.subtract(slot.charged)
        slot.process, slot.node, slot.greeting, slot.charged = process, node, None, []

    def _hand_out(self) -> None:
        # a second call waits at each actor, so that no actor idles; at the end of a pass it would only wait in a queue
        waiting, slots = self._waiting, self._slots
        depth = 2 if len(waiting) > 2 * len(slots) else 1
        at_once = 2 if self._needs.prefetch else 1
        for filled in range(depth):  # every actor gets its first call before any actor gets a second
            for slot in slots:
                if waiting and slot.greeting is None and len(slot.sent) == filled:
                    if self._shuns(slot, slots):
                        waiting.defer()
                        if self._shuns(slot, [other for other in slots if other.greeting is None]):
                            continue
                    queued = (item for call in slot.sent.values() for item in call.items)
                    if filled and (waiting.next_alone() or any(item in waiting.alone for item in queued)):
                        continue
                    items = waiting.take()
                    reference = self._items.send(slot.actor, items)
                    slot.sent[reference] = _Call(items, time.monotonic() if filled < at_once else math.inf)
                    self._at[reference] = slot

    def _shuns(self, slot: _ActorSlot, others: Sequence[_ActorSlot]) -> bool:
        """Whether a GPU of this node failed at the next item, and an actor of another node could take the item."""
        nodes = self._failed_on.get(self._waiting.first) if self._failed_on else None
        return nodes is not None and slot.node in nodes and any(other.node not in nodes for other in others)

    def _ready(self) -> list[Any]:
        """All references that are ready before the next check of deadlines."""
        pending = list(self._at)
        idle = all(slot.greeting is not None for slot in self._slots)
        try:
            ready, _ = ray.wait(pending, num_returns=1, timeout=_QUIET_S if idle else self._deadline.tick_s)
            if not ready:
                if idle:
                    self._pool.say_waiting()
                return []
            # all ready references in one request; one request each would make the driver slower than a thousand workers
            found: list[Any] = ray.wait(pending, num_returns=len(pending), timeout=0)[0]
        except KeyboardInterrupt:
            _settle(self._slots)
            raise
        return found

    def _answered(self, slot: _ActorSlot, reference: Any) -> Iterator[tuple[int, Any]]:
        """The results of a call. Items that it did not do, or that failed, go back to the queue."""
        try:
            answer = answer_of(reference)
        except DEATHS as error:
            self._died(slot, error)
            return
        now, call = time.monotonic(), slot.sent.pop(reference)
        for queued in list(slot.sent.values())[:1]:
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
                self._broke(slot, item, value)
            else:
                self._again(item, value)

    def _broke(self, slot: _ActorSlot, item: int, broken: Broken) -> None:
        """A worker process cannot go on: put its items back and start a new process."""
        lost = self._forgotten(slot)
        self._waiting.back(lost)
        if broken.what == "memory":
            # a process at its memory limit may fail in other ways too, so a new one tries again
            if self._needs.prefetch:  # two items at once may have been too many
                self._waiting.alone.update([item, *lost])
            self._again(item, [Failure(self._items.name(item), f"its worker ran out of memory: {broken.message}")])
            self._restart(slot)
            return
        if broken.what == "device":
            self._waiting.alone.add(item)
            self._failed_on.setdefault(item, set()).add(slot.node)
            self._spare([item], f"the GPU of its worker failed: {broken.message}")
        else:
            self._waiting.back([item])
        cause = item if broken.what == "device" else object()
        self._nodes.failed(str(slot.node), cause, broken)
        if slot.node in self._nodes.avoided:
            self._replaced(slot, broken)
        else:
            self._restart(slot)

    def _restart(self, slot: _ActorSlot) -> None:
        self._pool.restart(slot.actor)
        slot.ended = slot.process
        self._greet(slot)

    def _replaced(self, slot: _ActorSlot, broken: Broken) -> None:
        """Replace the actor on another node, or drop it. Raises the error if no actor is left, or all nodes fail."""
        actor = self._pool.replace(slot.actor, self._nodes.avoided)
        self._slots.remove(slot)
        if actor is not None:
            self._slots.append(_ActorSlot(actor, moved=True))
            self._greet(self._slots[-1])
        if not self._slots or (self._nodes.everywhere and not self._account.any_done):
            raise broken.error

    def _end_late(self) -> None:
        """End the process of each item that exceeds its deadline, and try the item once more, alone."""
        now, limit_s = time.monotonic(), self._deadline.limit_s
        late = [slot for slot in self._slots if any(now - call.since > limit_s for call in slot.sent.values())]
        for slot in late:
            # of two items at once the older one, because the other may only have waited for it
            items = min(slot.sent.values(), key=lambda call: call.since).items
            self._waiting.back([item for item in self._forgotten(slot) if item not in items])
            self._restart(slot)
            self._waiting.alone.update(items)
            if len(items) > 1:
                self._waiting.back(items)
                continue
            self._late.update(items)
            again = self._late[items[0]] > 1
            self._again(items[0], [Failure(self._items.name(items[0]), self._deadline.missed(), lasting=again)])

    def _forgotten(self, slot: _ActorSlot) -> list[int]:
        """Forget the calls of an actor whose process ends. Returns their items, the oldest first."""
        items = [item for call in slot.sent.values() for item in call.items]
        for reference in slot.sent:  # each of them would report the same death, which must count only once
            self._at.pop(reference, None)
        slot.sent.clear()
        return items

    def _died(self, slot: _ActorSlot, error: BaseException) -> None:
        items, gone = self._forgotten(slot), is_gone(slot.node)
        self._greet(slot)
        if gone:
            self._spare(items, f"its node left: {first_line(error)}")
        elif len(items) > 1:  # each gets a worker to itself, which shows the item that is at fault
            self._waiting.alone.update(items)
            self._waiting.back(items)
        else:
            slot.charged = items
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


def _settle(slots: Sequence[_ActorSlot]) -> None:
    """Wait a little for the calls in progress, so that no file is left half written, and cancel those that wait."""
    queued = [reference for slot in slots for reference in list(slot.sent)[1:]]
    for reference in queued:
        ray.cancel(reference)
    running = [next(iter(slot.sent)) for slot in slots if slot.sent]
    if running:
        ray.wait(running, num_returns=len(running), timeout=_GRACE_S)
