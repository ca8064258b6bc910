"""Runs tasks in a pool of Ray actors; survives the death of any worker.

Only references, summaries and errors reach the driver: an actor reads its shard from storage and commits its
own file. Ray core actors, not Ray Data: docs/LOG.md has the measurement.
"""

import errno
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from pipeline.errors import FailedShards, JobError, WinnowError
from pipeline.executor import FATAL, Item, Needs, Regroup, Result, State, Task, check_part, describe

_QUIET_S = 10.0  # a start of actors on an idle cluster takes less
_GRACE_S = 5.0  # of the 30 seconds that most schedulers leave between SIGTERM and SIGKILL
_BLOCKS = 256  # a regroup's items travel in at most this many blocks: references are blocks x parts
_DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError)
_Failures = list[tuple[str, str]]  # (name, message) of what went wrong


class Worker:
    """One actor: keeps what the current task opened, and does one item at a time."""

    def __init__(self) -> None:
        self._call = -1
        self._state: Any = None

    def greet(self) -> None:
        """Answers once the actor runs."""

    def run(self, call: int, task: Task[Any, Any, Any], item: object) -> tuple[bool, object]:
        """(True, result), or (False, failures) when the item's data is at fault."""
        try:
            if call != self._call:
                self._state = None  # the last task's model must leave the memory before the next one's comes
                self._state = task.open()
                self._call = call
            return True, task.run(self._state, item)
        except FATAL:
            raise
        except (WinnowError, OSError) as error:
            return False, [_failure(describe(item), error)]

    def scatter(self, work: Regroup[Any, Any], block: Sequence[Any]) -> tuple[object, ...]:
        """Outcome, then one list of tables per part."""
        parts: list[list[pa.Table]] = [[] for _ in range(work.parts)]
        failures: _Failures = []
        for item in block:
            try:
                for part, table in work.scatter(item).items():
                    check_part(describe(item), part, work.parts)
                    parts[part].append(table)
            except (WinnowError, OSError) as error:
                failures.append(_failure(describe(item), error))
        return (not failures, failures), *parts

    def decide(
        self, work: Regroup[Any, Any], part: int, starts: Sequence[int], *blocks: list[pa.Table]
    ) -> tuple[object, ...]:
        """Outcome, then for each block of items a mapping of item index to table."""
        try:
            tables = [table for block in blocks for table in block]
            decided = work.decide(part, tables) if tables else {}
        except (WinnowError, OSError) as error:
            return (False, [_failure(f"part {part}", error)]), *[None] * (len(starts) - 1)
        return (True, None), *[{i: t for i, t in decided.items() if a <= i < b} for a, b in pairwise(starts)]

    def settle(
        self, work: Regroup[Any, Any], start: int, block: Sequence[Any], *decided: Mapping[int, pa.Table]
    ) -> tuple[bool, object]:
        """(True, results of the block's items), or (False, failures) when all others are committed."""
        results: list[object] = []
        failures: _Failures = []
        for index, item in enumerate(block, start):
            try:
                results.append(work.settle(item, [tables[index] for tables in decided if index in tables]))
            except (WinnowError, OSError) as error:
                failures.append(_failure(describe(item), error))
        return not failures, failures or results


