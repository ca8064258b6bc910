"""Plays one scenario after another on a Ray cluster of three nodes, of which one is sick; a line of JSON for each.

    python -m tests.pipeline.executors.nodes FOLDER [SCENARIO ...]

A process of its own, for the one of the tests is connected to another cluster.
"""

import hashlib
import io
import json
import os
import sys
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from winnow.pipeline.errors import DeviceError, FailedShards
from winnow.pipeline.executors.contract import Needs, Stateless

ITEMS = 12
BYTES = 300_000
"""Of an answer, which Ray leaves on its node until the driver fetches it: it is above 100 kB."""

_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}
_NODE = {"object_store_memory": 100 << 20, "include_dashboard": False}
_PATIENCE_S = 90.0  # in which a busy machine starts a process anew


def sick() -> bool:
    """Whether this process runs on the sick node."""
    return os.environ.get("WINNOW_TEST_SICK") == "1"


def tries(folder: str, kind: str) -> int:
    """How often something was tried so far."""
    return len(list(Path(folder).glob(f"{kind}-*")))


def note(folder: str, kind: str) -> int:
    """One more try; how many there are."""
    Path(folder, f"{kind}-{time.monotonic_ns()}-{os.getpid()}").touch()
    return tries(folder, kind)


@dataclass(frozen=True)
class Fails:
    """Doubles numbers. On the sick node every call or opening fails; the others wait until two processes failed."""

    folder: str
    opening: Exception | None = None
    calling: Exception | None = None
    everywhere: bool = False

    def open(self) -> Callable[[int], int]:
        """See Task.open."""
        if self.opening is not None and (sick() or self.everywhere):
            note(self.folder, f"failed{os.getpid()}")
            raise self.opening
        return self.double

    def double(self, item: int) -> int:
        """The work."""
        if self.calling is not None and (sick() or self.everywhere):
            note(self.folder, f"failed{os.getpid()}")
            raise self.calling
        ends = time.monotonic() + _PATIENCE_S
        while self.failures() < 2 and time.monotonic() < ends:
            time.sleep(0.1)
        return 2 * item

    def failures(self) -> int:
        """How many processes failed: one may do so again before it is ended."""
        return len({path.name.partition("-")[0] for path in Path(self.folder).iterdir()})


@dataclass(frozen=True)
class Refused:
    """The hub refuses three times, wherever it is asked, and then gives the weights."""

    folder: str

    def open(self) -> Callable[[int], int]:
        """See Task.open."""
        if note(self.folder, "asked") <= 3:
            raise urllib.error.HTTPError("https://hub/weights", 429, "Too Many Requests", Message(), None)
        return abs


@dataclass(frozen=True)
class Sleeps:
    """One item never ends."""

    folder: str
    item: int

    def __call__(self, item: int) -> int:
        """The work."""
        if item == self.item:
            note(self.folder, "slept")
            time.sleep(9999)
        return item


@dataclass(frozen=True)
class Answers:
    """Large answers, the same for an item whoever gives them."""

    folder: str

    def __call__(self, item: int) -> bytes:
        """The work."""
        note(self.folder, f"item{item}")
        time.sleep(0.2)  # so that some are still under way when the driver looks away
        return expected(item)


def expected(item: int) -> bytes:
    """The answer of an item."""
    return hashlib.sha256(str(item).encode()).digest() * (BYTES // 32)


@contextmanager
def cluster() -> Iterator[Any]:
    """A head without cores, a healthy node and a sick one, of a core each."""
    os.environ |= _ENVIRONMENT
    from ray.cluster_utils import Cluster  # only here: what it imports reads the environment

    found = Cluster(initialize_head=True, head_node_args={**_NODE, "num_cpus": 0})
    try:
        found.healthy = found.add_node(num_cpus=1, **_NODE)
        found.sick = found.add_node(num_cpus=1, env_vars={"WINNOW_TEST_SICK": "1"}, **_NODE)
        yield found
    finally:
        found.shutdown()


def plain(executor: Any, task: Any, needs: Needs) -> dict[str, Any]:
    """What became of a pass."""
    found, error = {}, ""
    try:
        found.update(executor.map(task, range(ITEMS), "doubles", needs))
    except (FailedShards, DeviceError, ImportError, RuntimeError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    return {
        "found": sorted(found.items()),
        "error": error,
        "avoided": dict(executor.avoided),
        "failed": {str(item): times for item, times in Counter(executor.failed).items() if times},
    }


def lost_answers(executor: Any, nodes: Any, node: Any, folder: str, count: int) -> dict[str, Any]:
    """A node goes when answers lie on it that the driver has not fetched; how often items were done."""
    task, found, gone = Answers(folder), {}, False
    for index, answer in executor.map(Stateless(task), range(count), "answers", Needs()):
        found[index] = answer
        if not gone and len(found) >= count // 3:
            time.sleep(2)  # both workers are done with what they have, and their answers lie on their nodes
            nodes.remove_node(node, allow_graceful=False)
            gone = True
    wrong = [index for index, answer in found.items() if answer != expected(index)]
    return {"found": sorted(found), "wrong": wrong, "done": [tries(folder, f"item{item}") - 1 for item in range(count)]}


def main(folder: str, names: list[str]) -> None:
    """Play the scenarios, all if none is named."""
    with cluster() as nodes:
        from winnow.pipeline.executors.on_ray import RayExecutor

        for name in names or SCENARIOS:
            own = Path(folder, name)
            own.mkdir(parents=True)
            executor, started = RayExecutor(2, nodes.address), time.monotonic()
            try:
                with redirect_stderr(io.StringIO()) as said:
                    found = SCENARIOS[name](executor, nodes, str(own))
            finally:
                executor.close()
            found |= {"name": name, "seconds": round(time.monotonic() - started, 1), "tries": tries(str(own), "*")}
            found["said"] = [line for line in said.getvalue().splitlines() if line.startswith("winnow: ")]
            print(json.dumps(found), flush=True)


_CUDA = RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")
_DRIVER = DeviceError("device cuda needs a GPU that torch can use, but this machine has none; use auto or cpu")
_SHORT = Needs(retries=1, deadline_factor=2, deadline_floor_s=5)

SCENARIOS: dict[str, Callable[[Any, Any, str], dict[str, Any]]] = {
    "device": lambda executor, _, folder: plain(executor, Fails(folder, calling=_CUDA), Needs(retries=0)),
    "driver": lambda executor, _, folder: plain(executor, Fails(folder, opening=_DRIVER), Needs(retries=0)),
    "import": lambda executor, _, folder: plain(
        executor, Fails(folder, opening=ImportError("No module named 'open_clip'")), Needs(retries=0)
    ),
    "everywhere": lambda executor, _, folder: plain(
        executor, Fails(folder, calling=_CUDA, everywhere=True), Needs(retries=0)
    ),
    "refused": lambda executor, _, folder: plain(executor, Refused(folder), Needs(retries=0)),
    "sleeps": lambda executor, _, folder: plain(executor, Stateless(Sleeps(folder, 5)), _SHORT),
    "answers": lambda executor, nodes, folder: lost_answers(executor, nodes, nodes.sick, folder, 60),
}
"""The last one takes the sick node away."""


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
