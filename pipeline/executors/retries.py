"""Decides which failures are retried, and when a pass stops because every shard fails for a lasting reason."""

import errno
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from winnow.pipeline.errors import (
    AccountingError,
    DataError,
    DeviceError,
    FailedShards,
    FullError,
    JobError,
    ModelError,
    PoolError,
    ShardError,
    SpanError,
    TornError,
)

FATAL = (JobError, ModelError, DeviceError, FullError)
"""Errors that every item would have. They end a stage at once, unless another worker may succeed."""

FEW = 3
"""A pass ends early if at least this many items have failed for good and none is done."""

_LASTING = (PoolError, DataError, TornError, AccountingError)
"""Errors about the content of a file, which is the same when it is read again."""

_LASTING_CALLS = (PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_NUMBERS = {errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(frozen=True)
class Failure:
    """Why an item could not be done. name: of the item. lasting: whether no retry can help."""

    name: str
    message: str
    lasting: bool = False


def failure(name: str, error: Exception) -> Failure:
    """The Failure of an item, from its WinnowError or OSError. Raises errors that end the stage: FATAL, FullError."""
    if isinstance(error, FATAL):
        raise error
    if any(cause.errno in _FULL for cause in _calls(error)):
        raise FullError(str(error)) from error
    return Failure(name, str(error), is_lasting(error))


def failures(name: str, error: Exception) -> list[Failure]:
    """The Failure of an item; for a SpanError, those of all items of the span that failed."""
    if isinstance(error, SpanError):
        return [failure(of, one) for of, one in error.failures]
    return [failure(name, error)]


def is_lasting(error: BaseException) -> bool:
    """True if no retry can help.

    The first error of the operating system, or of a back end, decides, whatever it was turned into. A file without read
    permission stays unreadable, but a disk or network that failed may recover. A missing file is tried again, because a
    shared file system may show a file some seconds late, and a try costs nothing.
    """
    for cause in _calls(error):
        return isinstance(cause, _LASTING_CALLS) or cause.errno in _LASTING_NUMBERS
    return isinstance(error, _LASTING) or (isinstance(error, ShardError) and error.lasting)


def _calls(error: BaseException) -> Iterator[OSError]:
    """Of an error and its causes, those of failed system calls. (Arrow's OSErrors about content have no number.)"""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and (cause.errno is not None or type(cause) is not OSError):
            yield cause
        cause = cause.__cause__


class Account:
    """Counts the done and failed items of one pass; safe for threads.

    If an item fails, the pass goes on with the others, and says so once. The pass is over if the first items all
    failed, for lasting reasons, and are more than `spare`, the number that the job tolerates.
    """

    def __init__(self, label: str, total: int, spare: int) -> None:
        self._label, self._total, self._spare = label, total, spare
        self._lock = threading.Lock()
        self._done, self._told = 0, False
        self._failures: list[Failure] = []

    @property
    def over(self) -> bool:
        """Whether no further items should begin."""
        failed = len(self._failures)
        return not self._done and failed >= FEW and failed > self._spare and all(f.lasting for f in self._failures)

    @property
    def any_done(self) -> bool:
        """Whether any item is done."""
        return self._done > 0

    def done(self) -> None:
        """Count a done item."""
        with self._lock:
            self._done += 1
            self._tell()

    def failed(self, failures: Sequence[Failure]) -> None:
        """Add failures that will not be tried again."""
        with self._lock:
            self._failures += failures
            self._tell()

    def close(self) -> None:
        """Raises FailedShards if items failed."""
        if self._failures:
            failures = sorted((f.name, f.message) for f in self._failures)
            raise FailedShards(self._label, failures, self._total, ended_early=self.over)

    def _tell(self) -> None:
        """Print that the run will end with an error, and with which one."""
        if self._done and self._failures and not self._told:
            self._told = True
            name, message = self._failures[0].name, self._failures[0].message
            first = message.removeprefix(f"{name}: ").splitlines()[0]
            print(
                f"winnow: {self._label}: {name} failed and is not tried again; the others go on: {first}",
                file=sys.stderr,
                flush=True,
            )
