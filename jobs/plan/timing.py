"""Times every call of an executor, inside the process that makes the call.

Ray's workers are separate processes, so each appends to its own file; the driver reads these files after a stage.
"""

import json
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from winnow.pipeline.exchange.steps import DecideTask, ScatterTask, SettleTask
from winnow.pipeline.executors.contract import Executor, Forwarding, Needs, Stateless, Task
from winnow.pipeline.stage import ShardItem


@dataclass(frozen=True)
class Call:
    """One call. label: of the pass. step: run, scatter, decide or settle. index: of its input shard, None without one.

    seconds: duration. sent: bytes of the tables that it sent to others. peak: highest resident bytes of its process so
    far. read: bytes that its process read meanwhile by system calls. worker: process and thread.
    """

    label: str
    step: str
    index: int | None
    seconds: float
    sent: int
    peak: int
    read: int
    worker: str


@dataclass(frozen=True)
class _StepClock:
    folder: str
    label: str

    def time(self, step: str, index: int | None, work: Any) -> Any:
        before, started = bytes_read(), time.perf_counter()
        result = work()
        seconds = time.perf_counter() - started
        sent = sum(table.nbytes for table in result.values()) if step in ("scatter", "decide") else 0
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        worker = f"{os.getpid()}:{threading.get_ident()}"
        line = json.dumps([self.label, step, index, seconds, sent, peak, bytes_read() - before, worker])
        with open(f"{self.folder}/{os.getpid()}.jsonl", "a") as file:  # one write per line, so threads do not mix
            file.write(line + "\n")
        return result


@dataclass(frozen=True)
class _Timed:
    task: Any
    clock: _StepClock

    def open(self) -> Callable[[Any], Any]:
        return partial(_timed, self.task.open(), self.clock)


def _timed(function: Callable[[Any], Any], clock: _StepClock, item: Any) -> Any:
    return clock.time("run", _shard_of(item), lambda: function(item))


def _shard_of(item: Any) -> int | None:
    return item.index if isinstance(item, ShardItem) else None


@dataclass(frozen=True)
class _TimedExchange:
    work: Any
    clock: _StepClock

    @property
    def parts(self) -> int:
        return int(self.work.parts)

    def scatter(self, item: Any) -> Mapping[int, pa.Table]:
        found: Mapping[int, pa.Table] = self.clock.time("scatter", _shard_of(item), lambda: self.work.scatter(item))
        return found

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        found: Mapping[int, pa.Table] = self.clock.time("decide", None, lambda: self.work.decide(part, tables))
        return found

    def settle(self, item: Any, tables: Sequence[pa.Table]) -> Any:
        return self.clock.time("settle", _shard_of(item), lambda: self.work.settle(item, tables))


class Timing(Forwarding):
    """An executor on this machine that times its calls. `take` returns the calls since the last `take`."""

    def __init__(self, inner: Executor, folder: Path) -> None:
        self._inner, self._folder = inner, folder
        folder.mkdir(parents=True, exist_ok=True)

    def map(self, task: Task[Any, Any], items: Sequence[Any], label: str, needs: Needs) -> Iterator[Any]:
        """See Executor.map; of an exchange its calls on each item and part are timed, not those of its spans."""
        step = task.function if isinstance(task, Stateless) else None
        if isinstance(step, ScatterTask | DecideTask | SettleTask):
            work = _TimedExchange(step.work, _StepClock(str(self._folder), step.label))
            return self._inner.map(Stateless(replace(step, work=work)), items, label, needs)
        return self._inner.map(_Timed(task, _StepClock(str(self._folder), label)), items, label, needs)

    def take(self) -> list[Call]:
        """The calls of all workers since the last `take`."""
        found = []
        for path in sorted(self._folder.glob("*.jsonl")):
            found += [Call(*json.loads(line)) for line in path.read_text().splitlines()]
            path.unlink()
        return found


def bytes_read() -> int:
    """Bytes that this process has read so far by system calls; always 0 if the system does not count them."""
    try:
        with open("/proc/self/io") as file:
            return int(file.readline().split()[1])
    except OSError:  # not Linux: the estimate then has no bytes read
        return 0
