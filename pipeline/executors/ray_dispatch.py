"""Sends the pieces of one pass to Ray actors: a queue for each, retries, and a fresh actor for one that died.

Each actor has one call under way and, but for the end of a pass, one that waits, so that none is idle between calls.
An actor that dies gives back its pieces. Where a call had several, each of them is then sent alone, so that the one
that kills its worker costs no other a try.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.batching import Pieces, Waiting
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.ray_worker import first_line, lacks_memory
from winnow.pipeline.executors.retries import FATAL, Account, Failure

_QUIET_S = 10.0  # a start of actors on an idle cluster takes less
_GRACE_S = 5.0  # of the 30 seconds that most schedulers leave between SIGTERM and SIGKILL
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")  # of Ray, which could not unpickle a task in a worker
_DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError)


@dataclass
class _Seat:
    """One actor of the pool, seen from the driver: whether it answers, and which calls lie with it.

    process: that which greeted last. ended: one that the driver has ended.
    """

    actor: Any
    process: int | None = None
    ended: int | None = None
    greeting: Any = None  # reference that is ready once the actor runs; None while it is known to
    sent: dict[Any, list[int]] = field(default_factory=dict)  # pieces by reference of their answer, oldest call first


class Notice:
    """Whether an executor has said, in any of its passes, that it waits for room in the cluster: it says so once."""

    given = False


class Dispatcher:
    """One pass: sends every piece to an actor, again when it fails; failed: how often each one did."""

    def __init__(self, pieces: Pieces, label: str, needs: Needs, actors: Sequence[Any], notice: Notice) -> None:
        self._pieces, self._needs, self._notice = pieces, needs, notice
        self._seats = [_Seat(actor) for actor in actors]
        self._waiting = Waiting(pieces, len(actors))
        self._at: dict[Any, _Seat] = {}  # by every reference that is still to come
        self._account = Account(label, pieces.count, needs.spare)
        self.failed = Counter[int]()

    def results(self) -> Iterator[tuple[int, Any]]:
        """(piece, result) as they come. Raises FailedShards after all others are done when some still fail."""
        for seat in self._seats:
            self._greet(seat)
        while self._waiting or any(seat.sent for seat in self._seats):
            self._hand_out()
            for reference in self._ready():
                if reference not in self._at:  # its actor was ended for another answer
                    continue
                seat = self._at.pop(reference)
                if reference == seat.greeting:
                    seat.process = _answer_of(reference)  # it cannot start where this raises, and the error says why
                    seat.greeting = None
                    if seat.process == seat.ended:  # it was quicker than its end, which would take work with it
                        self._greet(seat)
                else:
                    yield from self._answered(seat, reference)
            if self._account.over:
                _settle(self._seats)
                break
        self._account.close()

    def _greet(self, seat: _Seat) -> None:
        """Give it no work until it answers: one that finds no room in the cluster would hold it for ever."""
        # sent again by Ray through any number of restarts, so that it fails only where there will be none
        seat.greeting = seat.actor.greet.options(max_task_retries=-1).remote()
        self._at[seat.greeting] = seat

    def _hand_out(self) -> None:
        # a second call waits at each actor so that none idles, but not at the end, where it would sit in a queue
        waiting, seats = self._waiting, self._seats
        depth = 2 if len(waiting) > 2 * len(seats) else 1
        for filled in range(depth):  # every actor gets its first call before any gets a second
            for seat in seats:
                if waiting and seat.greeting is None and len(seat.sent) == filled:
                    queued = (piece for pieces in seat.sent.values() for piece in pieces)
                    if filled and (waiting.next_alone() or any(piece in waiting.alone for piece in queued)):
                        continue
                    pieces = waiting.take()
                    reference = self._pieces.send(seat.actor, pieces)
                    seat.sent[reference] = pieces
                    self._at[reference] = seat

    def _ready(self) -> list[Any]:
        """Every reference that is ready, one at least; says so once when it waits for room in the cluster."""
        pending = list(self._at)
        try:
            idle = not self._notice.given and all(seat.greeting is not None for seat in self._seats)
            ready, _ = ray.wait(pending, num_returns=1, timeout=_QUIET_S if idle else None)
            if not ready:
                self._notice.given = True
                print(f"winnow: waiting for a worker; {room_in_cluster(self._needs)}", file=sys.stderr, flush=True)
                ray.wait(pending, num_returns=1)
            # all that are ready, in one request: one at a time would make the driver the slowest of a thousand workers
            found: list[Any] = ray.wait(pending, num_returns=len(pending), timeout=0)[0]
        except KeyboardInterrupt:
            _settle(self._seats)
            raise
        return found

    def _answered(self, seat: _Seat, reference: Any) -> Iterator[tuple[int, Any]]:
        """The results that a call brought; what it left undone, or failed at, waits again."""
        try:
            seconds, outcomes = _answer_of(reference)
        except _DEATHS as error:
            self._died(self._lost(seat), error)
            return
        pieces = seat.sent.pop(reference)
        # a call may answer for its first pieces only, where its slice of time was over: the others go next
        self._waiting.saw(len(outcomes), seconds)
        self._waiting.back(pieces[len(outcomes) :])
        for piece, (good, value) in zip(pieces, outcomes, strict=False):
            if good:
                self._account.done()
                yield piece, value
            elif good is None:
                # a process that ran into its limit may lack more than this: a fresh one tries again
                ray.kill(seat.actor, no_restart=False)
                seat.ended = seat.process
                lost = self._lost(seat)
                if self._needs.prefetch:  # two at once were too many
                    self._waiting.alone.update([piece, *lost])
                self._waiting.back(lost)
                self._again(piece, [Failure(self._pieces.name(piece), f"its worker ran out of memory: {value}")])
            else:
                self._again(piece, value)

    def _lost(self, seat: _Seat) -> list[int]:
        """The pieces that went down with it, oldest first; a fresh process follows it."""
        pieces = [piece for sent in seat.sent.values() for piece in sent]
        for reference in seat.sent:  # they raise the same death, which must not count twice
            self._at.pop(reference, None)
        seat.sent.clear()
        self._greet(seat)
        return pieces

    def _died(self, pieces: Sequence[int], error: BaseException) -> None:
        if len(pieces) > 1:  # which of them is at fault shows when each has had a worker to itself
            self._waiting.alone.update(pieces)
            self._waiting.back(pieces)
        for piece in pieces if len(pieces) == 1 else ():
            self._again(piece, [Failure(self._pieces.name(piece), f"its worker died: {first_line(error)}")])

    def _again(self, piece: int, failures: Sequence[Failure]) -> None:
        if self.failed[piece] < self._needs.retries and not all(found.lasting for found in failures):
            self.failed[piece] += 1
            self._waiting.again(piece)
        else:
            self._account.failed(failures)


def room_in_cluster(needs: Needs) -> str:
    """What a worker takes and what the cluster has, in words."""
    free, total = ray.available_resources(), ray.cluster_resources()
    found = {name: f"{free.get(name, 0):g} of {total.get(name, 0):g}" for name in ("CPU", "GPU")}
    memory = f"{free.get('memory', 0) / 1e9:.3g} of {total.get('memory', 0) / 1e9:.3g}"
    asked = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": memory_bytes(needs)}
    enough = all(total.get(name, 0) >= amount for name, amount in asked.items())
    until = (
        "another run or executor holds the others until it ends" if enough else "it begins once the cluster has grown"
    )
    return (
        f"each takes {takes_in_words(needs)}, and of the cluster's cores {found['CPU']} are free, "
        f"of its GPUs {found['GPU']}, of its GB of memory {memory}; {until}"
    )


def memory_bytes(needs: Needs) -> int:
    """What a worker declares to Ray."""
    return int(needs.memory_gb * 1e9)


def takes_in_words(needs: Needs) -> str:
    """Cores, GPUs and memory of one worker."""
    return f"{needs.cpus:g} cores, {needs.gpus:g} GPUs and {needs.memory_gb:g} GB of memory"


def _settle(seats: Sequence[_Seat]) -> None:
    """Let what the actors are at come to its end if it is near, so that nothing is left half written."""
    queued = [reference for seat in seats for reference in list(seat.sent)[1:]]
    for reference in queued:
        ray.cancel(reference)
    running = [next(iter(seat.sent)) for seat in seats if seat.sent]
    if running:
        ray.wait(running, num_returns=len(running), timeout=_GRACE_S)


def _answer_of(reference: Any) -> Any:
    """What a call answered; a lack of memory that it ended with is that of its first piece."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if lacks_memory(error.cause):
            return 0.0, [(None, first_line(error.cause))]
        if isinstance(error.cause, (ObjectLostError, *FATAL)):
            raise error.cause from error
        if (lost := _NO_MODULE.search(str(error.cause))) is not None:
            raise JobError(
                f"every worker must be able to import {lost[1]}, as the driver is, but one cannot; install the package "
                f"that has it on all nodes, in the version of the driver"
            ) from error
        raise  # a bug, not bad data: the traceback is worth more than the other shards
