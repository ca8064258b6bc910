"""Runs tasks in threads of this process, without Ray: tests, tiny pools, a GPU box on its own."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import pyarrow as pa

from pipeline.errors import FailedShards, WinnowError
from pipeline.executor import Item, Needs, Regroup, Result, State, Task, describe


class LocalExecutor:
    """Threads, because the heavy parts (decode, matrix products, parquet, hashes) release the interpreter lock."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1

    def map(
        self, task: Task[State, Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """See Executor.map."""
        failures: list[tuple[str, str]] = []
        opened = threading.local()

        def attempt(item: Item) -> Result:
            for left in range(needs.retries, -1, -1):
                try:
                    if not hasattr(opened, "state"):
                        opened.state = task.open()
                    return task.run(opened.state, item)
                except (WinnowError, OSError):
                    if not left:
                        raise
            raise AssertionError("unreachable")

        with ThreadPoolExecutor(self.workers, thread_name_prefix=label) as threads:
            futures = {threads.submit(attempt, item): index for index, item in enumerate(items)}
            try:
                for future in as_completed(futures):
                    error = future.exception()
                    if error is None:
                        yield futures[future], future.result()
                    elif isinstance(error, WinnowError | OSError):
                        failures.append((describe(items[futures[future]]), str(error)))
                    else:  # a bug, not bad data: the traceback is worth more than the other shards
                        raise error
            finally:
                threads.shutdown(wait=True, cancel_futures=True)
        if failures:
            raise FailedShards(label, sorted(failures), len(items))

    def regroup(self, work: Regroup[Item, Result], items: Sequence[Item], label: str) -> Iterator[tuple[int, Result]]:
        """See Executor.regroup; all rows that are exchanged lie in memory at once."""
        parts: dict[int, list[pa.Table]] = defaultdict(list)
        for item in items:
            for part, table in work.scatter(item).items():
                parts[part].append(table)
        decided: dict[int, list[pa.Table]] = defaultdict(list)
        for part in sorted(parts):
            for index, table in work.decide(part, parts.pop(part)).items():
                decided[index].append(table)
        for index, item in enumerate(items):
            yield index, work.settle(item, decided.pop(index, []))

    def close(self) -> None:
        """Nothing outlives a call of map."""
