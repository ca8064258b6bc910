"""Runs tasks in a pool of Ray actors, the one home of ray; survives the death of any worker.

Only references, summaries and errors reach the driver: an actor reads its shard from storage and commits its own
file. Ray core actors, not Ray Data: docs/LOG.md has the measurement.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from pipeline.errors import FailedShards, WinnowError
from pipeline.executor import Item, Needs, Regroup, Result, State, Task, describe

_BLOCKS = 256  # items of a regroup travel in at most this many blocks, so that references stay few: blocks x parts


class Worker:
    """One actor: keeps what the current task opened, and does one item at a time."""

    def __init__(self) -> None:
        self._call = -1
        self._state: Any = None

    def run(self, call: int, task: Task[Any, Any, Any], item: object) -> tuple[bool, object]:
        """(True, result), or (False, message) when the item's data is at fault."""
        try:
            if call != self._call:
                self._state = None  # the last task's model must leave the memory before the next one's comes
                self._state = task.open()
                self._call = call
            return True, task.run(self._state, item)
        except (WinnowError, OSError) as error:
            return False, str(error)

    def scatter(self, work: Regroup[Any, Any], block: Sequence[Any]) -> tuple[object, ...]:
        """Outcome, then one list of tables per part."""
        try:
            scattered = [work.scatter(item) for item in block]
        except (WinnowError, OSError) as error:
            return (False, str(error)), *[None] * work.parts
        return (True, None), *[[t[part] for t in scattered if part in t] for part in range(work.parts)]

    def decide(
        self, work: Regroup[Any, Any], part: int, starts: Sequence[int], *blocks: list[pa.Table]
    ) -> tuple[object, ...]:
        """Outcome, then for each block of items a mapping of item index to table."""
        try:
            tables = [table for block in blocks for table in block]
            decided = work.decide(part, tables) if tables else {}
        except (WinnowError, OSError) as error:
            return (False, str(error)), *[None] * (len(starts) - 1)
        bounds = zip(starts[:-1], starts[1:], strict=True)
        return (True, None), *[{i: t for i, t in decided.items() if a <= i < b} for a, b in bounds]

    def settle(
        self, work: Regroup[Any, Any], start: int, block: Sequence[Any], *decided: Mapping[int, pa.Table]
    ) -> tuple[bool, object]:
        """(True, results of the block's items), or (False, message)."""
        try:
            return True, [
                work.settle(item, [tables[start + i] for tables in decided if start + i in tables])
                for i, item in enumerate(block)
            ]
        except (WinnowError, OSError) as error:
            return False, str(error)


@dataclass
class _Call:
    """One remote call that may have to be sent again: to which method, with what, and how often it failed."""

    index: int
    name: str
    send: Callable[[Any], Any]  # actor -> reference of the outcome, or references of which it is the first
    failed: int = 0
    references: list[Any] = field(default_factory=list)


class RayExecutor:
    """A pool of actors that is kept from stage to stage while the needs stay the same."""

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self._started = not ray.is_initialized()
        if self._started:
            _connect(workers, address)
        self._asked = workers
        self._needs: Needs | None = None
        self._actors: list[Any] = []
        self._calls = 0

    @property
    def workers(self) -> int:
        """Number of actors for tasks that need one core each."""
        return self._asked or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def map(
        self, task: Task[State, Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """See Executor.map."""
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

    def _regroup(
        self, work: Regroup[Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> list[Result]:
        shared = ray.put(work)
        count = min(_BLOCKS, len(items))
        starts = [len(items) * i // count for i in range(count + 1)]
        blocks = [items[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]

        def scatter(block: Sequence[Item]) -> Callable[[Any], Any]:
            return lambda actor: actor.scatter.options(num_returns=1 + work.parts).remote(shared, block)

        def decide(part: int) -> Callable[[Any], Any]:
            tables = [call.references[1 + part] for call in scattered]
            return lambda actor: actor.decide.options(num_returns=1 + count).remote(shared, part, starts, *tables)

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
        actors = self._pool(needs, len(calls))
        waiting, sent = deque(calls), {}
        load = dict.fromkeys(range(len(actors)), 0)
        failures: list[tuple[str, str]] = []
        while waiting or sent:
            # a second call waits at each actor so that none idles, but not at the end, where it would sit in a queue
            depth = 2 if len(waiting) > 2 * len(actors) else 1
            for number in sorted(load, key=lambda n: load[n]):
                if waiting and load[number] < depth:
                    call = waiting.popleft()
                    answer = call.send(actors[number])
                    call.references = answer if isinstance(answer, list) else [answer]
                    sent[call.references[0]] = call, number
                    load[number] += 1
            ready, _ = ray.wait(list(sent), num_returns=1)
            call, number = sent.pop(ready[0])
            load[number] -= 1
            good, value = _outcome(ready[0])
            if good:
                yield call.index, value
                continue
            call.failed += 1
            if call.failed > needs.retries:
                failures.append((call.name, str(value)))
            else:
                waiting.append(call)
        if failures:
            raise FailedShards(label, sorted(failures), len(calls))

    def _pool(self, needs: Needs, wanted: int) -> list[Any]:
        if needs != self._needs:
            self._release()
        self._needs = needs
        # restarted without end: a call that keeps killing its worker is given up by its own count of failures
        remote = ray.remote(Worker).options(num_cpus=needs.cpus, num_gpus=needs.gpus, max_restarts=-1)
        self._actors += [remote.remote() for _ in range(min(wanted, self._size(needs)) - len(self._actors))]
        return self._actors

    def _size(self, needs: Needs) -> int:
        if self._asked:
            return self._asked
        resources = ray.cluster_resources()
        fits = [int(resources.get("CPU", 1) / needs.cpus)] if needs.cpus else []
        fits += [int(resources.get("GPU", 0) / needs.gpus)] if needs.gpus else []
        return max(1, min(fits, default=1))

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


def _outcome(reference: Any) -> tuple[bool, Any]:
    try:
        good, value = ray.get(reference)
    except RayActorError as error:
        return False, f"its worker died: {str(error).splitlines()[0]}"
    except RayTaskError as error:
        if isinstance(error.cause, ObjectLostError):
            raise error.cause from error
        raise  # a bug, not bad data: the traceback is worth more than the other shards
    return bool(good), value


def _connect(workers: int | None, address: str | None) -> None:
    if address or "RAY_ADDRESS" in os.environ:  # the latter is how a submitted Ray job finds its cluster
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    else:
        # bound to loopback without a dashboard: a filter on a laptop must not open doors
        ray.init(
            num_cpus=max(workers or 0, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
            _node_ip_address="127.0.0.1",
        )
