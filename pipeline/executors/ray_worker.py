"""The worker in a Ray actor: does the shards of a call one after another, and reports each failure by itself."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import ray

from winnow.pipeline.errors import WinnowError
from winnow.pipeline.executors.contract import Task, item_name
from winnow.pipeline.executors.ray_faults import Answer, broken_by, unopened
from winnow.pipeline.executors.retries import failures
from winnow.pipeline.executors.task_opening import opened

PREFETCHING = "prefetching"
"""The concurrency group for calls of which an actor runs two at once. It runs other calls one by one."""


class Worker:
    """The actors' class: keeps what the current task opened; runs one call at a time, or two if it prefetches."""

    def __init__(self) -> None:
        self._call = -1
        self._function: Any = None
        self._opening = threading.Lock()
        self._process = time.time_ns()

    def greet(self) -> tuple[int, str]:
        """Answer when the actor runs: its process, because an actor may be restarted, and its node."""
        return self._process, ray.get_runtime_context().get_node_id()

    def run(self, call: int, task: Task[Any, Any], items: Sequence[object], slice_s: float) -> Answer:
        """Do items until all are done or the time slice is over; the first one in any case.

        Raises only what ends the job: a FATAL error, or a bug.
        """
        outcomes: list[tuple[bool | None, Any]] = []
        started = time.perf_counter()
        for item in items:
            # a failed item is an outcome too; if it were raised, the results before it would be lost
            outcomes.append(self._one(call, task, item))
            if outcomes[-1][0] is None or time.perf_counter() - started > slice_s:
                break
        return time.perf_counter() - started, _combined(task, outcomes)

    def _one(self, call: int, task: Task[Any, Any], item: object) -> tuple[bool | None, object]:
        try:
            function = self._opened(call, task)
        except Exception as error:
            if (broken := unopened(error)) is None:
                raise
            return None, broken
        try:
            return True, function(item)
        except Exception as error:
            if (broken := broken_by(error)) is not None:
                return None, broken
            if isinstance(error, (WinnowError, OSError)):
                return False, failures(item_name(item), error)
            raise

    def _opened(self, call: int, task: Task[Any, Any]) -> Any:
        with self._opening:  # of two calls at once, one opens the task and the other waits
            if call != self._call:
                self._function = None  # the model of the last task must leave memory before the next model is loaded
                self._function = opened(task)
                self._call = call
            return self._function


def _combined(task: Task[Any, Any], outcomes: list[tuple[bool | None, Any]]) -> list[tuple[bool | None, Any]]:
    """The same outcomes, with the results combined if the task can, so that the driver receives a single one."""
    combine = getattr(task, "combine", None)
    done = [at for at, (good, _) in enumerate(outcomes) if good]
    if combine is None or len(done) < 2:
        return outcomes
    try:
        found = combine([outcomes[at][1] for at in done])
    except WinnowError:  # the results cannot be merged; the driver will find that too, and reports it once
        return outcomes
    for at, result in zip(done, found, strict=True):
        outcomes[at] = True, result
    return outcomes
