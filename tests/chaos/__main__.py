"""`python -m tests.chaos`: prints a table of faults and what became of the job; exit code 1 where anything differs."""

import argparse
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos import faults
from tests.chaos.faults import Row
from tests.chaos.pools import Chaos, Left, left, with_images, with_vectors
from tests.chaos.processes import driving
from tests.conftest import s3_process
from tests.faults import KINDS, FaultyProxy

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the cluster of several nodes on loopback, as the executor's own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Size:
    """How much of everything; wanted: times each fault is injected at least."""

    shards: int
    samples: int
    workers: int
    drivers: int
    memory: int
    nodes: int
    storage: int


SIZES = {"full": Size(40, 8, 20, 10, 5, 3, 20), "small": Size(12, 6, 4, 10, 2, 1, 2)}
GROUPS = ("workers", "memory", "drivers", "nodes", "storage")


def main(words: Sequence[str]) -> int:
    """Run the groups of faults asked for; the table goes to stdout, progress to stderr."""
    options = argparse.ArgumentParser("tests.chaos", description=__doc__)
    options.add_argument("--folder", type=Path, default=Path("out/chaos"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--size", choices=SIZES, default="full")
    options.add_argument("--only", choices=GROUPS, action="append")
    asked = options.parse_args(words)
    os.environ |= ENVIRONMENT
    shutil.rmtree(asked.folder, ignore_errors=True)
    asked.folder.mkdir(parents=True)
    console = Console(stderr=True)
    rows = run(
        asked.folder.resolve(),
        SIZES[asked.size],
        asked.seed,
        asked.only or GROUPS,
        lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
    )
    show(rows, Console(width=140))
    return 0 if all(row.good for row in rows) else 1


def run(folder: Path, size: Size, seed: int, groups: Sequence[str], say: Callable[[str], None]) -> list[Row]:
    """The rows of the table, in the order of GROUPS."""
    images = with_images(folder, size.shards, size.samples)
    vectors = with_vectors(str(folder / "vectors"), size.shards, size.samples)
    expected = {chaos.name: undisturbed(chaos, folder) for chaos in (images, vectors)}
    rows: list[Row] = []

    def timed(row: Row, chaos: Chaos, inject: Callable[..., None], *more: object) -> None:
        started = time.monotonic()
        inject(row, chaos, folder, expected[chaos.name], random.Random(f"{seed} {row.fault}"), *more)
        row.seconds = time.monotonic() - started
        rows.append(row)
        say(f"{row.fault}: {row.seconds:.0f} s; {'; '.join(row.notes)}")

    if "workers" in groups:
        timed(Row("worker killed, embedding", size.workers // 2), images, faults.worker_kills, 3.0)
        timed(Row("worker killed, deciding", size.workers - size.workers // 2), vectors, faults.worker_kills, 1.0)
    if "memory" in groups:
        # a worker that starts anew imports faiss for seconds: harmed as often, one item would use up all of its retries
        timed(Row("worker out of memory", size.memory), vectors, faults.memory_limits, 4.0)
    if "drivers" in groups:
        timed(Row("driver killed", size.drivers), images, faults.driver_kills)
        rows += in_an_exchange("driver killed", size.nodes, folder, faults.exchange_driver_kills)
    if "nodes" in groups:
        timed(Row("node lost", size.nodes), images, faults.node_losses)
        rows += in_an_exchange("node lost", size.nodes, folder, faults.exchange_losses)
        timed(Row("node lost, answers on it", size.nodes), vectors, faults.answer_losses)
    if "storage" in groups:
        rows += through_storage(folder, size, seed, say)
    return rows


def in_an_exchange(fault: str, wanted: int, folder: Path, inject: Callable[[Row, Path, str], None]) -> list[Row]:
    """A row for each step of an exchange."""
    rows = []
    for step in ("scatter", "decide", "settle"):
        row, started = Row(f"{fault}, {step} of an exchange", wanted), time.monotonic()
        inject(row, folder, step)
        row.seconds = time.monotonic() - started
        rows.append(row)
    return rows


def undisturbed(chaos: Chaos, folder: Path) -> Left:
    """What the job leaves when nothing happens: this machine's disk, threads, no Ray."""
    store = str(folder / f"{chaos.name}-undisturbed")
    with driving(chaos.file(folder, store), "--executor", "local") as driver:
        code = driver.wait()
    if code:
        raise RuntimeError(f"the undisturbed run must finish, but its exit code is {code}; see {folder}/*.log")
    return left(chaos, store)


def through_storage(folder: Path, size: Size, seed: int, say: Callable[[str], None]) -> list[Row]:
    """A row for each kind of fault of the storage; the pool lies on S3, the undisturbed store on disk."""
    rows = {kind: Row(f"storage: {kind}", size.storage) for kind in KINDS}
    started = time.monotonic()
    with s3_process() as url:
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
        }
        import boto3  # reads the environment above

        boto3.client("s3").create_bucket(Bucket="chaos")
        chaos = with_vectors("s3://chaos/pool", size.shards // 4, size.samples)
        expected = undisturbed(chaos, folder)
        with FaultyProxy(url, share=0.05, stall_s=1.5, seed=seed).running() as proxy:
            faults.storage_faults(rows, chaos, folder, "s3://chaos", expected, proxy)
        say(f"storage: {time.monotonic() - started:.0f} s; {sum(proxy.requests.values())} requests, {proxy.requests}")
    return list(rows.values())


def show(rows: Sequence[Row], console: Console) -> None:
    """The table."""
    table = Table("fault", "injected", "runs", "finished", "identical", "lost", "redone", "s", "")
    for row in rows:
        numbers = (row.injected, row.runs, row.finished, row.identical, row.lost, row.redone, round(row.seconds))
        table.add_row(row.fault, *[str(number) for number in numbers], "ok" if row.good else "NOT")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
