"""Benchmark: semantic deduplication of a pool of vectors, a third of them near duplicates.

python -m winnow.jobs.lab.bench.duplicates [--folder out/bench-duplicates] [--samples 1000000] [--clusters 1000].
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs.job_file.job import load_job
from winnow.jobs.lab.bench.decisions import prepare_cut_job
from winnow.jobs.lab.bench.meter import Meter
from winnow.jobs.lab.bench.vector_pool import Shape
from winnow.jobs.run import run_job
from winnow.pipeline.executors.choose import open_executor


def measure_duplicates(shape: Shape, folder: Path, cut: dict[str, object], workers: int, executor: str) -> Table:
    """Deduplicate by one method: a table of seconds, memory and bytes of every step, with the bytes spilled to disk."""
    job_file = prepare_cut_job(shape, folder, {"duplicates": cut})
    running_on, meter = open_executor(executor, workers, None), Meter()
    started = time.perf_counter()
    try:
        result = run_job(load_job(str(job_file)), running_on, lambda line: None, (meter,))
        spilled = _spilled() if executor == "ray" else "all of it"
    finally:
        meter.close()
        running_on.close()
    table = Table("step", "s", "CPU s", "driver MB", "worker MB", "private MB", "read MB", "written MB")
    table.title = (
        f"{cut['method']}: {shape.samples:,} samples, {result.counts['kept']:,} kept, {cut['clusters']} clusters"
    )
    for lap in meter.laps.values():
        sizes = (f"{count / 1e6:,.0f}" for count in (lap.driver, lap.worker, lap.own, lap.read, lap.written))
        table.add_row(lap.name, f"{lap.seconds:.1f}", f"{lap.cpu:.1f}", *sizes)
    table.caption = f"{time.perf_counter() - started:.1f} s in all; spilled to disk by the exchange: {spilled}"
    return table


def _spilled() -> str:
    """Ray's statistics of the objects that it spilled to disk."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "memory", "--stats-only"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:  # for example, if a second cluster runs on this machine
        return "unknown"
    return next((line for line in asked.stdout.splitlines() if line.startswith("Spilled")), "nothing")


def main(
    folder: Annotated[Path, typer.Option(help="scratch space: 6 kB per sample")] = Path("out/bench-duplicates"),
    samples: Annotated[int, typer.Option(help="samples in the pool")] = 1_000_000,
    clusters: Annotated[int, typer.Option(help="number of clusters, k")] = 1000,
    iterations: Annotated[int, typer.Option(help="iterations of k-means")] = 20,
    epsilon: Annotated[float, typer.Option(help="1 - cosine of two duplicates")] = 0.07,
    workers: Annotated[int, typer.Option(help="workers of the executor")] = 2,
    executor: Annotated[str, typer.Option(help="executor: ray or local")] = "ray",
    rows_per_shard: Annotated[int, typer.Option(help="rows per shard")] = 100_000,
) -> None:
    """Print a table for `greedy` and one for the paper's rule."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 130)
    shape = Shape(samples, rows_per_shard=rows_per_shard, copies=0.35)
    common = {"by": "clip", "exact": False, "epsilon": epsilon, "clusters": clusters, "iterations": iterations}
    for method in ("greedy", "semdedup"):
        console.print(measure_duplicates(shape, folder, {**common, "method": method}, workers, executor))
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
