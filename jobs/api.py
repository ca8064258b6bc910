"""The Python API behind `import winnow`: loads, plans and runs a job, and keeps the top of plain arrays."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from winnow.jobs import run as running
from winnow.jobs.finished_job import FinishedJob, open
from winnow.jobs.job_file.changes import put
from winnow.jobs.job_file.job import Job, parse, read
from winnow.jobs.plan.inputs import look_at_inputs
from winnow.jobs.watch import recorded
from winnow.pipeline import keep_top as selecting
from winnow.pipeline.errors import DataError
from winnow.pipeline.executors.choose import open_executor
from winnow.pipeline.progress import hushed
from winnow.pipeline.uid import uids_from


def load(job: str | Mapping[str, Any], set: Mapping[str, object] | None = None) -> Job:
    """A job from a YAML file, or from plain values as a file holds them. Everything is checked.

    set: values by path, such as {"policy.3.density.fraction": 0.3}. File names in a job file are relative to its
    folder, all others to the working directory. Raises JobError for an invalid job.
    """
    values = read(job) if isinstance(job, str) else _copied(job)
    for path, value in (set or {}).items():
        put(values, path, value, "set")
    return parse(values)


def plan(job: Job, looked: bool = True) -> Mapping[str, str]:
    """The state of every stage by label, in order: `done`, or how much of it exists. Runs nothing.

    looked: whether to read the first samples of the pool too. Raises what a run would raise before it starts: JobError,
    PoolError, ModelError, DataError.
    """
    path, identities = running.laid_out(job)
    if looked:
        look_at_inputs(job, path, identities)
    return {label: str(state) for label, _, state in running.states_of(job, path, identities)}


def run(
    job: Job,
    executor: str = "ray",
    workers: int | None = None,
    address: str | None = None,
    say: Callable[[str], None] | None = None,
) -> FinishedJob:
    """Run a job to its end. Finished stages are used again, so the same call resumes.

    executor: `ray` or `local` (this process). workers: None takes the number in the job, or else one per core or GPU.
    address: of a running Ray cluster. say: called with one line for each stage; None is silent. Raises WinnowError;
    finished work stays.
    """
    running_on = open_executor(executor, workers or job.resources.workers, address)
    try:
        with hushed(say is None), recorded(job.store, job.name, executor) as watchers:
            running.run_job(job, running_on, say or _silent, watchers)
    finally:
        running_on.close()
    return open(job.store, job.name)


def keep_top(
    values: Sequence[float] | np.ndarray,
    uids: object,
    quota: int | Sequence[int] | np.ndarray,
    groups: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Exact top-k by group: bool (n,), true for the `quota` rows of highest value in each group.

    Ties go to the lower uid, then to the earlier row. values: (n,), int or float, no NaN in a row of a group.
    uids: (n,), as 32 hex digits or 16 bytes each, or of dtype u8,u8. groups: int (n,), indices into quota;
    rows of group -1 are never kept; None means one group. quota: (g,), or one number for one group.
    Raises DataError for invalid input.
    """
    value = np.asarray(values)
    if value.dtype.kind in "iub" and value.dtype != np.uint64:
        value = value.astype(np.int64)
    elif value.dtype == np.float16:
        value = value.astype(np.float32)
    group = np.zeros(len(value), np.int32) if groups is None else np.asarray(groups).astype(np.int32)
    limits = np.atleast_1d(np.asarray(quota, np.int64))
    if (limits < 0).any():
        raise DataError(f"a quota must be at least 0 rows, got {limits.min()}")
    [kept] = selecting.keep_top([selecting.Rows(value, group, uids_from(uids), 0)], limits)
    return kept


def _silent(line: str) -> None:
    del line


def _copied(value: Any) -> Any:
    """A deep copy of plain values, so that `set` does not change the caller's."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value
