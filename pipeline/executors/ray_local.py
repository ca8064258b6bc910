"""Starts a Ray cluster on this machine for one run, without the services that such a run does not use.

`ray.init` starts a web server and waits until it listens, an autoscaler, and a log monitor. It has no option against
them. Each is a Python process that imports Ray: together 3 seconds of CPU at the start. The autoscaler takes one more
second at the end, until Ray kills it. So Ray's class of a head node is replaced while `ray.init` runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray._private.node as nodes

from winnow.pipeline.machine import cores


class _HeadNode(nodes.Node):  # type: ignore[misc]  # ray is not typed
    """State, workers and metrics, and nothing else."""

    def __init__(self, ray_params: Any, *words: Any, **options: Any) -> None:
        ray_params.no_monitor = True  # the autoscaler: this cluster never grows
        ray_params.include_log_monitor = False  # the driver shows no logs of workers
        # any free port: another cluster of this machine holds the usual one, and Ray tries that for 3.4 seconds
        ray_params.dashboard_agent_listen_port = 0
        super().__init__(ray_params, *words, **options)

    def start_api_server(self, **_: Any) -> None:
        """Nobody looks at it."""


def start_local(workers: int | None) -> None:
    """Start a cluster of one node and connect to it: with a core for each worker, or all that this process may use.

    The larger number counts. Its ports are bound to loopback (choose.py). Its token keeps other users out.
    """
    with _lean():
        ray.init(
            "local",  # else Ray joins any cluster that it finds a trace of
            num_cpus=max(workers or 0, cores()),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
        )


@contextmanager
def _lean() -> Iterator[None]:
    whole = nodes.Node
    nodes.Node = _HeadNode
    try:
        yield
    finally:
        nodes.Node = whole
