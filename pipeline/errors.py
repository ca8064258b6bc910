"""The one tree of errors; every one says the invariant, what came, and what to do.

WinnowError                     exit 1
├── JobError                    exit 2  the job file or an option is wrong; nothing was started
├── PoolError                           the pool cannot be listed, or is not what the job says
├── StorageError                        a file or object cannot be read or written
├── TornError                           a file of the store is not whole; deleted, it is made again
├── ModelError                          weights or a model's configuration cannot be loaded
├── DataError                           a value column breaks its contract (NaN, wrong length, unknown uid)
├── ShardError                          one shard cannot be read as a whole; it is retried, then failed
├── FailedShards                        some shards failed after every retry; the run can be resumed
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
    """The pool cannot be listed, or is not what the job says."""


class StorageError(WinnowError):
    """A file or object cannot be read or written."""


class TornError(WinnowError):
    """A file of the store is not whole: some other program's crash cut it short."""


class ModelError(WinnowError):
    """Weights or a model's configuration cannot be loaded."""


class DataError(WinnowError):
    """A value column breaks its contract: NaN, wrong length, unknown or repeated uid."""


class ShardError(WinnowError):
    """One shard cannot be read as a whole; it is retried, then counted as failed."""


class RejectsError(WinnowError):
    """More samples are rejected, or more shards cannot be read, than the job's limits bear."""


class AccountingError(WinnowError):
    """The law pool = kept + dropped + rejected does not hold."""


class FailedShards(WinnowError):
    """Some shards failed after every retry; what finished stays, and the same command resumes.

    failures: (item, message) of each shard that failed, in order of item.
    """

    def __init__(self, label: str, failures: Sequence[tuple[str, str]], total: int) -> None:
        self.failures = list(failures)
        shown = "\n".join(f"  {item}: {message}" for item, message in self.failures[:20])
        more = f"\n  … and {len(self.failures) - 20} more" if len(self.failures) > 20 else ""
        super().__init__(
            f"{label}: every shard must finish, but {len(self.failures)} of {total} failed after retries:\n"
            f"{shown}{more}\nThe others are kept; mend the cause and run the same command again to resume."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_failed_shards, (self.failures, str(self)))


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
