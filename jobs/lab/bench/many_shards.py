"""Benchmark: the driver's time for a job over thousands of tiny shards, and for resuming it.

python -m winnow.jobs.lab.bench.many_shards [--folder out/bench-many] [--shards 20000].
CPU seconds are those of the driver's process alone, over all its threads. Deletes the pool
at the end, unless --keep is given.
"""

import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from winnow.jobs.job_file.job import Job, load_job
from winnow.jobs.lab.bench.meter import peak_bytes
from winnow.jobs.lab.bench.vector_pool import Shape, make
from winnow.jobs.run import run_job
from winnow.jobs.watch import recorded
from winnow.pipeline import storage
from winnow.pipeline.artifact import is_artifact
from winnow.pipeline.executors.choose import open_executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.executors.watching import Done

_MOST_MS = 2.0  # driver time per shard and stage
_MOST_RESUME_S = 10.0
_POLICY = [{"rules": {"min_words": 3}}, {"random": {"fraction": 0.5}}]


@dataclass
class StageCost:
    """One stage: items of all its watched passes, wall seconds, CPU seconds and peak resident bytes of the driver.

    bytes: committed by its shards.
    """

    stage: str
    passes: int = 0
    items: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    bytes: int = 0


class Ledger:
    """A watcher that records what the driver spent on each finished stage."""

    def __init__(self) -> None:
        self.lines: list[StageCost] = []
        self._open()

    def begin(self, stage: str, total: int, ready: int) -> None:
        """See Watcher.begin."""
        self._line.passes += 1
        self._line.items += total

    def done(self, item: Done) -> None:
        """See Watcher.done."""
        self._line.bytes += item.bytes

    def end(self, stage: str, seconds: float) -> None:
        """See Watcher.end."""

    def avoided(self, node: str, error: str) -> None:
        """See Watcher.avoided."""

    def made(self, label: str, artifact: str, seconds: float, reused: bool) -> None:
        """See Watcher.made."""
        line = self._line
        line.stage = label
        line.seconds, line.cpu = time.perf_counter() - self._started, time.process_time() - self._spent
        line.peak = peak_bytes()
        self.lines.append(line)
        self._open()

    def _open(self) -> None:
        peak_bytes(forget=True)
        self._line = StageCost("")
        self._started, self._spent = time.perf_counter(), time.process_time()


def prepare_many_shards(folder: Path, shards: int, rows: int) -> Path:
    """Make the pool unless it exists. Returns the file of a job over it, with a store of its own."""
    pool, job_file = folder / f"pool-{shards}", folder / "job.yaml"
    if not pool.exists():
        shape = Shape(shards * rows, width=16, concepts=10, rows_per_shard=rows)
        make(shape, folder / "part", LocalExecutor())
        (folder / "part").rename(pool)
    described = {"shards": f"{pool}/metadata/*.parquet", "format": "clip-retrieval", "text": False}
    values = {"name": "many", "store": str(folder / "store"), "pool": described, "policy": _POLICY}
    job_file.write_text(yaml.safe_dump(values))
    return job_file


def stage_costs(job: Job, executor: str, workers: int) -> list[StageCost]:
    """Run a job as `winnow run` does, with events and metrics; return what each stage cost the driver."""
    running_on = open_executor(executor, workers, None)
    running_on.start()  # not part of any stage's cost
    try:
        with recorded(job.store, job.name, executor) as watchers:
            ledger = Ledger()
            run_job(job, running_on, lambda line: None, (*watchers, ledger))
    finally:
        running_on.close()
    return ledger.lines


def show_stage_costs(lines: list[StageCost], shards: int, console: Console, title: str) -> None:
    """Print a table with a row per stage."""
    table = Table("stage", "passes", "s", "driver CPU s", "ms a shard and pass", "ms a shard", "peak MB", "MB written")
    table.columns[0].no_wrap = True
    table.title = title
    for line in lines:
        table.add_row(
            line.stage,
            f"{line.passes}",
            f"{line.seconds:.2f}",
            f"{line.cpu:.2f}",
            f"{1e3 * line.cpu / line.items:.3f}" if line.items else "",
            f"{1e3 * line.cpu / shards:.3f}",
            f"{line.peak / 1e6:,.0f}",
            f"{line.bytes / 1e6:,.1f}",
        )
    console.print(table)


def command(job_file: Path, executor: str, workers: int) -> list[str]:
    """The words of `winnow run` for a process of its own."""
    words = ["run", str(job_file), "--executor", executor, "--workers", str(workers)]
    return [sys.executable, "-m", "winnow.jobs", *words]


def again(job_file: Path, executor: str, workers: int) -> tuple[float, float]:
    """Wall and CPU seconds of the whole command. CPU seconds include all its processes that ended with it."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command(job_file, executor, workers), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, cpu


def killed(job_file: Path, executor: str, workers: int, shards: int) -> int:
    """Run the command on an empty store, and kill it when half of the samples files exist; return how many exist."""
    job = load_job(str(job_file))
    shutil.rmtree(job.store)
    process = subprocess.Popen(
        command(job_file, executor, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    found = 0
    while found < shards // 2 and process.poll() is None:
        time.sleep(0.1)
        embedded = [name for name in storage.folders(job.store) if is_artifact(name) and name.startswith("samples-")]
        found = len(storage.listing(storage.join(job.store, *embedded))) if embedded else 0
    process.send_signal(signal.SIGKILL)
    process.wait()
    return found


def main(
    folder: Annotated[Path, typer.Option(help="scratch space: 25 kB per shard")] = Path("out/bench-many"),
    shards: Annotated[int, typer.Option(help="shards of the pool")] = 20_000,
    rows: Annotated[int, typer.Option(help="samples per shard")] = 10,
    workers: Annotated[int, typer.Option(help="workers of the executor")] = 2,
    executor: Annotated[str, typer.Option(help="executor: ray or local")] = "ray",
    kill: Annotated[bool, typer.Option(help="also resume a run_job that was killed half way")] = False,
    keep: Annotated[bool, typer.Option(help="keep the pool; an existing pool is used again")] = False,
) -> None:
    """Run the job cold, then again with everything done; print a table of stages for each."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "store", ignore_errors=True)
    job_file = prepare_many_shards(folder, shards, rows)
    console, job = Console(width=None if sys.stdout.isatty() else 130), load_job(str(job_file))
    started = time.perf_counter()
    job.pool.identities()
    listing = time.perf_counter() - started
    cold = stage_costs(job, executor, workers)
    show_stage_costs(cold, shards, console, f"{shards:,} shards of {rows} samples, {workers} workers, {executor}")
    show_stage_costs(stage_costs(job, executor, workers), shards, console, "the same again: all is done")
    seconds, cpu = again(job_file, executor, workers)
    worst = max(1e3 * line.cpu / shards for line in cold)
    console.print(f"driver, worst stage: {worst:.2f} ms a shard; at most {_MOST_MS:g}")
    console.print(f"list the pool: {listing:.2f} s")
    console.print(f"the whole command, all done: {seconds:.1f} s, {cpu:.1f} CPU s; at most {_MOST_RESUME_S:g} s")
    if kill:
        found = killed(job_file, executor, workers, shards)
        half = stage_costs(job, executor, workers)
        show_stage_costs(half, shards, console, f"the same, killed when {found:,} samples files were there")
    shutil.rmtree(folder / "store")
    if not keep:
        shutil.rmtree(folder / f"pool-{shards}")
        job_file.unlink()


if __name__ == "__main__":
    typer.run(main)
