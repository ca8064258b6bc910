"""Sends the pieces of one pass to Ray actors: a queue for each, retries, deadlines, fresh actors where one fails.

Each actor has one call under way and, but for the end of a pass, one that waits, so that none is idle between calls.
An actor that dies gives back its pieces. Where a call had several, each of them is then sent alone, so that the one
that kills its worker costs no other a try. What a worker, its GPU or its node is at fault for costs its pieces none:
they go to another, and docs/faults.md says when that ends.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.batching import Pieces, Waiting
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.deadlines import Deadline
from winnow.pipeline.executors.ray_faults import DEATHS, Broken, answer_of, first_line
from winnow.pipeline.executors.ray_pool import ActorPool, Nodes, is_gone
from winnow.pipeline.executors.retries import Account, Failure

_QUIET_S = 10.0  # a start of actors on an idle cluster takes less
_GRACE_S = 5.0  # of the 30 seconds that most schedulers leave between SIGTERM and SIGKILL
_SPARED = 2  # times that a worker fails or leaves with a piece, before the piece is thought to be at fault


@dataclass
class _Call:
    """Pieces that an actor has; since: when it began with them, as far as the driver knows."""

    pieces: list[int]
    since: float


@dataclass
class _Seat:
    """One actor of the pool, seen from the driver: whether it answers, and which calls lie with it.

    process, node: those that greeted last. ended: a process that the driver has ended. moved: away from a node that is
    avoided. charged: pieces that its last death cost a try.
    """

    actor: Any
    process: int | None = None
    node: str | None = None
    ended: int | None = None
    moved: bool = False
    greeting: Any = None  # reference that is ready once the actor runs; None while it is known to
    sent: dict[Any, _Call] = field(default_factory=dict)  # by reference of the answer, oldest call first
    charged: list[int] = field(default_factory=list)


class Dispatcher:
    """One pass: sends every piece to an actor, again when it fails; failed: how often each one did."""

    def __init__(self, pieces: Pieces, label: str, needs: Needs, pool: ActorPool) -> None:
        self._pieces, self._label, self._needs, self._pool = pieces, label, needs, pool
        self._at: dict[Any, _Seat] = {}  # by every reference that is still to come
        self._account = Account(label, pieces.count, needs.spare)
        self._deadline = Deadline(needs)
        self._nodes = Nodes(pool, label)
        self._failed_on: dict[int, set[str | None]] = {}  # by piece: nodes whose GPU failed it
        self._spared, self._late = Counter[int](), Counter[int]()
        self.failed = Counter[int]()

    def results(self) -> Iterator[tuple[int, Any]]:
        """(piece, result) as they come. Raises FailedShards after all others are done when some still fail."""
        self._seats = [_Seat(actor) for actor in self._pool.begin(self._needs, self._pieces.count)]
        self._waiting = Waiting(self._pieces, len(self._seats))
        try:
            for seat in self._seats:
                self._greet(seat)
            yield from self._all()
        finally:
            for seat in self._seats:
                if seat.moved and seat.greeting is not None:  # it waits for room that another pass may not need
                    self._pool.drop(seat.actor)
            self._pool.end()
        self._account.close()

    def _all(self) -> Iterator[tuple[int, Any]]:
        while self._waiting or any(seat.sent for seat in self._seats):
            self._hand_out()
            for reference in self._ready():
                if reference not in self._at:  # its actor was ended for another answer
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
        """Give it no work until it answers: one that finds no room in the cluster would hold it for ever."""
        # sent again by Ray through any number of restarts, so that it fails only where there will be none
        seat.greeting = seat.actor.greet.options(max_task_retries=-1).remote()
        self._at[seat.greeting] = seat

    def _greeted(self, seat: _Seat) -> None:
        try:
            process, node = ray.get(seat.greeting)
        except ray.exceptions.RayError as error:  # it cannot start where it is, and the error says why
            self._pool.drop(seat.actor)
            self._seats.remove(seat)
            self._nodes.cannot_start(error)
            if not self._seats:
                raise JobError(f"a node must be able to run a worker, but none can: {error}") from error
            return
        if process == seat.ended:  # it was quicker than its end, which would take work with it
            self._greet(seat)
            return
        if seat.charged and is_gone(seat.node):  # only now it is known that they did not end their worker
            self.failed.subtract(seat.charged)
        seat.process, seat.node, seat.greeting, seat.charged = process, node, None, []

    def _hand_out(self) -> None:
        # a second call waits at each actor so that none idles, but not at the end, where it would sit in a queue
        waiting, seats = self._waiting, self._seats
        depth = 2 if len(waiting) > 2 * len(seats) else 1
        at_once = 2 if self._needs.prefetch else 1
        for filled in range(depth):  # every actor gets its first call before any gets a second
            for seat in seats:
                if waiting and seat.greeting is None and len(seat.sent) == filled:
                    if self._shuns(seat, seats):
                        waiting.defer()
                        if self._shuns(seat, [other for other in seats if other.greeting is None]):
                            continue
                    queued = (piece for call in seat.sent.values() for piece in call.pieces)
                    if filled and (waiting.next_alone() or any(piece in waiting.alone for piece in queued)):
                        continue
                    pieces = waiting.take()
                    reference = self._pieces.send(seat.actor, pieces)
                    seat.sent[reference] = _Call(pieces, time.monotonic() if filled < at_once else math.inf)
                    self._at[reference] = seat

    def _shuns(self, seat: _Seat, others: Sequence[_Seat]) -> bool:
        """Whether a GPU of this node failed the piece that goes next, and one of the others may take it."""
        nodes = self._failed_on.get(self._waiting.first) if self._failed_on else None
        return nodes is not None and seat.node in nodes and any(other.node not in nodes for other in others)

    def _ready(self) -> list[Any]:
        """Every reference that is ready, if any is by the time of the next look at deadlines."""
        pending = list(self._at)
        idle = all(seat.greeting is not None for seat in self._seats)
        try:
            ready, _ = ray.wait(pending, num_returns=1, timeout=_QUIET_S if idle else self._deadline.tick_s)
            if not ready:
                if idle:
                    self._pool.say_waiting()
                return []
            # all that are ready, in one request: one at a time would make the driver the slowest of a thousand workers
            found: list[Any] = ray.wait(pending, num_returns=len(pending), timeout=0)[0]
        except KeyboardInterrupt:
            _settle(self._seats)
            raise
        return found

    def _answered(self, seat: _Seat, reference: Any) -> Iterator[tuple[int, Any]]:
        """The results that a call brought; what it left undone, or failed at, waits again."""
        try:
            answer = answer_of(reference)
        except DEATHS as error:
            self._died(seat, error)
            return
        now, call = time.monotonic(), seat.sent.pop(reference)
        for queued in list(seat.sent.values())[:1]:
            queued.since = min(queued.since, now)
        if answer is None:
            self._spare(call.pieces, "its answer was lost with its node")
            return
        (seconds, outcomes), pieces = answer, call.pieces
        # a call may answer for its first pieces only, where its slice of time was over: the others go next
        self._waiting.saw(len(outcomes), seconds)
        self._waiting.back(pieces[len(outcomes) :])
        self._deadline.saw((seconds or now - call.since) / len(outcomes))
        for piece, (good, value) in zip(pieces, outcomes, strict=False):
            if good:
                self._account.done()
                yield piece, value
            elif good is None:
                self._broke(seat, piece, value)
            else:
                self._again(piece, value)

    def _broke(self, seat: _Seat, piece: int, broken: Broken) -> None:
        """The process cannot go on: what it had waits again, and a fresh one follows it."""
        lost = self._forgotten(seat)
        self._waiting.back(lost)
        if broken.what == "memory":
            # a process that ran into its limit may lack more than this: a fresh one tries again
            if self._needs.prefetch:  # two at once were too many
                self._waiting.alone.update([piece, *lost])
            self._again(piece, [Failure(self._pieces.name(piece), f"its worker ran out of memory: {broken.message}")])
            self._restart(seat)
            return
        if broken.what == "device":
            self._waiting.alone.add(piece)
            self._failed_on.setdefault(piece, set()).add(seat.node)
            self._spare([piece], f"the GPU of its worker failed: {broken.message}")
        else:
            self._waiting.back([piece])
        cause = piece if broken.what == "device" else object()
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
        """Another actor elsewhere, or one less. Raises the error where none is left, or all nodes fail with it."""
        actor = self._pool.replace(seat.actor, self._nodes.avoided)
        self._seats.remove(seat)
        if actor is not None:
            self._seats.append(_Seat(actor, moved=True))
            self._greet(self._seats[-1])
        if not self._seats or (self._nodes.everywhere and not self._account.any_done):
            raise broken.error

    def _end_late(self) -> None:
        """An item that exceeds its deadline ends with its process; it is tried once more, alone."""
        now, limit_s = time.monotonic(), self._deadline.limit_s
        late = [seat for seat in self._seats if any(now - call.since > limit_s for call in seat.sent.values())]
        for seat in late:
            # of two at once the older one: the other may only have waited for it
            pieces = min(seat.sent.values(), key=lambda call: call.since).pieces
            self._waiting.back([piece for piece in self._forgotten(seat) if piece not in pieces])
            self._restart(seat)
            self._waiting.alone.update(pieces)
            if len(pieces) > 1:
                self._waiting.back(pieces)
                continue
            self._late.update(pieces)
            again = self._late[pieces[0]] > 1
            self._again(pieces[0], [Failure(self._pieces.name(pieces[0]), self._deadline.missed(), lasting=again)])

    def _forgotten(self, seat: _Seat) -> list[int]:
        """The pieces that go down with its process, oldest first."""
        pieces = [piece for call in seat.sent.values() for piece in call.pieces]
        for reference in seat.sent:  # they raise the same death, which must not count twice
            self._at.pop(reference, None)
        seat.sent.clear()
        return pieces

    def _died(self, seat: _Seat, error: BaseException) -> None:
        pieces, gone = self._forgotten(seat), is_gone(seat.node)
        self._greet(seat)
        if gone:
            self._spare(pieces, f"its node left: {first_line(error)}")
        elif len(pieces) > 1:  # which of them is at fault shows when each has had a worker to itself
            self._waiting.alone.update(pieces)
            self._waiting.back(pieces)
        else:
            seat.charged = pieces
            self._again(pieces[0], [Failure(self._pieces.name(pieces[0]), f"its worker died: {first_line(error)}")])

    def _spare(self, pieces: Sequence[int], why: str) -> None:
        """They go to another worker, and that costs a try only those that met it too often."""
        self._spared.update(pieces)
        self._waiting.back([piece for piece in pieces if self._spared[piece] <= _SPARED])
        for piece in pieces:
            if self._spared[piece] > _SPARED:
                self._again(piece, [Failure(self._pieces.name(piece), why)])

    def _again(self, piece: int, failures: Sequence[Failure]) -> None:
        if self.failed[piece] < self._needs.retries and not all(found.lasting for found in failures):
            self.failed[piece] += 1
            self._waiting.again(piece)
        else:
            self._account.failed(failures)


def _settle(seats: Sequence[_Seat]) -> None:
    """Let what the actors are at come to its end if it is near, so that nothing is left half written."""
    queued = [reference for seat in seats for reference in list(seat.sent)[1:]]
    for reference in queued:
        ray.cancel(reference)
    running = [next(iter(seat.sent)) for seat in seats if seat.sent]
    if running:
        ray.wait(running, num_returns=len(running), timeout=_GRACE_S)
