"""The local executor: runs tasks in threads of this process."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count, islice
from typing import Generic

from winnow.pipeline.errors import WinnowError
from winnow.pipeline.executors.contract import Item, Needs, Result, Task, item_name
from winnow.pipeline.executors.retries import Account, failures
from winnow.pipeline.machine import cores

_AHEAD = 4
"""Calls for each thread that are begun or done before the first result is taken: no more results are held."""


@dataclass(frozen=True)
class _Calls(Generic[Result]):
    """Calls by number, from 0 to count - 1: what an error calls each, and the call itself."""

    count: int
    name: Callable[[int], str]
    run: Callable[[int], Result]


class _Worker(Generic[Item, Result]):
    """One worker: its threads share what the task opens when the first of them asks."""

    def __init__(self, task: Task[Item, Result]) -> None:
        self._task, self._lock = task, threading.Lock()
        self._function: Callable[[Item], Result] | None = None

    def function(self) -> Callable[[Item], Result]:
        with self._lock:
            if self._function is None:
                self._function = self._task.open()
            return self._function


class LocalExecutor:
    """Threads: the heavy parts (decode, matrix products, parquet, hashes) release the interpreter lock."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or cores()
        self.failed: Mapping[int, int] = {}

    def start(self) -> None:
        """Threads begin with each call of map."""

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """See Executor.map."""
        # each worker opens its own model, and all of them on the one GPU that this process uses
        workers = min(self.workers, max(1, int(1 / needs.gpus))) if needs.gpus else self.workers
        opened = [_Worker(task) for _ in range(workers)]
        thread, numbers = threading.local(), count()

        def run(item: Item) -> Result:
            if not hasattr(thread, "worker"):
                thread.worker = opened[next(numbers) % workers]
            worker: _Worker[Item, Result] = thread.worker
            return worker.function()(item)

        calls = _Calls(len(items), lambda index: item_name(items[index]), lambda index: run(items[index]))
        yield from self._drive(calls, label, needs, 2 * workers if needs.prefetch else workers)

    def _drive(
        self, calls: "_Calls[Result]", label: str, needs: Needs, workers: int | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Run calls in threads, again when one fails, and yield (index, result) as they come; none is held on to."""
        account = Account(label, calls.count, needs.spare)
        self.failed = failed = Counter[int]()

        def attempts(index: int) -> tuple[Result] | None:
            """The result; None where it failed for good, or the pass was over before."""
            while not account.over:
                try:
                    result = calls.run(index)
                except (WinnowError, OSError) as error:
                    found = failures(calls.name(index), error)  # raises where no other shard can do better either
                    if all(one.lasting for one in found) or failed[index] == needs.retries:
                        account.failed(found)
                        return None
                    failed[index] += 1
                else:
                    account.done()
                    return (result,)
            return None

        left, width = iter(range(calls.count)), workers or self.workers
        with ThreadPoolExecutor(width, thread_name_prefix=label) as threads:
            futures = {threads.submit(attempts, index): index for index in islice(left, _AHEAD * width)}
            try:
                while futures:
                    for future in wait(futures, return_when=FIRST_COMPLETED).done:
                        index = futures.pop(future)
                        futures |= {threads.submit(attempts, another): another for another in islice(left, 1)}
                        # an error is worth more than the other shards: it is a bug, or no shard can do better
                        for result in future.result() or ():
                            yield index, result
            finally:
                threads.shutdown(wait=True, cancel_futures=True)
        account.close()

    def close(self) -> None:
        """Nothing outlives a call of map."""
