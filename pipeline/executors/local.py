"""The local executor: runs tasks in threads of this process, and exchanges tables through temporary files."""

import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count, islice
from typing import Generic

import pyarrow as pa

from winnow.pipeline.errors import WinnowError
from winnow.pipeline.executors.contract import Exchange, Item, Needs, Result, Task, check_part, item_name
from winnow.pipeline.executors.retries import Account, failure
from winnow.pipeline.machine import cores

_Place = tuple[str, int, int]
"""A table on disk: path of its file, first byte, byte after the last."""

_Spill = Mapping[int, _Place]
"""Tables that one call sent, by receiver."""


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

    def exchange(self, work: Exchange[Item, Result], items: Sequence[Item], label: str) -> Iterator[tuple[int, Result]]:
        """See Executor.exchange; tables lie in files of a temporary folder, and are mapped from there."""
        needs = Needs()
        # tables go through files, not through memory: those of all shards together may not fit, and pages of a mapped
        # file can be dropped
        with tempfile.TemporaryDirectory(prefix="winnow-") as folder:

            def scatter(index: int, item: Item) -> _Spill:
                tables = work.scatter(item)
                for part in tables:
                    check_part(label, part, work.parts)
                return _spill(f"{folder}/item-{index}", tables)

            def decide(part: int) -> _Spill:
                return _spill(f"{folder}/part-{part}", work.decide(part, [_mapped(place) for place in parts[part]]))

            def settle(index: int, item: Item) -> Result:
                return work.settle(item, [_mapped(place) for place in decided[index]])

            def of(index: int) -> str:
                return item_name(items[index])

            scatters = _Calls(len(items), of, lambda index: scatter(index, items[index]))
            parts = _by_receiver(self._drive(scatters, f"{label} (scatter)", needs))
            numbers = sorted(parts)
            decides = _Calls(len(numbers), lambda at: f"part {numbers[at]}", lambda at: decide(numbers[at]))
            decided = _by_receiver(self._drive(decides, f"{label} (decide)", needs))
            settles = _Calls(len(items), of, lambda index: settle(index, items[index]))
            yield from self._drive(settles, label, needs)

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
                    found = failure(calls.name(index), error)  # raises where no other shard can do better either
                    if found.lasting or failed[index] == needs.retries:
                        account.failed([found])
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


def _spill(stem: str, tables: Mapping[int, pa.Table]) -> _Spill:
    """Leave tables in one file, and say where each of them is."""
    path, places, start = f"{stem}.arrow", {}, 0  # one file a sender: shards × parts files would be too many
    with open(path, "wb") as file:
        for receiver, table in tables.items():
            with pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
            places[receiver] = path, start, file.tell()
            start = file.tell()
    return places


def _mapped(place: _Place) -> pa.Table:
    """A table in its file: nothing of it is read before it is used."""
    path, start, stop = place
    with pa.memory_map(path) as file:
        file.seek(start)
        return pa.ipc.open_stream(file.read_buffer(stop - start)).read_all()


def _by_receiver(sent: Iterable[tuple[int, _Spill]]) -> dict[int, list[_Place]]:
    """What was sent to each receiver, in the order of the senders."""
    found: dict[int, list[_Place]] = defaultdict(list)
    # by sender, whatever came first, so that a part sees its rows in the order of the pool
    for _, places in sorted(sent, key=lambda pair: pair[0]):
        for receiver, place in places.items():
            found[receiver].append(place)
    return found
