"""The worker in a Ray actor: does the shards of a call one after another, and reports each failure by itself.

What a call answers: (seconds, outcomes), an outcome for each of the first items that it was sent: (True, result);
(False, failures) where the item's data is at fault; (None, why) where the process ran out of memory.
"""

import errno
import mmap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from winnow.pipeline.errors import WinnowError
from winnow.pipeline.executors.contract import Task, item_name
from winnow.pipeline.executors.retries import Failure, failures

PREFETCHING = "prefetching"
"""The concurrency group of calls of which an actor does two at once; all others go one by one."""

_NO_MEMORY = ("can't allocate memory", "failed to map segment")  # torch's words, and those of who loads a library

_LEAST_BYTES = 16 << 20

Answer = tuple[float, list[tuple[bool | None, Any]]]


@contextmanager
def _told_as_it_is() -> Iterator[None]:
    """An error of a process without memory is a MemoryError, whatever it says.

    A library that was loaded in part may say that it has no attribute, or a model no weights.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or not _starved(error):
            raise
        raise MemoryError(first_line(error)) from error


class Worker:
    """One actor: keeps what the current task opened, and does one call at a time, or two by PREFETCHING."""

    def __init__(self) -> None:
        self._call = -1
        self._function: Any = None
        self._opening = threading.Lock()
        self._process = time.time_ns()

    def greet(self) -> int:
        """Answers once the actor runs: which of its processes, for it may be restarted, this one is."""
        return self._process

    def run(self, call: int, task: Task[Any, Any], items: Sequence[object], slice_s: float) -> Answer:
        """Do items, the first in any case, until all are done or the slice of time is over.

        An error that is raised is of the first item: a lack of memory, of FATAL ones and bugs whatever item's.
        """
        outcomes: list[tuple[bool | None, Any]] = []
        started = time.perf_counter()
        for item in items:
            # an item that fails is an outcome like another: were it raised, those done before it would be lost
            try:
                outcomes.append(self._one(call, task, item))
            except MemoryError as error:
                if not outcomes:
                    raise
                outcomes.append((None, first_line(error)))
                break
            if time.perf_counter() - started > slice_s:
                break
        return time.perf_counter() - started, _combined(task, outcomes)

    @_told_as_it_is()
    def _one(self, call: int, task: Task[Any, Any], item: object) -> tuple[bool, object]:
        try:
            return True, self._opened(call, task)(item)
        except (WinnowError, OSError) as error:
            return False, _failures(item_name(item), error)

    def _opened(self, call: int, task: Task[Any, Any]) -> Any:
        with self._opening:  # of two calls that prefetch, one opens and the other waits for it
            if call != self._call:
                self._function = None  # the last task's model must leave the memory before the next one's comes
                self._function = task.open()
                self._call = call
            return self._function


def _combined(task: Task[Any, Any], outcomes: list[tuple[bool | None, Any]]) -> list[tuple[bool | None, Any]]:
    """The same outcomes, those that are results combined where the task says how, so that the driver gets one."""
    combine = getattr(task, "combine", None)
    done = [at for at, (good, _) in enumerate(outcomes) if good]
    if combine is None or len(done) < 2:
        return outcomes
    try:
        found = combine([outcomes[at][1] for at in done])
    except WinnowError:  # results that do not fit together: the driver finds that too, and says so once
        return outcomes
    for at, result in zip(done, found, strict=True):
        outcomes[at] = True, result
    return outcomes


def _failures(name: str, error: Exception) -> list[Failure]:
    """What to say of an item whose data is at fault; as `failures`.

    Raises MemoryError where a lack of memory is behind the error: every other item would fail in this process too.
    """
    if _starved(error):
        raise MemoryError(str(error)) from error
    return failures(name, error)


def lacks_memory(error: BaseException) -> bool:
    """True where a process ran out of memory: by an error's type, number or words, or those of its causes."""
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        if isinstance(cause, MemoryError) or number == errno.ENOMEM or any(said in str(cause) for said in _NO_MEMORY):
            return True
        cause = cause.__cause__
    return False


def _starved(error: BaseException) -> bool:
    """True where an error says that memory lacks, or the process gets none any more, not even what any work needs."""
    if lacks_memory(error):
        return True
    try:
        mmap.mmap(-1, _LEAST_BYTES).close()
    except OSError:
        return True
    return False


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return (str(error) or type(error).__name__).splitlines()[0]
