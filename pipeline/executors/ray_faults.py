"""Decides what is at fault when a call of a Ray actor fails: its item, its process, its GPU, its node, or the job."""

import errno
import mmap
import re
import traceback
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray import cloudpickle
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from winnow.pipeline.errors import JobError, WinnowError
from winnow.pipeline.executors.retries import FATAL
from winnow.pipeline.executors.task_opening import causes, everywhere, of_device

DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError)
"""What Ray raises for the calls of an actor whose process ended."""

_NO_MEMORY = ("can't allocate memory", "failed to map segment")  # messages of torch and of the dynamic linker
_LEAST_BYTES = 16 << 20
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")  # message of Ray, if a worker cannot unpickle a task


@dataclass(frozen=True)
class Broken:
    """Why a worker process cannot go on, although no item is known to be at fault.

    what: memory, if the process has none left; device, if a GPU failed at an item; open, if the task cannot be opened.
    error: to raise if all nodes have it.
    """

    what: Literal["memory", "device", "open"]
    message: str
    error: Exception

    @classmethod
    def of(cls, what: Literal["memory", "device", "open"], error: Exception) -> "Broken":
        """From an error; the message of a library's error includes its traceback."""
        if isinstance(error, WinnowError):
            return cls(what, first_line(error), error)
        error.add_note("".join(traceback.format_exception(error)))
        return cls(what, f"{type(error).__name__}: {first_line(error)}", _picklable(error))


Answer = tuple[float, list[tuple[bool | None, Any]]]
"""(seconds, outcomes), with an outcome for each of the first items of a call: (True, result); (False, failures) if the
item's data is at fault; (None, Broken), which is the last one, if the process cannot go on."""


def broken_by(error: Exception) -> Broken | None:
    """Why a process with this error at an item cannot go on; None if it can."""
    if starved(error):
        return Broken.of("memory", error)
    return Broken.of("device", error) if of_device(error) else None


def unopened(error: Exception) -> Broken | None:
    """The same for an error while opening a task; None if no worker anywhere could open it."""
    if starved(error):
        return Broken.of("memory", error)
    return None if everywhere(error) else Broken.of("open", error)


def answer_of(reference: Any) -> Answer | None:
    """The answer of a call; None if its node left before the answer was fetched. Raises DEATHS."""
    try:
        answer: Answer = ray.get(reference)
        return answer
    except RayTaskError as error:
        cause = error.cause
        if lacks_memory(cause):
            return 0.0, [(None, Broken("memory", first_line(cause), cause))]
        if (lost := _NO_MODULE.search(str(cause))) is not None:
            missing = JobError(
                f"every worker must be able to import {lost[1]}, as the driver is, but one cannot; install the package "
                f"that has it on all nodes, in the version of the driver"
            )
            return 0.0, [(None, Broken("open", first_line(cause), missing))]
        if isinstance(cause, FATAL):
            raise cause from error
        raise  # a bug, not bad data: its traceback matters more than the other shards
    except ObjectLostError:
        return None


def lacks_memory(error: BaseException) -> bool:
    """True if a process ran out of memory, by the type, number or words of an error or of its causes."""
    for cause in causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if isinstance(cause, MemoryError) or number == errno.ENOMEM or any(said in str(cause) for said in _NO_MEMORY):
            return True
    return False


def starved(error: BaseException) -> bool:
    """True if an error says that memory is missing, or if the process can no longer get the least that work needs."""
    if lacks_memory(error):
        return True
    try:
        mmap.mmap(-1, _LEAST_BYTES).close()
    except OSError:
        return True
    return False


def first_line(error: BaseException) -> str:
    """The message of an error on one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _picklable(error: Exception) -> Exception:
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001 - a class that cannot be copied may fail in any way
        told = RuntimeError(f"{type(error).__name__}: {error}")
        told.__notes__ = error.__notes__
        return told
    return error
