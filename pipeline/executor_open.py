"""Opens the executor that a job asks for by name; refuses any name but local and ray."""

from pipeline.errors import JobError
from pipeline.executor import Executor
from pipeline.executor_local import LocalExecutor


def open_executor(kind: str, workers: int | None, address: str | None) -> Executor:
    """The executor called `local` or `ray`; workers None means one per core.

    address: of a running Ray cluster (`auto` for the one this machine belongs to); None starts a local one.
    """
    if kind == "local":
        if address:
            raise JobError("--address names a Ray cluster, so it goes with --executor ray, not local")
        return LocalExecutor(workers)
    if kind == "ray":
        # importing ray costs a second, which the local executor and its tests need not pay
        from pipeline.executor_ray import RayExecutor

        return RayExecutor(workers, address)
    raise JobError(f"the executor must be 'local' or 'ray', but {kind!r} came")
