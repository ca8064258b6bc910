"""Runs tasks in a pool of Ray actors; survives the death of any worker.

Only references, summaries and errors reach the driver: an actor reads its shard from storage and commits its
own file. Ray core actors, not Ray Data: docs/LOG.md has the measurement.
"""

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.batching import AIM_S, Waiting, Work
from winnow.pipeline.executors.contract import Item, Needs, Regroup, Result, Task, describe
from winnow.pipeline.executors.ray_worker import PREFETCHING, Worker, first_line, lacks_memory
from winnow.pipeline.executors.retries import FATAL, Account, Failure

_QUIET_S = 10.0  # a start of actors on an idle cluster takes less
_GRACE_S = 5.0  # of the 30 seconds that most schedulers leave between SIGTERM and SIGKILL
_BLOCKS = 256  # a regroup's items travel in at most this many blocks: references are blocks x parts
_SLICE_S = 2 * AIM_S  # after which a worker gives back the items that it has not begun
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


class _Drive:
    """Sends every piece of some work to an actor, again when it fails; failed: how often each one did."""

    def __init__(self, executor: "RayExecutor", work: Work, label: str, needs: Needs, actors: Sequence[Any]) -> None:
        self._executor, self._work, self._label, self._needs = executor, work, label, needs
        self._seats = [_Seat(actor) for actor in actors]
        self._waiting = Waiting(work, len(actors))
        self._at: dict[Any, _Seat] = {}  # by every reference that is still to come
        self._account = Account(label, work.count, needs.spare)
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
                    seat.process = _opened(reference)  # it cannot start where this raises, and the error says why
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
        for filled in range(depth):
            for seat in seats:
                if waiting and seat.greeting is None and len(seat.sent) == filled:
                    queued = (piece for pieces in seat.sent.values() for piece in pieces)
                    if filled and (waiting.next_alone() or any(piece in waiting.alone for piece in queued)):
                        continue
                    pieces = waiting.take()
                    reference = self._work.send(seat.actor, pieces)
                    seat.sent[reference] = pieces
                    self._at[reference] = seat

    def _ready(self) -> list[Any]:
        """Every reference that is ready, one at least; says so once when it waits for room in the cluster."""
        executor, pending = self._executor, list(self._at)
        try:
            idle = not executor.told and all(seat.greeting is not None for seat in self._seats)
            ready, _ = ray.wait(pending, num_returns=1, timeout=_QUIET_S if idle else None)
            if not ready:
                executor.told = True
                print(f"winnow: waiting for a worker; {_room(self._needs)}", file=sys.stderr, flush=True)
                ray.wait(pending, num_returns=1)
            found: list[Any] = ray.wait(pending, num_returns=len(pending), timeout=0)[0]
        except KeyboardInterrupt:
            _settle(self._seats)
            raise
        return found

    def _answered(self, seat: _Seat, reference: Any) -> Iterator[tuple[int, Any]]:
        """The results that a call brought; what it left undone, or failed at, waits again."""
        try:
            seconds, outcomes = _opened(reference)
        except _DEATHS as error:
            self._died(self._lost(seat), error)
            return
        pieces = seat.sent.pop(reference)
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
                self._again(piece, [Failure(self._work.name(piece), f"its worker ran out of memory: {value}")])
            else:
                self._again(piece, value)

    def _lost(self, seat: _Seat) -> list[int]:
        """The pieces that went down with it, oldest first; a fresh process follows it."""
        pieces = [piece for sent in seat.sent.values() for piece in sent]
        for reference in seat.sent:
            self._at.pop(reference, None)
        seat.sent.clear()
        self._greet(seat)
        return pieces

    def _died(self, pieces: Sequence[int], error: BaseException) -> None:
        if len(pieces) > 1:  # which of them is at fault shows when each has had a worker to itself
            self._waiting.alone.update(pieces)
            self._waiting.back(pieces)
        for piece in pieces if len(pieces) == 1 else ():
            self._again(piece, [Failure(self._work.name(piece), f"its worker died: {first_line(error)}")])

    def _again(self, piece: int, failures: Sequence[Failure]) -> None:
        if self.failed[piece] < self._needs.retries and not all(found.lasting for found in failures):
            self.failed[piece] += 1
            self._waiting.again(piece)
        else:
            self._account.failed(failures)


