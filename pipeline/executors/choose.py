"""Opens the executor that a job names: local threads, Ray on this machine, or a Ray cluster at an address."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial

from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.contract import Executor, Forwarding, Item, Needs, Result, Task
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.executors.ray_address import CONNECT_S, check_answers, check_connects, cluster_at, is_submitted
from winnow.pipeline.executors.ray_metrics import RayMetrics
from winnow.pipeline.executors.watching import Watcher


def open_executor(kind: str, workers: int | None, address: str | None, connect_s: float = CONNECT_S) -> Executor:
    """The executor called `local` or `ray`; workers None means one per core.

    address: of a running Ray cluster; `auto` for that of RAY_ADDRESS or, without it, the one this machine belongs to.
    None starts a local cluster when work begins, which listens on loopback only, whatever else runs on this machine; in
    a job that was submitted to Ray it is that job's cluster. Raises JobError within about 20 seconds if nothing answers
    at an address, even if there is no work. Raises JobError when work begins if the cluster accepts no driver within
    connect_s.
    """
    if kind == "local":
        if address:
            raise JobError("--address must come with --executor ray, got local; leave one of the two out")
        return LocalExecutor(workers)
    if kind == "ray":
        found = cluster_at(address)
        _prepare_ray(found)
        return _Lazy(partial(_ray, workers, found, connect_s))
    raise JobError(f"the executor must be 'local' or 'ray', got {kind!r}")


class _Lazy(Forwarding):
    """Opens an executor when work begins, so that a run with nothing to do neither imports Ray nor joins a cluster."""

    def __init__(self, opening: Callable[[], Executor]) -> None:
        self._opening = opening

    @cached_property
    def _inner(self) -> Executor:  # type: ignore[override]  # created on first access
        return self._opening()

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """See Executor.map."""
        return self._inner.map(task, items, label, needs) if items else iter(())

    @property
    def avoided(self) -> Mapping[str, str]:
        """See Executor.avoided."""
        return self._inner.avoided if "_inner" in vars(self) else {}

    def close(self) -> None:
        """See Executor.close."""
        if "_inner" in vars(self):
            self._inner.close()


def _ray(workers: int | None, address: str | None, connect_s: float) -> Executor:
    if address and not is_submitted():  # a submitted job already belongs to its cluster
        check_connects(address, connect_s)
    # importing ray takes a second, which the local executor saves
    from winnow.pipeline.executors.on_ray import RayExecutor

    return RayExecutor(workers, address)


def open_metrics(kind: str, job: str) -> tuple[Watcher, ...]:
    """Watchers that export the counts of this kind of executor to Prometheus; none without Ray."""
    return (RayMetrics(job),) if kind == "ray" else ()


def _prepare_ray(address: str | None) -> None:
    """Check the address, and set the environment variables that Ray reads only while it is imported."""
    # the errors of calls that nobody waits for, after another error has ended the run
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if address:
        check_answers(address)
    else:
        # Ray has it for laptops whose firewall asks: the node is 127.0.0.1, and all of its ports listen only there
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
