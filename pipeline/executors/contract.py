"""The contract of executors: every shard is done exactly once, retried after a failure, and accounted for.

An item is a shard, or a group of shards. The work on an item is a picklable function, usually a frozen dataclass with
`__call__`. It commits its own file and returns only a small result. A task opens what a worker needs once for all of
its items (a model, centroids), and returns the function.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")
Result = TypeVar("Result")

I_contra = TypeVar("I_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Needs:
    """The resources of one worker (CPU cores, GPUs or fractions of one, memory), and how failures are handled.

    memory_gb: 10⁹ bytes that a worker declares to Ray, so that Ray starts only as many on a node as its memory holds;
        0 declares none. It is not a limit for the worker.
    retries: how often a failing item is tried again.
    spare: how many failing items the job tolerates; a pass whose first items all fail goes on up to this number.
    deadline_factor, deadline_floor_s: how long an item may take, compared with others: deadlines.py.
    prefetch: a worker works on two items at once, in threads that share what the task opened. The task must be
        thread-safe, and takes turns (turns.py) where only one item may be at work.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.0
    retries: int = 2
    prefetch: bool = False
    spare: int = 0
    deadline_factor: float = 20.0
    deadline_floor_s: float = 1800.0


@runtime_checkable
class Task(Protocol[I_contra, R_co]):
    """Work on independent items. It must be picklable and have no state."""

    def open(self) -> Callable[[I_contra], R_co]:
        """The function for one item, with everything that it keeps between items. Called once per worker.

        Repeating an item must give the same files and the same result.
        """
        ...


@dataclass(frozen=True)
class Stateless(Generic[Item, Result]):
    """A task that keeps nothing between items: just a picklable function of one item."""

    function: Callable[[Item], Result]

    def open(self) -> Callable[[Item], Result]:
        """See Task.open."""
        return self.function


@dataclass(frozen=True)
class Reduction(Generic[Item, Result]):
    """A task whose results can be merged. An executor may merge the results of one call before they leave the worker.

    task: the work. merge: (results) -> their merged result, for one or more results. It must be picklable, associative
    and commutative, and may change the results that it is given.
    """

    task: Task[Item, Result]
    merge: Callable[[Sequence[Result]], Result]

    def open(self) -> Callable[[Item], Result]:
        """See Task.open."""
        return self.task.open()

    def combine(self, results: Sequence[Result]) -> list[Result | None]:
        """As many results as given: the first is the merged one, the others are None."""
        return [self.merge(results), *[None] * (len(results) - 1)]


class Executor(Protocol):
    """Runs tasks over items with some workers. Results do not depend on the executor or the number of workers."""

    @property
    def workers(self) -> int:
        """Number of items in progress at the same time."""
        ...

    @property
    def failed(self) -> Mapping[int, int]:
        """How often each item of the current `map` has failed so far, by index; items without a failure are absent."""
        ...

    @property
    def avoided(self) -> Mapping[str, str]:
        """The nodes that get no more work, because their workers failed, by name: the kind of error."""
        ...

    def start(self) -> None:
        """Get ready for work, as the first `map` would; does nothing if it is ready."""
        ...

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """(index of item, result) in any order, each exactly once.

        If a task has a method `combine`, as a Reduction has, the results of items that were done together may be
        combined: the first item has the whole result, and the others have None.

        If an item raises a WinnowError or an OSError, or its worker dies, it is tried again `needs.retries` times,
        unless no retry can help (pipeline/executors/retries.py). If items fail for good, raises FailedShards after all
        others are done, or before if the others cannot succeed either. A FATAL error is raised at once, and so is any
        other exception, which is a bug.
        """
        ...

    def close(self) -> None:
        """End the workers that this executor started."""
        ...


class Forwarding:
    """Base class of an executor that wraps another one, `_inner`: passes on everything except `map`."""

    _inner: Executor

    @property
    def workers(self) -> int:
        """See Executor.workers."""
        return self._inner.workers

    @property
    def failed(self) -> Mapping[int, int]:
        """See Executor.failed."""
        return self._inner.failed

    @property
    def avoided(self) -> Mapping[str, str]:
        """See Executor.avoided."""
        return self._inner.avoided

    def start(self) -> None:
        """See Executor.start."""
        self._inner.start()

    def close(self) -> None:
        """See Executor.close."""
        self._inner.close()


def item_name(item: object) -> str:
    """The name of an item in error messages: its url if it has one."""
    return str(getattr(item, "url", item))
