"""All exceptions of winnow in one tree; each message says the invariant, what came instead, and what to do.

WinnowError                     exit 1
├── JobError                    exit 2  the job file or an option is wrong; nothing was started
├── PoolError                   exit 2  the pool cannot be listed, or is not what the job says
├── StorageError                        a file or object cannot be read or written
├── FullError                           the storage takes no more: it is full, or may only be read
├── TornError                           a file of the store is not whole; deleted, it is made again
├── ModelError                  exit 2  weights or a model's configuration cannot be loaded
├── TrainingError                       a training ended otherwise than it should; the same command goes on
├── DataError                           a value column breaks its contract (NaN, wrong length, unknown uid)
├── ShardError                          one shard cannot be read as a whole; it is retried, then failed
├── FailedShards                        some shards failed for good; the run can be resumed
├── RejectsError                        more of the pool cannot be read than the job's limits bear
├── AccountingError                     pool = kept + dropped + rejected does not hold
└── SampleError                         one sample cannot be read: never ends a run, becomes a reject row
"""

from collections.abc import Sequence


class WinnowError(Exception):
    """Base of every error that winnow raises on purpose; `exit_code` is what the command returns."""

    exit_code = 1


class JobError(WinnowError):
    """The job file or an option is wrong; nothing was started."""

    exit_code = 2


class PoolError(WinnowError):
    """The pool cannot be listed, or is not what the job says; of a shard that is read, it becomes FailedShards."""

    exit_code = 2


class StorageError(WinnowError):
    """A file or object cannot be read or written."""


class FullError(WinnowError):
    """The storage takes no more: it is full, or may only be read; every other shard would be made in vain."""


class TornError(WinnowError):
    """A file of the store is not whole: some other program's crash cut it short."""


class ModelError(WinnowError):
    """Weights or a model's configuration cannot be loaded."""

    exit_code = 2


class TrainingError(WinnowError):
    """A training ended otherwise than it should; what it left stays, and the same command goes on."""


class DataError(WinnowError):
    """A value column breaks its contract: NaN, wrong length, unknown or repeated uid."""


class ShardError(WinnowError):
    """One shard cannot be read as a whole; it is retried, then counted as failed.

    lasting: it is whole, but not what its format can read, so it is not retried.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        self.lasting = lasting
        super().__init__(message)


class RejectsError(WinnowError):
    """More samples are rejected, or more shards cannot be read, than the job's limits bear."""


class AccountingError(WinnowError):
    """The law pool = kept + dropped + rejected does not hold."""


class FailedShards(WinnowError):
    """Some shards failed for good; what finished stays, and the same command resumes.

    failures: (item, message) of each shard that failed, in order of item. total: of all. ended_early: the others were
    not begun, for the first ones all failed and no other try could do better.
    """

    def __init__(
        self, label: str, failures: Sequence[tuple[str, str]], total: int, *, ended_early: bool = False
    ) -> None:
        self.failures = list(failures)
        count = len(self.failures)
        lines = _by_message(self.failures)
        shown = "\n".join(f"  {line}" for line in lines[:20])
        more = f"\n  … and {len(lines) - 20} more" if len(lines) > 20 else ""
        if ended_early:
            failed = f"the first {count} that were read, of {total}, failed, and no other try can do better"
            left = "The others were not begun"
        else:
            failed, left = f"{count} of {total} failed", "The others are kept"
        super().__init__(
            f"{label}: every shard must finish, but {failed}:\n{shown}{more}\n"
            f"{left}; fix the cause and run the same command again to resume."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_failed_shards, (self.failures, str(self)))


def _by_message(failures: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each message, which most begin with the name of their item: the first item, and how many more."""
    items: dict[str, list[str]] = {}
    for item, message in failures:
        items.setdefault(message.removeprefix(f"{item}: "), []).append(item)
    return [
        f"{first} and {len(rest)} more: {message}" if rest else f"{first}: {message}"
        for message, (first, *rest) in items.items()
    ]


def _failed_shards(failures: list[tuple[str, str]], message: str) -> FailedShards:
    error = FailedShards.__new__(FailedShards)
    Exception.__init__(error, message)
    error.failures = failures
    return error


class SampleError(WinnowError):
    """One sample cannot be read: becomes a reject row of this `kind`, and the run goes on.

    kind: a short stable name for ledgers and tables, such as `image-decode` or `no-caption`.
    """

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return (SampleError, (self.kind, str(self)))
