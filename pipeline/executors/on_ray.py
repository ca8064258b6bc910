"""The Ray executor: runs tasks in a pool of Ray actors.

Only references, summaries and errors reach the driver: an actor reads its shard from storage and commits its own file.
It uses actors of Ray core, not Ray Data: docs/LOG.md has the measurement.
"""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import ray

from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.batching import AIM_S, REDUCING_AIM_S, PassItems
from winnow.pipeline.executors.contract import Item, Needs, Result, Task, item_name
from winnow.pipeline.executors.ray_dispatch import Dispatcher
from winnow.pipeline.executors.ray_local import start_local
from winnow.pipeline.executors.ray_pool import ActorPool
from winnow.pipeline.executors.ray_worker import PREFETCHING

_SLICE = 2  # times the aim of a call; after that a worker returns the items that it has not begun


class RayExecutor:
    """Runs tasks in a pool of actors, which it keeps from stage to stage while the needs stay the same."""

    _own: ClassVar[bool] = False  # whether an executor of this process started the cluster that it is connected to

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self._started = not ray.is_initialized()
        if self._started:
            _connect(workers, address)
            RayExecutor._own = not address
        # a cluster of this process never grows, whichever executor started it; another one may grow when work waits
        self._pool = ActorPool(workers, fixed=RayExecutor._own)
        self._calls = 0
        self.failed: Mapping[int, int] = {}

    @property
    def workers(self) -> int:
        """Number of actors for tasks that need one core each."""
        return self._pool.size

    @property
    def avoided(self) -> Mapping[str, str]:
        """See Executor.avoided."""
        return self._pool.avoided

    def start(self) -> None:
        """Does nothing, because the executor is connected."""

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """See Executor.map. Raises JobError if one worker needs more than a local cluster has."""
        if not items:
            return
        self._calls += 1
        # put once, because the driver would pickle a task that is an argument of every call. From the number, actors
        # know whether they have opened it
        number, shared = self._calls, ray.put(task)
        aim_s = REDUCING_AIM_S if hasattr(task, "combine") else AIM_S

        def send(actor: Any, indices: Sequence[int]) -> Any:
            run = actor.run.options(concurrency_group=PREFETCHING) if needs.prefetch else actor.run
            return run.remote(number, shared, [items[index] for index in indices], _SLICE * aim_s)

        numbered = PassItems(len(items), lambda index: item_name(items[index]), send, aim_s)
        dispatcher = Dispatcher(numbered, label, needs, self._pool)
        self.failed = dispatcher.failed
        yield from dispatcher.results()

    def close(self) -> None:
        """End the actors, and the local cluster if this executor started it."""
        if ray.is_initialized():
            self._pool.release()
            if self._started:
                ray.shutdown()
                RayExecutor._own = False


def _connect(workers: int | None, address: str | None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _join(address)
        else:
            start_local(workers)
    except SystemExit as end:  # what Ray raises on a SIGTERM while it starts
        if end.code != signal.SIGTERM:
            raise
        _hear(before)
        signal.raise_signal(signal.SIGTERM)
    _hear(before)


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError) as error:
        raise JobError(f"a Ray cluster must answer at the address {address}, but: {error}") from error


def _hear(before: Any) -> None:
    """Restore the handler of SIGTERM, which ends the actors first, as Ctrl-C does. Ray's handler aborts the driver."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before if callable(before) else signal.default_int_handler)
