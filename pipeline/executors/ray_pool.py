"""The Ray actors of one executor: how many, on which nodes, and which nodes are avoided because work fails there."""

import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import ray

from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.ray_faults import Broken
from winnow.pipeline.executors.ray_worker import PREFETCHING, Worker

FAILURES_A_NODE = 2
"""A node gets no more workers after this many failures, at different items or while opening the task."""

_FEW_NODES = 3

_POOLS: "weakref.WeakSet[ActorPool]" = weakref.WeakSet()


class ActorPool:
    """The actors, which are kept from pass to pass while the needs stay the same.

    asked: their number; None for as many as the cluster has room for. fixed: whether the cluster never grows.
    """

    def __init__(self, asked: int | None, fixed: bool) -> None:
        self._asked, self._fixed = asked, fixed
        self._takes: tuple[float, float, int] | None = None
        self._needs = Needs()
        self._actors: list[Any] = []
        self._told_waiting = False
        self._passes: list[int] = []  # threads that are in the middle of a pass
        self.avoided: dict[str, str] = {}
        """Nodes that were avoided in any pass, by name: the kind of error."""
        _POOLS.add(self)

    @property
    def size(self) -> int:
        """Number of actors for tasks that need one core each."""
        return self._asked or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def begin(self, needs: Needs, wanted: int) -> list[Any]:
        """The actors of a pass, at most `wanted`. Raises JobError if one actor needs more than a fixed cluster has."""
        takes = (needs.cpus, needs.gpus, _declared_bytes(needs))
        if takes != self._takes:
            self.release()
        # starting one takes a second, so actors are kept from pass to pass while they hold the same resources
        self._takes, self._needs = takes, needs
        lacking = min(wanted, self._fit(needs)) - len(self._actors)
        if lacking > 0:
            self._make_room(lacking)
            self._actors += [self._fresh() for _ in range(lacking)]
        self._passes.append(threading.get_ident())
        return list(self._actors)

    def end(self) -> None:
        """End the pass."""
        self._passes.pop()

    def restart(self, actor: Any) -> None:
        """Start a new process for an actor, wherever Ray finds room."""
        ray.kill(actor, no_restart=False)

    def replace(self, actor: Any, avoiding: Collection[str]) -> Any | None:
        """A new actor on none of these nodes; None if no other node could run it."""
        self.drop(actor)
        if not any(node["NodeID"] not in avoiding and self._could_have(node) for node in living()):
            return None
        self._actors.append(self._fresh(avoiding))
        return self._actors[-1]

    def drop(self, actor: Any) -> None:
        """End an actor for good."""
        ray.kill(actor)
        self._actors.remove(actor)

    def release(self) -> None:
        """End all actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def say_waiting(self) -> None:
        """Print once that no actor finds room. Raises JobError if no room can become free."""
        mine = threading.get_ident()
        if any(mine in pool._passes for pool in _POOLS if pool is not self):
            raise JobError(
                f"a pass must find room for a worker, but another executor of this process is in the middle of a pass: "
                f"{room_in_cluster(self._needs)}; first take all results of that pass, or close its executor"
            )
        if not self._told_waiting:
            self._told_waiting = True
            print(f"winnow: waiting for a worker; {room_in_cluster(self._needs)}", file=sys.stderr, flush=True)

    def _fit(self, needs: Needs) -> int:
        # all resources, not the free ones, because others may give back what they hold now
        has = ray.cluster_resources()
        fit = min((int(has.get(name, 0) / amount) for name, amount in _asked(needs).items() if amount), default=1)
        if self._fixed and not fit:
            raise JobError(
                f"one worker must fit in this machine, but it takes {_in_words(needs)} of {has.get('CPU', 0):g}, "
                f"{has.get('GPU', 0):g} and {has.get('memory', 0) / 1e9:.3g}; ask for less"
            )
        return self._asked or max(1, fit)

    def _make_room(self, actors: int) -> None:
        """If these actors have no room, make other executors of this process give back their idle ones."""
        free = ray.available_resources()
        if any(free.get(name, 0) < actors * amount for name, amount in _asked(self._needs).items()):
            for pool in _POOLS:
                if pool is not self and not pool._passes:
                    pool.release()

    def _fresh(self, avoiding: Collection[str] = ()) -> Any:
        needs = self._needs
        # unlimited restarts: the failures of an item are counted elsewhere
        return (
            ray.remote(concurrency_groups={PREFETCHING: 2})(Worker)
            .options(
                num_cpus=needs.cpus,
                num_gpus=needs.gpus,
                memory=_declared_bytes(needs) or None,
                max_restarts=-1,
                label_selector={"ray.io/node-id": f"!in({','.join(sorted(avoiding))})"} if avoiding else None,
            )
            .remote()
        )

    def _could_have(self, node: dict[str, Any]) -> bool:
        return all(node["Resources"].get(name, 0) >= amount for name, amount in _asked(self._needs).items())


class Nodes:
    """Counts the failures of nodes in one pass.

    A node is avoided after FAILURES_A_NODE failures. Device failures at the same item count once, because the item may
    be at fault.
    """

    def __init__(self, pool: ActorPool, label: str) -> None:
        self._pool, self._label = pool, label
        self._failures: dict[str, set[object]] = defaultdict(set)
        self.avoided: set[str] = set()

    def failed(self, node: str, cause: object, broken: Broken) -> None:
        """Count a failure on this node. cause: the item in progress, or a new object if there is none."""
        self._failures[node].add(cause)
        if len(self._failures[node]) < FAILURES_A_NODE or node in self.avoided:
            return
        self.avoided.add(node)
        name = next((node_name(found) for found in ray.nodes() if found["NodeID"] == node), node[:8])
        if name not in self._pool.avoided:
            self._pool.avoided[name] = type(broken.error).__name__
            self._tell(f"no more work goes to the node {name}, whose workers failed twice: {broken.message}")

    def cannot_start(self, error: Exception) -> None:
        """Report an actor left out of this pass because its process does not start; the error names its node."""
        self._tell(f"a worker cannot start, and the others go on without it: {error}")

    def _tell(self, what: str) -> None:
        print(f"winnow: {self._label}: {what}", file=sys.stderr, flush=True)

    @property
    def everywhere(self) -> bool:
        """Whether so many nodes fail that all of them will."""
        return len(self.avoided) >= max(_FEW_NODES, len(living()) / 2)


def living() -> list[dict[str, Any]]:
    """The nodes of the cluster now, as Ray lists them."""
    return [node for node in ray.nodes() if node["Alive"]]


def is_gone(node: str | None) -> bool:
    """Whether a node has left the cluster."""
    return node is not None and all(found["NodeID"] != node for found in living())


def node_name(node: dict[str, Any]) -> str:
    """A node's name for people: its host, and the first digits of Ray's node id."""
    return f"{node['NodeManagerHostname'] or node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def room_in_cluster(needs: Needs) -> str:
    """The needs of a worker and the resources of the cluster, in words."""
    free, total = ray.available_resources(), ray.cluster_resources()
    found = {name: f"{free.get(name, 0):g} of {total.get(name, 0):g}" for name in ("CPU", "GPU")}
    memory = f"{free.get('memory', 0) / 1e9:.3g} of {total.get('memory', 0) / 1e9:.3g}"
    enough = all(total.get(name, 0) >= amount for name, amount in _asked(needs).items())
    until = (
        "another run or executor holds the others until it ends" if enough else "it begins once the cluster has grown"
    )
    return (
        f"each takes {_in_words(needs)}, and of the cluster's cores {found['CPU']} are free, of its GPUs "
        f"{found['GPU']}, of its GB of memory {memory}; {until}"
    )


def _declared_bytes(needs: Needs) -> int:
    """Bytes of memory that a worker declares to Ray."""
    return int(needs.memory_gb * 1e9)


def _asked(needs: Needs) -> dict[str, float]:
    return {"CPU": needs.cpus, "GPU": needs.gpus, "memory": _declared_bytes(needs)}


def _in_words(needs: Needs) -> str:
    return f"{needs.cpus:g} cores, {needs.gpus:g} GPUs and {needs.memory_gb:g} GB of memory"
