"""An exchange on a Ray cluster of this machine, for a driver that is killed in it and started again.

`python -m tests.chaos.exchange_driver FOLDER` goes on from what an earlier process left in the folder. It prints a
line of JSON at its end: whether the answer is right, and which calls were made more than once.
"""

import json
import sys
from pathlib import Path

from tests.pipeline.exchange.spread import Spread, calls, exchanged, expected

WORKERS, SPAN = 2, 5
"""SPAN: items that a worker takes as one: 40 of two workers, each of which has four spans."""

ITEMS, PARTS = 8 * SPAN, 80


def driven(folder: Path) -> None:
    """Run the exchange; a piece is an item or a part, as nothing is held."""
    from winnow.pipeline.executors.on_ray import RayExecutor

    seen = folder / "calls"
    seen.mkdir(parents=True, exist_ok=True)
    executor = RayExecutor(WORKERS)
    try:
        found = exchanged(executor, Spread(PARTS, folder=str(seen), waits=0.1), ITEMS, folder / "pieces", held=1)
    finally:
        executor.close()
    again = {call: count - 1 for call, count in calls(seen).items() if count > 1}
    print(json.dumps({"same": found == expected(PARTS, ITEMS), "again": again}), flush=True)


if __name__ == "__main__":
    driven(Path(sys.argv[1]))
