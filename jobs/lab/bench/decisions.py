"""Benchmark: cuts on pools of millions of vectors, compared with the same matrix products on data in memory.

python -m winnow.jobs.lab.bench.decisions [--folder out/bench-decide] [--samples 1000000,10000000]. Absolute rates
depend on the machine; read the ratios. Deletes the pool and the store at the end, unless --keep is given.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer
import yaml
from rich.console import Console
from rich.table import Table

from winnow.jobs.job_file.job import load_job
from winnow.jobs.lab.bench import vector_pool
from winnow.jobs.lab.bench.meter import Lap, Meter
from winnow.jobs.lab.bench.vector_pool import Shape
from winnow.jobs.run import job_url, run_job
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.executors.choose import open_executor
from winnow.pipeline.executors.contract import Executor, Needs
from winnow.pipeline.machine import cores
from winnow.pipeline.stage import StepResult
from winnow.stages.clusters.sample import read_sample
from winnow.stages.kernels.float16 import widened
from winnow.stages.kernels.kmeans import train

_PRODUCT_ROWS = 1024  # rows per product, as in stages/kernels/nearest.py
_SAMPLE_PER_CLUSTER = 256
_SWEPT = 1_000_000
_FIT, _ASSIGN = "clusters: k-means", "clusters: assign"


@dataclass(frozen=True)
class ProductTime:
    """Wall seconds with all cores or workers busy, and CPU seconds of all of them."""

    seconds: float
    cpu: float

    def __add__(self, other: "ProductTime") -> "ProductTime":
        return ProductTime(self.seconds + other.seconds, self.cpu + other.cpu)


@dataclass(frozen=True)
class DecidedPool:
    """A pool with a finished job. alone: the time of the matrix products alone, for the fit and for assignment."""

    shape: Shape
    job_file: Path
    workers: int
    clusters: int
    iterations: int
    executor: str
    laps: dict[str, Lap]
    alone: tuple[ProductTime, ProductTime]

    @property
    def sample(self) -> int:
        """Number of rows that k-means is fitted on."""
        return min(self.shape.samples, self.clusters * _SAMPLE_PER_CLUSTER)


@dataclass(frozen=True)
class Measurement:
    """One measurement besides the tables, and its limit."""

    what: str
    found: str
    beside: str


def decide_again(made: DecidedPool) -> list[Measurement]:
    """Decide another fraction on stored distances: the whole command, in its own process."""
    started = time.perf_counter()
    _command(made, "run", "--set", "policy.0.density.fraction=0.3")
    seconds = time.perf_counter() - started
    job = load_job(str(made.job_file))
    record = json.loads(storage.read_bytes(job_url(job.store, job.name)))
    inside = sum(record["seconds_now"].values())
    told = f"{inside:.1f} s in its stages; at 10M: 60 s"
    return [Measurement("decide again, another fraction", f"{seconds:.1f} s", told)]


def sweep_of_20(made: DecidedPool) -> list[Measurement]:
    """Whole commands on cold stores: a sweep of 20 fractions, compared with one policy. Only for the smallest pool."""
    if made.shape.samples > _SWEPT:
        return []
    fractions = ",".join(f"{n / 25:.2f}" for n in range(1, 21))
    seconds = {}
    for what, words in {"run": [], "sweep": ["--vary", f"policy.0.density.fraction={fractions}"]}.items():
        store = made.job_file.with_name(f"store-{what}")
        started = time.perf_counter()
        _command(made, what, *words, "--set", f"store={store}")
        seconds[what] = time.perf_counter() - started
        shutil.rmtree(store)
    ratio = f"{seconds['sweep'] / seconds['run']:.2f} of one policy ({seconds['run']:.1f} s); 3 at most"
    return [Measurement("sweep of 20 policies, cold store", f"{seconds['sweep']:.1f} s", ratio)]


def _command(made: DecidedPool, *words: str) -> None:
    name, *options = words
    command = [sys.executable, "-m", "winnow.jobs", name, str(made.job_file), *options]
    where = ["--executor", made.executor, "--workers", str(made.workers)]
    subprocess.run([*command, *where], check=True, capture_output=True)


EXTRAS: tuple[Callable[[DecidedPool], list[Measurement]], ...] = (decide_again, sweep_of_20)
"""Further measurements; each is called with the finished job."""


@dataclass(frozen=True)
class _Products:
    """Times the products of assigning one shard and their argmax, on a worker: wall and CPU seconds."""

    shape: Shape
    clusters: int

    def open(self) -> Callable[[int], tuple[float, float]]:
        rows = widened(vector_pool.drawn_vectors(self.shape, 0))
        return partial(self._multiply, rows, rows[:: len(rows) // self.clusters][: self.clusters].copy())

    def _multiply(self, rows: np.ndarray, centroids: np.ndarray, item: int) -> tuple[float, float]:
        started, worked = time.perf_counter(), time.thread_time()
        for start in range(0, len(rows), _PRODUCT_ROWS):
            (rows[start : start + _PRODUCT_ROWS] @ centroids.T).argmax(axis=1)
        return time.perf_counter() - started, time.thread_time() - worked


def products_alone(shape: Shape, clusters: int, executor: Executor) -> ProductTime:
    """Time of assignment if it did only its products: those of the first shard, once for every shard."""
    task, warm = _Products(shape, clusters), executor.workers
    found = dict(executor.map(task, list(range(warm + shape.shards)), "products alone", Needs()))
    seconds, cpu = (sum(found[warm + shard][i] for shard in range(shape.shards)) for i in range(2))
    share = shape.samples / (shape.shards * shape.rows(0))
    return ProductTime(share * seconds / executor.workers, share * cpu)


@dataclass(frozen=True)
class _FitAlone:
    """Times faiss on the rows of the fit, on a worker with every core. faiss stops early if no row moves."""

    clusters: Artifact
    shards: int
    sample: int
    k: int
    iterations: int

    def open(self) -> Callable[[int], tuple[float, float]]:
        return partial(self._fit, read_sample(self.clusters, self.shards, self.sample))

    def _fit(self, rows: np.ndarray, item: int) -> tuple[float, float]:
        started, worked = time.perf_counter(), time.process_time()
        train(rows, self.k, iterations=self.iterations, seed=0, threads=cores())
        return time.perf_counter() - started, time.process_time() - worked


def fit_alone(fitted: StepResult, shards: int, clusters: int, iterations: int, executor: Executor) -> ProductTime:
    """Time of the fit if it did nothing but faiss."""
    task = _FitAlone(fitted.artifact, shards, cast(int, fitted.report["sample"]), clusters, iterations)
    [(_, (seconds, cpu))] = executor.map(task, [0], "faiss alone", Needs())
    return ProductTime(seconds, cpu)


def prepare_cut_job(shape: Shape, folder: Path, cut: dict[str, object]) -> Path:
    """Make the pool unless it exists. Returns the file of a job with one cut over it, with a store of its own."""
    pool, store, job_file = (folder / f"{name}-{shape.samples}" for name in ("pool", "store", "job.yaml"))
    if not pool.exists():
        # in its own process, because the measured memory begins with that of this process
        command = [sys.executable, "-m", "winnow.jobs.lab.bench.vector_pool", str(folder / "part"), str(shape.samples)]
        options = ["--rows-per-shard", str(shape.rows_per_shard), "--copies", str(shape.copies)]
        subprocess.run([*command, *options], check=True)
        (folder / "part").rename(pool)
    shards = f"{pool}/metadata/metadata_{{0..{shape.shards - 1}}}.parquet"
    described = {"shards": shards, "format": "clip-retrieval", "text": False}
    job_file.write_text(yaml.safe_dump({"name": "bench", "store": str(store), "pool": described, "policy": [cut]}))
    return job_file


def decide_pool(shape: Shape, folder: Path, clusters: int, iterations: int, workers: int, executor: str) -> DecidedPool:
    """Make the pool unless it exists, run its job, and time the products alone on the same workers."""
    density = {"by": "clip", "fraction": 0.4, "clusters": clusters, "iterations": iterations}
    job_file = prepare_cut_job(shape, folder, {"density": {**density, "sample_per_cluster": _SAMPLE_PER_CLUSTER}})
    running_on, meter = open_executor(executor, workers, None), Meter()
    try:
        done = run_job(load_job(str(job_file)), running_on, lambda line: None, (meter,))
        laps = dict(meter.laps)
        fitted = dict(done.steps)["density.clusters"]
        fit = fit_alone(fitted, shape.shards, clusters, iterations, running_on)
        alone = fit, products_alone(shape, clusters, running_on)
    finally:
        meter.close()
        running_on.close()
    return DecidedPool(shape, job_file, workers, clusters, iterations, executor, laps, alone)


def show_decisions(made: DecidedPool, console: Console) -> None:
    """Print a table with a row per step, then the further measurements."""
    table = Table("step", "s", "CPU s", "rows/s", "driver MB", "worker MB", "read MB", "written MB")
    table.columns[0].no_wrap = True
    table.title = f"{made.shape.samples:,} samples, {made.clusters} clusters, {made.workers} workers"
    for lap in made.laps.values():
        rows = made.sample if lap.name == _FIT else made.shape.samples
        sizes = (f"{count / 1e6:,.0f}" for count in (lap.driver, lap.worker, lap.read, lap.written))
        table.add_row(lap.name, f"{lap.seconds:.2f}", f"{lap.cpu:.2f}", f"{rows / lap.seconds:,.0f}", *sizes)
    console.print(table)
    beside = Table("baseline", "result", "compared with it")
    fit, assign = made.laps[_FIT], made.laps[_ASSIGN]
    both = Lap("both", seconds=fit.seconds + assign.seconds, cpu=fit.cpu + assign.cpu)
    for name, lap, alone in (
        ("faiss alone", fit, made.alone[0]),
        ("products alone", assign, made.alone[1]),
        ("both alone", both, made.alone[0] + made.alone[1]),
    ):
        ratios = f"{lap.name} takes {lap.seconds / alone.seconds:.2f} of it, {lap.cpu / alone.cpu:.2f} of its CPU s"
        beside.add_row(name, f"{alone.seconds:.1f} s, CPU {alone.cpu:.1f} s", ratios)
    for extra in EXTRAS:
        for line in extra(made):
            beside.add_row(line.what, line.found, line.beside)
    console.print(beside)


def compare_pools(small: DecidedPool, large: DecidedPool, console: Console) -> None:
    """Print cost per sample and memory of the larger pool as multiples of those of the smaller one."""
    table = Table("step", "s per sample", "CPU s per sample", "driver memory", "worker memory")
    table.columns[0].no_wrap = True
    table.title = f"{large.shape.samples:,} samples, as a multiple of {small.shape.samples:,}"
    growth = large.shape.samples / small.shape.samples
    pairs = [(lap, small.laps[name]) for name, lap in large.laps.items() if name in small.laps]
    pairs.append((_together(large), _together(small)))
    for now, before in pairs:
        ratios = (
            _ratio(now.seconds / growth, before.seconds),
            _ratio(now.cpu / growth, before.cpu),
            _ratio(now.driver, before.driver),
            _ratio(now.worker, before.worker),
        )
        table.add_row(now.name, *ratios)
    console.print(table)


def _together(made: DecidedPool) -> Lap:
    laps = made.laps.values()
    return Lap(
        "all; at most 1.15, 1.15, 1.2, 1.2",
        seconds=sum(lap.seconds for lap in laps),
        driver=max(lap.driver for lap in laps),
        worker=max(lap.worker for lap in laps),
        cpu=sum(lap.cpu for lap in laps),
    )


def _ratio(now: float, before: float) -> str:
    return f"{now / before:.2f}" if before else ""


def main(
    folder: Annotated[Path, typer.Option(help="scratch space: 1.2 kB per sample of the largest pool")] = Path(
        "out/bench-decide"
    ),
    samples: Annotated[str, typer.Option(help="sizes of the pools, smallest first")] = "1000000,10000000",
    clusters: Annotated[int, typer.Option(help="number of clusters, k")] = 500,
    iterations: Annotated[int, typer.Option(help="iterations of k-means")] = 100,
    workers: Annotated[int, typer.Option(help="workers of the executor")] = 2,
    executor: Annotated[str, typer.Option(help="executor: ray or local")] = "ray",
    rows_per_shard: Annotated[int, typer.Option(help="rows per shard")] = 100_000,
    keep: Annotated[bool, typer.Option(help="keep pools and stores; an existing pool is used again")] = False,
) -> None:
    """Print a table for every size, and compare the larger pools with the smallest."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    console, first = Console(width=None if sys.stdout.isatty() else 130), None
    for size in map(int, samples.split(",")):
        for name in ("store", *([] if keep else ["pool"])):
            shutil.rmtree(folder / f"{name}-{size}", ignore_errors=True)
        shape = Shape(size, rows_per_shard=rows_per_shard)
        made = decide_pool(shape, folder, clusters, iterations, workers, executor)
        show_decisions(made, console)
        if first is not None:
            compare_pools(first, made, console)
        first = first or made
        if not keep:
            for name in ("pool", "store", "job.yaml"):
                path = folder / f"{name}-{size}"
                path.unlink() if path.is_file() else shutil.rmtree(path)


if __name__ == "__main__":
    typer.run(main)
