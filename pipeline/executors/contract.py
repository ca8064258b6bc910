"""The contract of executors: every shard is done exactly once, retried after a failure, and accounted for.

An item is a shard, or a group of them. Work on an item is a picklable function of it, mostly a frozen dataclass with
`__call__`: it commits its own file and returns only something small. What a worker needs once for all of its items (a
model, centroids) is opened by a task, which then gives the function.
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
    """What one worker takes: CPU cores, GPUs (fractions share one), GB of memory; how often a failing item is retried.

    memory_gb: 10⁹ bytes that a worker declares to Ray, which then starts no more on a node than its memory holds; 0
        declares none. Nothing limits a worker to it.
    spare: how many failing items the job can do without; a pass whose first items all fail ends only with more.
    deadline_factor, deadline_floor_s: how long an item may take, by how long others took (pipeline/executors/
        deadlines.py).
    prefetch: a worker has two items under way, in threads that share what the task opened, which must bear that; the
        task takes turns (pipeline/executors/turns.py) where two must not be at it at once.
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
    """Work on items that are independent of each other; must be picklable and without state of its own."""

    def open(self) -> Callable[[I_contra], R_co]:
        """The function of one item, with what it keeps between items; called once per worker.

        Doing an item again must give the same files and the same result.
        """
        ...


@dataclass(frozen=True)
class Stateless(Generic[Item, Result]):
    """A picklable function of one item as a task: nothing is kept between items."""

    function: Callable[[Item], Result]

    def open(self) -> Callable[[Item], Result]:
        """See Task.open."""
        return self.function


@dataclass(frozen=True)
class Reduction(Generic[Item, Result]):
    """A task whose results add up. An executor may combine those of one call before they leave the worker.

    task: the work. merge: (results) -> the result of all of them, from one at least; picklable, associative and
    commutative, and it may change the results that it is given.
    """

    task: Task[Item, Result]
    merge: Callable[[Sequence[Result]], Result]

    def open(self) -> Callable[[Item], Result]:
        """See Task.open."""
        return self.task.open()

    def combine(self, results: Sequence[Result]) -> list[Result | None]:
        """As many results: the first holds all of them, the others hold nothing."""
        return [self.merge(results), *[None] * (len(results) - 1)]


class Executor(Protocol):
    """Runs tasks over items with some workers; the answer never depends on which executor or how many."""

    @property
    def workers(self) -> int:
        """Number of items that are done at the same time."""
        ...

    @property
    def failed(self) -> Mapping[int, int]:
        """How often items of the present `map` failed so far, by index; those that never did are absent."""
        ...

    @property
    def avoided(self) -> Mapping[str, str]:
        """Nodes that get no more work, for their workers failed, by name: what kind of error it was."""
        ...

    def start(self) -> None:
        """Be ready for work, as the first `map` would be; nothing where it is already."""
        ...

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """(index of item, result) in any order, each exactly once.

        A task with a method `combine`, such as a Reduction, may have its results combined: of some items that were done
        together the first one has all of the result, and the others have None.

        An item that raises a WinnowError or an OSError, or whose worker dies, is tried again `needs.retries`
        times, unless no other try can do better (pipeline/executors/retries.py). Raises FailedShards
        after all others are done when some still fail, and before where it is of no use to begin them. A FATAL
        error and any other exception, which is a bug, surface at once.
        """
        ...

    def close(self) -> None:
        """End the workers that this executor started."""
        ...


class Forwarding:
    """What an executor that stands before another, its `_inner`, leaves to that as it is."""

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
    """What an error message calls an item: its url where it has one."""
    return str(getattr(item, "url", item))
