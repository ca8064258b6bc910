"""Starts a Ray cluster on this machine for one run, without the services that the run does not use.

`ray.init` starts a web server and waits for it, an autoscaler, and a log monitor. It has no option to leave them out.
Each is a Python process that imports Ray: together 3 seconds of CPU at the start. The autoscaler takes one more second
at the end, until Ray kills it. Therefore Ray's class of a head node is replaced while `ray.init` runs. If a version of
Ray has this class elsewhere (2.60 has it here), it starts with all services.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from winnow.pipeline.errors import JobError
from winnow.pipeline.machine import cores


def start_local(workers: int | None) -> None:
    """Start a cluster of one node and connect to it, with one core per worker or all cores that this process may use.

    The larger of both numbers counts. Its ports listen on loopback only (choose.py), and its token keeps other users
    out. Raises JobError if Ray does not start: its processes get 30 seconds, too few on an overloaded machine.
    """
    try:
        with _lean():
            ray.init(
                "local",  # otherwise Ray joins any cluster that it finds a trace of
                num_cpus=max(workers or 0, cores()),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
            )
    except Exception as error:  # Ray raises bare exceptions here
        raise JobError(
            f"Ray must start on this machine, but it did not: {str(error).strip() or type(error).__name__}; run the "
            f"same command again when the machine is less busy, or use --executor local"
        ) from error


@contextmanager
def _lean() -> Iterator[None]:
    """Make Ray start a head node with its store, workers and metrics, and nothing else."""
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
            # any free port; if another cluster has the usual port, Ray tries it for 3.4 seconds
            ray_params.dashboard_agent_listen_port = 0
            super().__init__(ray_params, *words, **options)

        def start_api_server(self, **_: Any) -> None:
            """Skip the web server, which nobody uses."""

    nodes.Node = HeadNode
    try:
        yield
    finally:
        nodes.Node = whole