class RayExecutor:
    """A pool of actors that is kept from stage to stage while the needs stay the same."""

    _own: ClassVar[bool] = False  # whether an executor of this process started the cluster that it is connected to

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self._started = not ray.is_initialized()
        if self._started:
            _connect(workers, address)
            RayExecutor._own = not address
        # a cluster of this process never grows, whichever executor started it; any other may wait for work to do so
        self._fixed = RayExecutor._own
        self._asked = workers
        self._takes: tuple[float, float] | None = None
        self._actors: list[Any] = []
        self._calls = 0
        self.told = False  # that it waits for room
        self.failed: Mapping[int, int] = {}

    @property
    def workers(self) -> int:
        """Number of actors for tasks that need one core each."""
        return self._asked or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def start(self) -> None:
        """It is connected since it was made."""

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """See Executor.map. Raises JobError when one worker is more than a local cluster has."""
        if not items:
            return
        self._calls += 1
        number, shared = self._calls, ray.put(task)

        def send(actor: Any, pieces: Sequence[int]) -> Any:
            run = actor.run.options(concurrency_group=PREFETCHING) if needs.prefetch else actor.run
            return run.remote(number, shared, [items[piece] for piece in pieces], _SLICE_S)

        work = Work(len(items), lambda piece: describe(items[piece]), send, together=True)
        yield from self._drive(work, label, needs)

    def regroup(self, work: Regroup[Item, Result], items: Sequence[Item], label: str) -> Iterator[tuple[int, Result]]:
        """See Executor.regroup; tables lie in Ray's object store, which spills to disk."""
        if not items:
            return
        needs = Needs()
        for left in range(needs.retries, -1, -1):
            try:
                results = self._regroup(work, items, label, needs)
                break
            except ObjectLostError:  # a node left with its tables: the exchange is made anew
                if not left:
                    raise
        yield from enumerate(results)

    def _regroup(self, work: Regroup[Item, Result], items: Sequence[Item], label: str, needs: Needs) -> list[Result]:
        shared = ray.put(work)
        count = min(_BLOCKS, len(items))
        starts = [len(items) * i // count for i in range(count + 1)]
        blocks = [items[a:b] for a, b in pairwise(starts)]

        sent: dict[int, list[Any]] = {}  # by block: references of its answer and of its tables for each part
        decided: dict[int, list[Any]] = {}  # by part: references of its answer and of its tables for each block

        def scatter(actor: Any, pieces: Sequence[int]) -> Any:
            [block] = pieces
            sent[block] = actor.scatter.options(num_returns=1 + work.parts).remote(shared, blocks[block])
            return sent[block][0]

        def decide(actor: Any, pieces: Sequence[int]) -> Any:
            [part] = pieces
            tables = [sent[block][1 + part] for block in range(count)]
            decided[part] = actor.decide.options(num_returns=1 + count).remote(shared, part, starts, *tables)
            return decided[part][0]

        def settle(actor: Any, pieces: Sequence[int]) -> Any:
            [block] = pieces
            tables = [decided[part][1 + block] for part in range(work.parts)]
            return actor.settle.remote(shared, starts[block], blocks[block], *tables)

        def of(block: int) -> str:
            return describe(blocks[block][0])

        list(self._drive(Work(count, of, scatter), f"{label} (scatter)", needs))
        list(self._drive(Work(work.parts, lambda part: f"part {part}", decide), f"{label} (decide)", needs))
        settled = self._drive(Work(count, of, settle), label, needs)
        return [result for _, found in sorted(settled) for result in found]

    def _drive(self, work: Work, label: str, needs: Needs) -> Iterator[tuple[int, Any]]:
        drive = _Drive(self, work, label, needs, self._pool(needs, work.count))
        self.failed = drive.failed
        return drive.results()

    def _pool(self, needs: Needs, wanted: int) -> list[Any]:
        takes = (needs.cpus, needs.gpus)
        if takes != self._takes:
            self._release()
        self._takes = takes
        # restarted without end: a call that keeps killing its worker is given up by its own count of failures
        remote = ray.remote(concurrency_groups={PREFETCHING: 2})(Worker)
        remote = remote.options(num_cpus=needs.cpus, num_gpus=needs.gpus, max_restarts=-1)
        self._actors += [remote.remote() for _ in range(min(wanted, self._size(needs)) - len(self._actors))]
        return self._actors

    def _size(self, needs: Needs) -> int:
        has = ray.cluster_resources()
        asked = {"CPU": needs.cpus, "GPU": needs.gpus}
        fit = min((int(has.get(name, 0) / amount) for name, amount in asked.items() if amount), default=1)
        if self._fixed and not fit:
            raise JobError(
                f"one worker must fit in this machine, but it takes {needs.cpus:g} cores and {needs.gpus:g} GPUs of "
                f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}; ask for less"
            )
        return self._asked or max(1, fit)

    def _release(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def close(self) -> None:
        """End the actors, and the local cluster if this executor started it."""
        if ray.is_initialized():
            self._release()
            if self._started:
                ray.shutdown()
                RayExecutor._own = False


def _room(needs: Needs) -> str:
    """What a worker takes and what the cluster has, in words."""
    free, total = ray.available_resources(), ray.cluster_resources()
    found = {name: f"{free.get(name, 0):g} of {total.get(name, 0):g}" for name in ("CPU", "GPU")}
    enough = total.get("CPU", 0) >= needs.cpus and total.get("GPU", 0) >= needs.gpus
    until = (
        "another run or executor holds the others until it ends" if enough else "it begins once the cluster has grown"
    )
    return (
        f"each takes {needs.cpus:g} cores and {needs.gpus:g} GPUs, and of the cluster's cores {found['CPU']} are free, "
        f"of its GPUs {found['GPU']}; {until}"
    )


def _settle(seats: Sequence[_Seat]) -> None:
    """Let what the actors are at come to its end if it is near, so that nothing is left half written."""
    queued = [reference for seat in seats for reference in list(seat.sent)[1:]]
    for reference in queued:
        ray.cancel(reference)
    running = [next(iter(seat.sent)) for seat in seats if seat.sent]
    if running:
        ray.wait(running, num_returns=len(running), timeout=_GRACE_S)


def _opened(reference: Any) -> Any:
    """What a call answered; a lack of memory that it ended with is that of its first piece."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if lacks_memory(error.cause):
            return 0.0, [(None, first_line(error.cause))]
        if isinstance(error.cause, (ObjectLostError, *FATAL)):
            raise error.cause from error
        raise  # a bug, not bad data: the traceback is worth more than the other shards


def _connect(workers: int | None, address: str | None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _join(address)
        else:
            # its ports are bound to loopback (executor_open), and its token, left on, keeps other users out
            ray.init(
                "local",  # else Ray joins any cluster that it finds a trace of
                num_cpus=max(workers or 0, os.cpu_count() or 1),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
            )
    except SystemExit as end:  # Ray's answer to a SIGTERM while it starts
        if end.code != signal.SIGTERM:
            raise
        _hear(before)
        signal.raise_signal(signal.SIGTERM)
    _hear(before)


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError) as error:
        raise JobError(f"a Ray cluster must answer at the address {address}, but: {error}") from error


def _hear(before: Any) -> None:
    """Take SIGTERM back: left to Ray, it aborts the driver where it stands; like Ctrl-C, it ends the actors first."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before if callable(before) else signal.default_int_handler)
