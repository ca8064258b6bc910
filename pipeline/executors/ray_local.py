"""Starts a Ray cluster on this machine for one run, without the services that such a run does not use.

`ray.init` starts a web server and waits until it listens, an autoscaler, and a log monitor. It has no option against
them. Each is a Python process that imports Ray: together 3 seconds of CPU at the start. The autoscaler takes one more
second at the end, until Ray kills it. So Ray's class of a head node is replaced while `ray.init` runs. A Ray whose
class is not where it was (seen: 2.60) starts with all of its services.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from winnow.pipeline.errors import JobError
from winnow.pipeline.machine import cores


def start_local(workers: int | None) -> None:
    """Start a cluster of one node and connect to it: with a core for each worker, or all that this process may use.

    The larger number counts. Its ports are bound to loopback (choose.py). Its token keeps other users out.
    Raises JobError if Ray does not start: it gives its processes 30 seconds, too few for a machine that is overloaded.
    """
    try:
        with _lean():
            ray.init(
                "local",  # else Ray joins any cluster that it finds a trace of
                num_cpus=max(workers or 0, cores()),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
            )
    except Exception as error:  # Ray raises bare exceptions here
        raise JobError(
            f"Ray must start on this machine, but it did not: {str(error).strip() or type(error).__name__}; run the "
            f"same command again when the machine has less to do, or with --executor local"
        ) from error


@contextmanager
def _lean() -> Iterator[None]:
    """Let Ray start a node of state, workers and metrics, and nothing else."""
    try:
        import ray._private.node as nodes

        whole: Any = nodes.Node
    except (ImportError, AttributeError):
        yield
        return

    class HeadNode(whole):  # type: ignore[misc]  # ray is not typed
        def __init__(self, ray_params: Any, *words: Any, **options: Any) -> None:
            ray_params.no_monitor = True  # the autoscaler: this cluster never grows
            ray_params.include_log_monitor = False  # the driver shows no logs of workers
            # any free port: another cluster of this machine holds the usual one, and Ray tries that for 3.4 seconds
            ray_params.dashboard_agent_listen_port = 0
            super().__init__(ray_params, *words, **options)

        def start_api_server(self, **_: Any) -> None:
            """The web server: nobody looks at it."""

    nodes.Node = HeadNode
    try:
        yield
    finally:
        nodes.Node = whole
