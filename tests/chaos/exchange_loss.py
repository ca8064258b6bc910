"""An exchange on a Ray cluster of two nodes on loopback, one of which is lost in a step: what is done again for it.

`python -m tests.chaos.exchange_loss FOLDER STEP …` prints a line of JSON for each step. A process of its own, for the
cluster reads the environment when Ray is imported (tests/chaos/__main__.py sets it).
"""

import json
import sys
import threading
import time
from pathlib import Path

from tests.pipeline.exchange.spread import Spread, calls, exchanged, expected

SPAN = 5
"""Items that a worker takes as one: 40 of two workers, each of which has four spans."""

_ITEMS, _PARTS = 8 * SPAN, 16
_LOSES_AFTER = 6  # calls of the step


def lost(folder: Path, steps: list[str]) -> None:
    """Run an exchange for each step, and lose a node in the middle of it."""
    from ray.cluster_utils import Cluster

    from winnow.pipeline.executors.on_ray import RayExecutor

    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    executor = None
    try:
        nodes = [cluster.add_node(**node) for _ in range(2)]
        executor = RayExecutor(2, cluster.address)
        for step in steps:
            seen, pieces = folder / step / "calls", folder / step / "pieces"
            seen.mkdir(parents=True)
            stopped = threading.Event()

            def lose(step: str = step, seen: Path = seen, stopped: threading.Event = stopped) -> None:
                while len(list(seen.glob(f"{step}*"))) < _LOSES_AFTER and not stopped.is_set():
                    time.sleep(0.01)
                cluster.remove_node(nodes.pop(0), allow_graceful=False)

            thread = threading.Thread(target=lose)
            thread.start()
            # a piece is an item or a part, as nothing is held
            found = exchanged(executor, Spread(_PARTS, folder=str(seen), waits=0.1), _ITEMS, pieces, held=1)
            stopped.set()
            thread.join()
            nodes.append(cluster.add_node(**node))  # here, for it handles signals, which only the main thread may
            again = {call: count - 1 for call, count in calls(seen).items() if count > 1}
            print(json.dumps({"step": step, "same": found == expected(_PARTS, _ITEMS), "again": again}), flush=True)
    finally:
        if executor is not None:
            executor.close()
        cluster.shutdown()


if __name__ == "__main__":
    lost(Path(sys.argv[1]), sys.argv[2:])
