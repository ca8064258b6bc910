"""The local executor: runs tasks in threads of this process."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from winnow.pipeline.executors.contract import Item, Needs, Result, Task, item_name
from winnow.pipeline.executors.threads import Crew
from winnow.pipeline.machine import cores


class LocalExecutor:
    """Runs tasks in threads. The heavy parts (decode, matrix products, parquet, hashes) release the GIL."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or cores()
        self.failed: Mapping[int, int] = {}
        self.avoided: Mapping[str, str] = {}

    def start(self) -> None:
        """Threads begin with each call of map."""

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """See Executor.map. A thread cannot be ended: if an item exceeds its deadline, it fails, its thread stays."""
        self.failed = failed = Counter[int]()
        if not items:
            return
        # each worker opens its own model, all on the same GPU
        workers = min(self.workers, max(1, int(1 / needs.gpus))) if needs.gpus else self.workers
        yield from Crew(task, items, item_name, label, needs, min(workers, len(items)), failed).results()

    def close(self) -> None:
        """Does nothing, because no thread outlives a call of map."""
