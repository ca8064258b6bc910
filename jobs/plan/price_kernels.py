"""Times the steps whose cost does not grow with samples alone: decoding, models, k-means, pairs.

Each runs as a task of the executor, so it has the cores and thread settings of the job's workers.
"""

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
from winnow.pipeline.executors.contract import Executor, Needs, Stateless
from winnow.pipeline.executors.watching import Watch
from winnow.pipeline.machine import cores
from winnow.pipeline.store.events import EventLog
from winnow.stages.encoders import Encoding
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.kernels.close_pairs import close_pairs
from winnow.stages.kernels.kmeans import fit
from winnow.stages.kernels.nearest import Nearest
from winnow.stages.pools.reader import Reader

if TYPE_CHECKING:
    from winnow.stages.encoders import Bank

_FIT_FLOPS = 4e10  # largest k-means that is timed whole; larger ones are timed with fewer rows and clusters
_PAIR_ROWS = 3072
_ASSIGN_ROWS = 1024
_MANY = 5000  # items, so many that batching sends nearly all in large calls
_ROUNDS = 8

ALONE = 7
"""Items per worker, so few that batching sends each in its own call (pipeline/executors/batching.py)."""


@dataclass(frozen=True)
class Kernel:
    """Times one kernel, as a task. n: rows. k: clusters. d: length of a vector."""

    what: Literal["fit", "assign", "pairs", "nothing"]
    n: int = 0
    k: int = 0
    d: int = 0
    more: int = 0  # iterations of a fit; probes of assign

    def __call__(self, item: int) -> float:
        """Run the kernel and return its seconds."""
        if self.what == "nothing":
            return 0.0
        rows = _unit(self.n, self.d, 0)
        if self.what == "fit":
            started = time.perf_counter()
            fit(rows, self.k, iterations=self.more, threads=cores())
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
    """Seconds of k-means on one machine. A smaller k-means is timed and scaled by iterations · n · k · d."""
    whole = 2.0 * n * k * d * iterations
    if whole <= _FIT_FLOPS:
        return _timed(Kernel("fit", n, k, d, iterations), executor)
    k0 = min(k, 1024)
    n0 = int(min(n, max(2 * k0, _FIT_FLOPS / (2.0 * k0 * d * 4))))
    return _timed(Kernel("fit", n0, k0, d, 4), executor) * whole / (2.0 * n0 * k0 * d * 4)


def assign_seconds(executor: Executor, k: int, d: int, probes: int) -> float:
    """Seconds to find the nearest centroids of one sample."""
    return _timed(Kernel("assign", _ASSIGN_ROWS, k, d, probes), executor) / _ASSIGN_ROWS


def pair_seconds(executor: Executor, d: int) -> float:
    """Seconds to compare one pair of samples."""
    return _timed(Kernel("pairs", _PAIR_ROWS, 0, d), executor) / (_PAIR_ROWS * (_PAIR_ROWS - 1) / 2)


def driver_seconds(executor: Executor, folder: str) -> tuple[float, float]:
    """(alone, among many): CPU seconds of the driver, all threads, for a shard in its own call and in a large call.

    Includes the event line of a run, which goes to a folder. CPU time, because a driver mostly waits for its workers.
    """
    events = EventLog.of(folder, "price")
    watch = Watch(executor, (events,))

    def each(count: int) -> float:
        started = time.process_time()
        for _ in watch.map(Stateless(Kernel("nothing")), range(count), "price: calls", Needs()):
            pass
        return (time.process_time() - started) / count

    few = ALONE * executor.workers
    each(few)  # starts the workers
    alone = statistics.median(each(few) for _ in range(_ROUNDS))
    among = each(_MANY)
    events.close("finished")
    return alone, min(among, alone)


def read_rate(shard: Shrunk) -> float:
    """Bytes per second of the pool's storage. A local file may come from the page cache."""
    started = time.perf_counter()
    size = len(storage.read_bytes(shard.source))
    return size / max(time.perf_counter() - started, 1e-9)


@dataclass(frozen=True)
class DecodeAndForward:
    """Times decoding and models separately, on a worker like those that embed."""

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
    """Samples per second of a worker that only decodes, and of one that only runs models, with all workers busy."""
    task = DecodeAndForward(reader, tuple(job.models.items()), job.encoding)
    items = [shards[number % len(shards)] for number in range(executor.workers)]
    needs = replace(job.needs, prefetch=False)
    found = [result for _, result in executor.map(task, items, "price: decode and models alone", needs)]
    samples = sum(count for count, _, _ in found)
    return samples / max(sum(d for _, d, _ in found), 1e-9), samples / max(sum(f for _, _, f in found), 1e-9)
