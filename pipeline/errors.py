"""All exceptions of winnow in one tree; each message says the invariant, what came instead, and what to do.

WinnowError                     exit 1
├── JobError                    exit 2  the job file or an option is wrong; nothing was started
├── PoolError                   exit 2  the pool cannot be listed, or is not what the job says
├── StorageError                        a file or object cannot be read or written
├── FullError                           the storage cannot be written: it is full or read-only
├── TornError                           a file of the store is damaged; delete it, and the next run makes it again
├── ModelError                  exit 2  weights or a model's configuration cannot be loaded
│   └── WeightsError        exit 2  one machine cannot load weights: a download failed, a file is missing
├── DeviceError                         a GPU or its driver fails; another worker may do the same work
├── TrainingError                       a training failed; the same command continues it
├── DataError                           a value column breaks its contract (NaN, wrong length, unknown uid)
├── ShardError                          one shard cannot be read as a whole; it is retried, then failed
├── SpanError                           some shards of a group that a worker did at once failed; it names them
├── FailedShards                        some shards failed for good; the run can be resumed
├── RejectsError                        more of the pool cannot be read than the job's limits allow
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
    """The pool cannot be listed, or is not what the job says. Raised while a shard is read, it becomes FailedShards."""

    exit_code = 2


class StorageError(WinnowError):
    """A file or object cannot be read or written."""


class FullError(WinnowError):
    """The storage cannot be written: it is full or read-only. It ends the run: no other shard could be written."""


class TornError(WinnowError):
    """A file of the store is damaged: another program, or its crash, cut it short."""


class ModelError(WinnowError):
    """Weights or a model's configuration cannot be loaded."""

    exit_code = 2


class WeightsError(ModelError):
    """One machine cannot load weights: a download failed, or a file is missing. Another machine may have them."""


class DeviceError(WinnowError):
    """A GPU, its memory or its driver fails a worker; another worker may do the same work."""


class TrainingError(WinnowError):
    """A training failed. Its checkpoints stay, and the same command continues from them."""


class DataError(WinnowError):
    """A value column breaks its contract: NaN, wrong length, unknown or repeated uid."""


class ShardError(WinnowError):
    """One shard cannot be read. It is retried, then counted as failed.

    lasting: the file is whole, but its format cannot read it, so a retry is useless and none is made.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        self.lasting = lasting
        super().__init__(message)


class SpanError(WinnowError):
    """Some items of a group that a worker did at once failed; the others are done. Holds (name, error) of each."""

    def __init__(self, failures: Sequence[tuple[str, Exception]]) -> None:
        self.failures = list(failures)
        super().__init__("; ".join(f"{name}: {error}" for name, error in self.failures))

    def __reduce__(self) -> tuple[object, ...]:
        return (SpanError, (self.failures,))


class RejectsError(WinnowError):
    """More samples are rejected, or more shards cannot be read, than the job's limits allow."""


class AccountingError(WinnowError):
    """The law pool = kept + dropped + rejected does not hold."""


class FailedShards(WinnowError):
    """Some shards failed after all retries. Finished shards stay, and the same command resumes.

    failures: (item, message) of each failed shard, in order of item. total: number of shards. ended_early: the run
    stopped because all of the first shards failed in a way that retries cannot fix; the others were not started.
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
    """One line for each distinct message (without its item's name): the first item, and how many more have it."""
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
    """One sample cannot be read. It becomes a reject row of this `kind`, and the run goes on.

    kind: a short stable name for tables, such as `image-decode` or `no-caption`.
    """

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return (SampleError, (self.kind, str(self)))
