"""Times the steps whose cost does not grow with samples alone: decoding, models, k-means, pairs.

Each runs as a task of the executor, so with the cores and the thread settings that the job's workers have.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from winnow.jobs.job_file.job import Job
from winnow.jobs.plan.miniature import Shrunk
from winnow.pipeline import storage
from winnow.pipeline.events import EventLog
from winnow.pipeline.executors.contract import Executor, Needs, Stateless
from winnow.pipeline.executors.watching import Watch
from winnow.stages.encoders import Encoding
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.kernels.close_pairs import close_pairs
from winnow.stages.kernels.kmeans import Nearest, fit
from winnow.stages.pools.reader import Reader

if TYPE_CHECKING:
    from winnow.stages.encoders import Bank

_FIT_FLOPS = 4e10  # k-means that is timed as it is; a larger one by fewer rows and clusters
_PAIR_ROWS = 3072
_ASSIGN_ROWS = 1024
_MANY = 5000  # items, nearly all of which go in large calls
_ROUNDS = 8

ALONE = 7
"""Items for each worker: so few go one a call, however soon they come back (pipeline/executors/batching.py)."""


@dataclass(frozen=True)
class Kernel:
    """Seconds of one of the products. what: `fit` of n rows, k clusters and d numbers; `assign`, `pairs`."""

    what: Literal["fit", "assign", "pairs", "nothing"]
    n: int = 0
    k: int = 0
    d: int = 0
    more: int = 0  # iterations of a fit; probes of assign

    def __call__(self, item: int) -> float:
        """Seconds of it."""
        if self.what == "nothing":
            return 0.0
        rows = _unit(self.n, self.d, 0)
        if self.what == "fit":
            started = time.perf_counter()
            fit(rows, self.k, iterations=self.more, threads=os.cpu_count() or 1)
        elif self.what == "assign":
            nearest = Nearest(_unit(self.k, self.d, 1), self.more)
            nearest(rows[:256])
            started = time.perf_counter()
            nearest(rows)
        else:
            every, side = np.ones(self.n, bool), np.zeros(self.n, np.int8)
            started = time.perf_counter()
            close_pairs(rows, every, side, every, False, 0.01, 8)
        return time.perf_counter() - started


def _unit(n: int, d: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, d), np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _timed(kernel: Kernel, executor: Executor) -> float:
    [(_, seconds)] = executor.map(Stateless(kernel), [0], f"price: {kernel.what}", Needs())
    return seconds


def fit_seconds(executor: Executor, n: int, k: int, d: int, iterations: int) -> float:
    """Of k-means on one machine. Cost O(iterations n k d), which is what a smaller one is scaled by."""
    whole = 2.0 * n * k * d * iterations
    if whole <= _FIT_FLOPS:
        return _timed(Kernel("fit", n, k, d, iterations), executor)
    k0 = min(k, 1024)
    n0 = int(min(n, max(2 * k0, _FIT_FLOPS / (2.0 * k0 * d * 4))))
    return _timed(Kernel("fit", n0, k0, d, 4), executor) * whole / (2.0 * n0 * k0 * d * 4)


def assign_seconds(executor: Executor, k: int, d: int, probes: int) -> float:
    """Of one sample."""
    return _timed(Kernel("assign", _ASSIGN_ROWS, k, d, probes), executor) / _ASSIGN_ROWS


def pair_seconds(executor: Executor, d: int) -> float:
    """Of one pair of samples that is compared."""
    return _timed(Kernel("pairs", _PAIR_ROWS, 0, d), executor) / (_PAIR_ROWS * (_PAIR_ROWS - 1) / 2)


def driver_seconds(executor: Executor, folder: str) -> tuple[float, float]:
    """(alone, among many): processor seconds of the driver, all threads, for a shard of a pass that goes so.

    As a run has them, with its event line, into a folder. By the processor: a driver waits beside its workers.
    """
    events = EventLog.of(folder, "price")
    watch = Watch(executor, (events,))

    def each(count: int) -> float:
        started = time.process_time()
        for _ in watch.map(Stateless(Kernel("nothing")), range(count), "price: calls", Needs()):
            pass
        return (time.process_time() - started) / count

    few = ALONE * executor.workers
    each(few)  # workers begin
    alone = statistics.median(each(few) for _ in range(_ROUNDS))
    among = each(_MANY)
    events.close("finished")
    return alone, min(among, alone)


def read_rate(shard: Shrunk) -> float:
    """Bytes a second of the storage that the pool is on; a local file may come out of the page cache."""
    started = time.perf_counter()
    size = len(storage.read_bytes(shard.source))
    return size / max(time.perf_counter() - started, 1e-9)


@dataclass(frozen=True)
class Alone:
    """Decoding and models, each by itself, on a worker like those that embed."""

    reader: Reader
    encoders: tuple[tuple[str, Encoder], ...]
    encoding: Encoding

    def open(self) -> Callable[[Shrunk], tuple[int, float, float]]:
        """Load the models; not timed."""
        from winnow.stages.encoders import Bank

        return partial(self._time, Bank.open(dict(self.encoders), self.encoding))

    def _time(self, bank: "Bank", item: Shrunk) -> tuple[int, float, float]:
        """(samples, seconds to decode, seconds of the models)."""
        from winnow.stages.encoders.limits import decode_only, forward_only

        take = 2 * self.encoding.batch_size
        started = time.perf_counter()
        count = decode_only(bank, islice(self.reader.samples(item.url), take))
        decoding = time.perf_counter() - started
        _, forward = forward_only(bank, islice(self.reader.samples(item.url), take))
        return count, decoding, forward


def alone(executor: Executor, job: Job, reader: Reader, shards: list[Shrunk]) -> tuple[float, float]:
    """Samples a second of one worker that only decodes, and of one that only runs models, all workers at it."""
    task = Alone(reader, tuple(job.embeddings.items()), job.encoding)
    items = [shards[number % len(shards)] for number in range(executor.workers)]
    needs = replace(job.needs, prefetch=False)
    found = [result for _, result in executor.map(task, items, "price: decode and models alone", needs)]
    samples = sum(count for count, _, _ in found)
    return samples / max(sum(d for _, d, _ in found), 1e-9), samples / max(sum(f for _, _, f in found), 1e-9)
