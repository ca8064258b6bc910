"""Runs tasks in threads of this process, without Ray: tests, tiny pools, a GPU box on its own."""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial

import pyarrow as pa

from pipeline.errors import FailedShards, WinnowError
from pipeline.executor import FATAL, Item, Needs, Regroup, Result, State, Task, check_part, describe


class LocalExecutor:
    """Threads: the heavy parts (decode, matrix products, parquet, hashes) release the interpreter lock."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1

    def map(
        self, task: Task[State, Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """See Executor.map."""
        opened = threading.local()

        def run(item: Item) -> Result:
            if not hasattr(opened, "state"):
                opened.state = task.open()
            return task.run(opened.state, item)

        calls = [(describe(item), partial(run, item)) for item in items]
        # each thread opens its own model, and all of them on the one GPU that this process uses
        threads = min(self.workers, max(1, int(1 / needs.gpus))) if needs.gpus else self.workers
        yield from self._drive(calls, label, needs.retries, threads)

    def regroup(self, work: Regroup[Item, Result], items: Sequence[Item], label: str) -> Iterator[tuple[int, Result]]:
        """See Executor.regroup; all rows that are exchanged lie in memory at once."""
        retries = Needs().retries
        scatters = [(describe(item), partial(work.scatter, item)) for item in items]
        parts: dict[int, list[pa.Table]] = defaultdict(list)
        for _, scattered in sorted(self._drive(scatters, f"{label} (scatter)", retries), key=_index):
            for part, table in scattered.items():
                check_part(label, part, work.parts)
                parts[part].append(table)
        decides = [(f"part {part}", partial(work.decide, part, parts[part])) for part in sorted(parts)]
        decided: dict[int, list[pa.Table]] = defaultdict(list)
        for _, settled in sorted(self._drive(decides, f"{label} (decide)", retries), key=_index):
            for index, table in settled.items():
                decided[index].append(table)
        settles = [(describe(item), partial(work.settle, item, decided[i])) for i, item in enumerate(items)]
        yield from self._drive(settles, label, retries)

    def _drive(
        self, calls: Sequence[tuple[str, Callable[[], Result]]], label: str, retries: int, workers: int | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Run (name, call) pairs in threads, again when one fails, and yield (index, result) as they come."""
        failures: list[tuple[str, str]] = []
        with ThreadPoolExecutor(workers or self.workers, thread_name_prefix=label) as threads:
            futures = {threads.submit(_attempt, call, retries): i for i, (_, call) in enumerate(calls)}
            try:
                for future in as_completed(futures):
                    error = future.exception()
                    if error is None:
                        yield futures[future], future.result()
                    elif isinstance(error, WinnowError | OSError) and not isinstance(error, FATAL):
                        failures.append((calls[futures[future]][0], str(error)))
                    else:  # no shard can do better, or a bug: either is worth more than the other shards
                        raise error
            finally:
                threads.shutdown(wait=True, cancel_futures=True)
        if failures:
            raise FailedShards(label, sorted(failures), len(calls))

    def close(self) -> None:
        """Nothing outlives a call of map."""


def _attempt(call: Callable[[], Result], retries: int) -> Result:
    for _ in range(retries):
        try:
            return call()
        except FATAL:
            raise
        except (WinnowError, OSError):
            continue  # the last attempt, below, is the one that tells
    return call()


def _index(pair: tuple[int, object]) -> int:
    return pair[0]