def _failure(name: str, error: BaseException) -> tuple[str, str]:
    """What to say of an item whose data is at fault.

    Raises MemoryError where a lack of memory is behind the error: every other item would fail in this process too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            raise MemoryError(str(error)) from error
        cause = cause.__cause__
    return name, str(error)


@dataclass
class _Call:
    """One remote call that may have to be sent again: to which method, with what, and how often it failed."""

    index: int
    name: str
    send: Callable[[Any], Any]  # actor -> reference of the outcome, or references of which it is the first
    failed: int = 0
    alone: bool = False  # it was with another one when their worker died: nothing may wait beside it again
    references: list[Any] = field(default_factory=list)


@dataclass
class _Seat:
    """One actor of the pool, seen from the driver: whether it answers, and which calls lie with it."""

    actor: Any
    greeting: Any = None  # reference that is ready once the actor runs; None while it is known to
    sent: dict[Any, _Call] = field(default_factory=dict)  # by reference of the outcome, oldest first

    def greet(self) -> None:
        """Give it no work until it answers: one that finds no room in the cluster would hold it for ever."""
        # sent again by Ray through any number of restarts, so that it fails only where there will be none
        self.greeting = self.actor.greet.options(max_task_retries=-1).remote()

    def take(self, call: _Call) -> None:
        """Send a call."""
        answer = call.send(self.actor)
        call.references = answer if isinstance(answer, list) else [answer]
        self.sent[call.references[0]] = call

    def lost(self) -> list[_Call]:
        """The calls that went down with it, oldest first."""
        calls = list(self.sent.values())
        self.sent.clear()
        self.greet()
        return calls

    def restart(self) -> list[_Call]:
        """End its process, which a fresh one follows; the calls that wait for it."""
        ray.kill(self.actor, no_restart=False)
        return self.lost()


class RayExecutor:
    """A pool of actors that is kept from stage to stage while the needs stay the same."""

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self._started = not ray.is_initialized()
        # a cluster of our own never grows; any other may be waiting for work to do so
        self._fixed = self._started and not _elsewhere(address)
        if self._started:
            _connect(workers, address)
        self._asked = workers
        self._takes: tuple[float, float] | None = None
        self._actors: list[Any] = []
        self._calls = 0
        self._told = False
        self.failed: Mapping[int, int] = {}

    @property
    def workers(self) -> int:
        """Number of actors for tasks that need one core each."""
        return self._asked or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def map(
        self, task: Task[State, Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """See Executor.map. Raises JobError when one worker is more than a local cluster has."""
        if not items:
            return
        self._calls += 1
        number, shared = self._calls, ray.put(task)

        def sender(item: Item) -> Callable[[Any], Any]:
            return lambda actor: actor.run.remote(number, shared, item)

        calls = [_Call(index, describe(item), sender(item)) for index, item in enumerate(items)]
        yield from self._drive(calls, label, needs)

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

        def scatter(block: Sequence[Item]) -> Callable[[Any], Any]:
            return lambda actor: actor.scatter.options(num_returns=1 + work.parts).remote(shared, block)

        def decide(part: int) -> Callable[[Any], Any]:
            tables = [call.references[1 + part] for call in scattered]
            more = {"num_returns": 1 + count}
            return lambda actor: actor.decide.options(**more).remote(shared, part, starts, *tables)

        def settle(number: int) -> Callable[[Any], Any]:
            decided = [call.references[1 + number] for call in parts]
            return lambda actor: actor.settle.remote(shared, starts[number], blocks[number], *decided)

        scattered = [_Call(i, describe(block[0]), scatter(block)) for i, block in enumerate(blocks)]
        list(self._drive(scattered, f"{label} (scatter)", needs))
        parts = [_Call(part, f"part {part}", decide(part)) for part in range(work.parts)]
        list(self._drive(parts, f"{label} (decide)", needs))
        last = [_Call(i, describe(block[0]), settle(i)) for i, block in enumerate(blocks)]
        return [result for _, found in sorted(self._drive(last, label, needs)) for result in found]

    def _drive(self, calls: Sequence[_Call], label: str, needs: Needs) -> Iterator[tuple[int, Any]]:
        """Send every call to some actor, again when it fails, and yield (index, result) as they come."""
        seats = [_Seat(actor) for actor in self._pool(needs, len(calls))]
        for seat in seats:
            seat.greet()
        waiting = deque(calls)
        failures: _Failures = []
        self.failed = failed = Counter[int]()
        while waiting or any(seat.sent for seat in seats):
            _hand_out(waiting, seats)
            at = {reference: seat for seat in seats for reference in seat.sent}
            at |= {seat.greeting: seat for seat in seats if seat.greeting is not None}
            first = self._next(at, seats, needs)
            seat = at[first]
            try:
                good, value = _outcome(first)
                if first == seat.greeting:
                    seat.greeting = None
                    continue
                call = seat.sent.pop(first)
                if good is None:
                    # a process that ran into its limit may lack more than this: a fresh one tries again
                    waiting.extendleft(reversed(seat.restart()))
                    value = [(call.name, f"its worker ran out of memory: {value}")]
            except _DEATHS as error:
                if first == seat.greeting:
                    raise  # it cannot start, and its error says why
                call, *others = seat.lost()
                if others:  # which of them is at fault shows when each has had a worker to itself
                    for lost in (*reversed(others), call):
                        lost.alone = True
                        waiting.appendleft(lost)
                    continue
                good, value = False, [(call.name, f"its worker died: {_first_line(error)}")]
            if good:
                yield call.index, value
            elif call.failed < needs.retries:
                call.failed += 1
                failed[call.index] += 1
                waiting.append(call)
            else:
                failures += value
        if failures:
            raise FailedShards(label, sorted(failures), len(calls))

    def _next(self, pending: Mapping[Any, _Seat], seats: Sequence[_Seat], needs: Needs) -> Any:
        """The first reference that is ready; says so once when it waits for room in the cluster."""
        try:
            idle = not self._told and all(seat.greeting is not None for seat in seats)
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=_QUIET_S if idle else None)
            if not ready:
                self._told = True
                print(
                    f"winnow: waiting for a worker; each takes {needs.cpus:g} cores and {needs.gpus:g} GPUs, and the "
                    f"cluster has {_free()} free",
                    file=sys.stderr,
                    flush=True,
                )
                ready, _ = ray.wait(list(pending), num_returns=1)
        except KeyboardInterrupt:
            _settle(seats)
            raise
        return ready[0]

    def _pool(self, needs: Needs, wanted: int) -> list[Any]:
        takes = (needs.cpus, needs.gpus)
        if takes != self._takes:
            self._release()
        self._takes = takes
        # restarted without end: a call that keeps killing its worker is given up by its own count of failures
        remote = ray.remote(Worker).options(num_cpus=needs.cpus, num_gpus=needs.gpus, max_restarts=-1)
        self._actors += [remote.remote() for _ in range(min(wanted, self._size(needs)) - len(self._actors))]
        return self._actors

    def _size(self, needs: Needs) -> int:
        has = ray.cluster_resources()
        asked = {"CPU": needs.cpus, "GPU": needs.gpus}
        fit = min((int(has.get(name, 0) / amount) for name, amount in asked.items() if amount), default=1)
        if self._fixed and not fit:
            have = {name: has.get(name, 0) for name in asked}
            raise JobError(f"one worker must fit in this machine, but it needs {asked} of {have}")
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


def _free() -> str:
    free = ray.available_resources()
    return f"{free.get('CPU', 0):g} cores and {free.get('GPU', 0):g} GPUs"


def _settle(seats: Sequence[_Seat]) -> None:
    """Let what the actors are at come to its end if it is near, so that nothing is left half written."""
    queued = [reference for seat in seats for reference in list(seat.sent)[1:]]
    for reference in queued:
        ray.cancel(reference)
    running = [next(iter(seat.sent)) for seat in seats if seat.sent]
    if running:
        ray.wait(running, num_returns=len(running), timeout=_GRACE_S)


def _hand_out(waiting: deque[_Call], seats: Sequence[_Seat]) -> None:
    # a second call waits at each actor so that none idles, but not at the end, where it would sit in a queue
    depth = 2 if len(waiting) > 2 * len(seats) else 1
    for filled in range(depth):
        for seat in seats:
            if waiting and seat.greeting is None and len(seat.sent) == filled:
                if filled and (waiting[0].alone or any(call.alone for call in seat.sent.values())):
                    continue
                seat.take(waiting.popleft())


def _outcome(reference: Any) -> tuple[bool | None, Any]:
    """What a call answered: True and its value, False and why it failed, None and why it had no memory."""
    try:
        answer = ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, MemoryError) or "can't allocate memory" in str(error.cause):  # torch's own words
            return None, _first_line(error.cause)
        if isinstance(error.cause, (ObjectLostError, *FATAL)):
            raise error.cause from error
        raise  # a bug, not bad data: the traceback is worth more than the other shards
    return (True, None) if answer is None else answer  # None: a greeting


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _elsewhere(address: str | None) -> bool:
    # the variable is how a submitted Ray job finds its cluster
    return bool(address or "RAY_ADDRESS" in os.environ)


def _connect(workers: int | None, address: str | None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    if _elsewhere(address):
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, ValueError) as error:
            asked = address or os.environ["RAY_ADDRESS"]
            raise JobError(f"a Ray cluster must answer at the address {asked}, but: {error}") from error
    else:
        # its ports are bound to loopback (executor_open), and its token, left on, keeps other users out
        ray.init(
            num_cpus=max(workers or 0, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
        )
    if threading.current_thread() is threading.main_thread():
        # left to Ray, a SIGTERM aborts the driver where it stands; like Ctrl-C, it ends the actors first
        signal.signal(signal.SIGTERM, before if callable(before) else signal.default_int_handler)
