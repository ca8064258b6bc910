"""Measures every shard of a pass (worker, seconds, rows, bytes), and reports to progress, event log and metrics."""

import os
import platform
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, Protocol, TypeVar, cast

from winnow.pipeline import storage
from winnow.pipeline.executors.contract import Executor, Item, Needs, Reduction, Result, Task
from winnow.pipeline.executors.turns import waited_s
from winnow.pipeline.progress import StageProgress
from winnow.pipeline.storage.s3_object import one_version

R = TypeVar("R")


@dataclass(frozen=True)
class Done:
    """One item of one pass of a stage.

    stage: name of the pass. shard: index of the item, None if it is not a shard. worker: host:process. seconds: of the
    last try, without waiting for a turn; in an exchange, of the last step. rows: samples, if the work counts them.
    rejects: samples that could not be read. bytes: of the committed files. retries: tries that failed.
    """

    stage: str
    shard: int | None
    worker: str
    seconds: float
    rows: int
    rejects: int
    bytes: int
    retries: int


class Watcher(Protocol):
    """Receives every event of a pass over items. It must be fast, because the driver waits for it."""

    def begin(self, stage: str, total: int, ready: int) -> None:
        """A pass of `total` items begins; an earlier run has finished `ready` of them."""
        ...

    def done(self, item: Done) -> None:
        """One item is done."""
        ...

    def end(self, stage: str, seconds: float) -> None:
        """The pass is complete. Not called for a pass that fails."""
        ...

    def avoided(self, node: str, error: str) -> None:
        """A node gets no more work because its workers fail. error: the kind of their error."""
        ...

    def made(self, label: str, artifact: str, seconds: float, reused: bool) -> None:
        """A stage, which has one or more passes, is done. reused: whether an earlier run did it."""
        ...


@dataclass(frozen=True)
class Measured(Generic[R]):
    """The result of a task, and its measurements. rows, rejects: of this item, also after results were combined."""

    result: R
    worker: str
    seconds: float
    bytes: int
    rows: int
    rejects: int


@dataclass(frozen=True)
class MeasuredTask(Generic[Item, Result]):
    """Wraps a task to measure it; the executor sees the same work."""

    task: Task[Item, Result]

    def open(self) -> Callable[[Item], Measured[Result]]:
        """See Task.open."""
        return partial(measured, self.task.open())


@dataclass(frozen=True)
class MeasuredReduction(MeasuredTask[Item, Result]):
    """The same for a task whose results are combined: each item is measured, and the first one has the result."""

    task: Reduction[Item, Result]

    def combine(self, seen: Sequence[Measured[Result]]) -> list[Measured[Result | None]]:
        """See Reduction.combine."""
        found = self.task.combine([one.result for one in seen])
        return [replace(cast(Measured[Result | None], one), result=r) for one, r in zip(seen, found, strict=True)]


def measured(function: Callable[..., R], *of: object) -> Measured[R]:
    """The result of a function of an item, and its measurements in this thread."""
    clock = _Clock()
    with one_version():  # if an object is replaced while it is read, the read fails instead of mixing old and new bytes
        return clock.seen(function(*of))


class _Clock:
    """A clock that starts when it is created."""

    def __init__(self) -> None:
        self._committed = storage.committed_bytes()
        self._waited = waited_s()
        self._started = time.perf_counter()

    def seen(self, result: R) -> Measured[R]:
        seconds = time.perf_counter() - self._started - (waited_s() - self._waited)
        return Measured(result, _worker(), seconds, storage.committed_bytes() - self._committed, *counted(result))


def _worker() -> str:
    return f"{platform.node()}:{os.getpid()}"


@dataclass(frozen=True)
class Watch:
    """Runs work on an executor and tells watchers about it. Every call shows its progress on stderr."""

    executor: Executor
    watchers: tuple[Watcher, ...] = ()

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], label: str, needs: Needs, ready: int = 0
    ) -> Generator[tuple[int, Result], None, None]:
        """As Executor.map. ready: number of further items that an earlier run finished."""
        measuring = MeasuredReduction(task) if isinstance(task, Reduction) else MeasuredTask(task)
        results = self.executor.map(measuring, items, label, needs)
        return self.told(results, items, len(items) + ready, label, ready, retried=True)

    def told(
        self,
        results: Iterator[tuple[int, Measured[Result]]],
        items: Sequence[Item],
        total: int,
        label: str,
        ready: int = 0,
        retried: bool = False,
        before: Callable[[], None] | None = None,
    ) -> Generator[tuple[int, Result], None, None]:
        """The results of one pass; tells the watchers about each of them.

        items: the items that the indices of the results refer to. total: items of the pass, of which an earlier run has
        done `ready`. retried: whether the executor counts the failures of these items. before: work before the first
        result, with its own progress line.
        """
        started = time.monotonic()
        for watcher in self.watchers:
            watcher.begin(label, total, ready)
        if before is not None:
            before()
        with StageProgress(label, total, ready) as progress, self._telling_avoided():
            for index, seen in results:
                progress.advance(seen.rows, seen.rejects)
                if self.watchers:
                    shard = getattr(items[index], "index", None)
                    shard = shard if isinstance(shard, int) else None  # a tuple's `index` is a method
                    # an exchange retries spans of items, so items have no count of their own
                    retries = self.executor.failed.get(index, 0) if retried else 0
                    done = Done(label, shard, seen.worker, seen.seconds, seen.rows, seen.rejects, seen.bytes, retries)
                    for watcher in self.watchers:
                        watcher.done(done)
                yield index, seen.result
        for watcher in self.watchers:
            watcher.end(label, time.monotonic() - started)

    @contextmanager
    def _telling_avoided(self) -> Iterator[None]:
        """When the block ends, even by an error, tell which nodes have been avoided since it began."""
        before = set(self.executor.avoided)
        try:
            yield
        finally:
            for node, error in self.executor.avoided.items():
                for watcher in self.watchers if node not in before else ():
                    watcher.avoided(node, error)


def counted(result: object) -> tuple[int, int]:
    """The rows and rejects of a summary; 0 if it does not count them."""
    if not isinstance(result, Mapping):
        return 0, 0
    rows, rejects = result.get("rows"), result.get("rejects")
    lost = sum(cast(Mapping[str, int], rejects).values()) if isinstance(rejects, Mapping) else 0
    return rows if isinstance(rows, int) else 0, lost
