"""Benchmark: what the driver holds and spends when a job has 200,000 shards and 50,000 clusters.

python -m winnow.jobs.lab.bench.scale [--folder out/bench-scale] [--shards 50000,200000] [--clusters 50000].
The driver's side of every pass is the real one: the same reductions, folds and checks (scale_passes.py), over a store
that has all file names (scale_store.py). The answers are simulated (scale_replay.py): another process runs the real
tasks on drawn rows, merges them as a worker does, and some such answers are replayed until every shard is accounted
for. So this measures memory, CPU seconds and bytes of the driver, and nothing else.
"""

import gc
import shutil
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs.lab.bench.meter import peak_bytes
from winnow.jobs.lab.bench.scale_passes import Drawn, Passes
from winnow.jobs.lab.bench.scale_replay import Replayed
from winnow.jobs.lab.bench.scale_store import FilledStore
from winnow.pipeline.stage import Run

_MOST_MB, _MOST_COUNT_S = 1500, 60.0


@dataclass(frozen=True)
class PassCost:
    """One pass. peak: highest resident bytes. cpu: seconds of this process. largest, sent: bytes of answers."""

    peak: int
    cpu: float
    largest: int
    sent: int


def measured(store: FilledStore, drawn: Drawn, executor: Replayed) -> dict[str, PassCost]:
    """Every pass over the shards of a store, in turn."""
    run = Run(store.url, executor, store.shards)
    lines = {}
    for name, work in Passes(drawn, store, executor).of().items():
        executor.largest = executor.sent = 0
        gc.collect()
        peak_bytes(forget=True)
        started = time.process_time()
        work(run)
        lines[name] = PassCost(peak_bytes(), time.process_time() - started, executor.largest, executor.sent)
    return lines


def show(by_size: Mapping[int, Mapping[str, PassCost]], drawn: Drawn, together: int, console: Console) -> bool:
    """A row per pass, with the growth between the smallest and the largest size; whether all is within the limits."""
    small, large = min(by_size), max(by_size)
    table = Table("pass", "answer MB", "GB received", "driver CPU s", "s a 100k shards", "peak MB", "MB a 100k shards")
    table.columns[0].no_wrap = True
    table.title = (
        f"{large:,} shards of {drawn.rows:,} rows, {drawn.clusters:,} clusters, {together} shards a call; growth since "
        f"{small:,} shards"
    )
    step = max(1, large - small) / 1e5
    for name, line in by_size[large].items():
        before = by_size[small][name]
        table.add_row(
            name,
            f"{line.largest / 1e6:.3f}",
            f"{line.sent / 1e9:.1f}",
            f"{line.cpu:.1f}",
            f"{(line.cpu - before.cpu) / step:.1f}",
            f"{line.peak / 1e6:,.0f}",
            f"{(line.peak - before.peak) / 1e6 / step:+,.0f}",
        )
    console.print(table)
    peak = max(line.peak for line in by_size[large].values()) / 1e6
    count = max(line.cpu for name, line in by_size[large].items() if name.startswith("count"))
    console.print(f"driver, highest: {peak:,.0f} MB; at most {_MOST_MB:,}")
    rows = large * drawn.rows
    console.print(
        f"driver, one counting pass of {rows:,} rows: {count:.1f} CPU s; at most {_MOST_COUNT_S:g} at 2 · 10⁹"
    )
    return peak < _MOST_MB and count < _MOST_COUNT_S * max(1.0, rows / 2e9)


def main(
    folder: Annotated[Path, typer.Option(help="scratch space: 300 MB in 270,000 files")] = Path("out/bench-scale"),
    shards: Annotated[str, typer.Option(help="sizes of the pool, smallest first")] = "50000,200000",
    clusters: Annotated[int, typer.Option(help="k")] = 50_000,
    rows: Annotated[int, typer.Option(help="of a shard")] = 10_000,
    together: Annotated[int, typer.Option(help="shards of a call to a worker")] = 16,
    distinct: Annotated[int, typer.Option(help="answers that are made of a pass, and replayed")] = 24,
) -> None:
    """Measure the driver in every pass at each size; exit code 1 where it is above its limits."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn, by_size = Drawn(rows, clusters), dict[int, dict[str, PassCost]]()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for size in sorted({int(part) for part in shards.split(",")}):
            store = FilledStore.make(folder / f"store-{size}", size, rows, together * distinct)
            by_size[size] = measured(store, drawn, Replayed(folder, pool, together, distinct))
            shutil.rmtree(folder / f"store-{size}")
    shutil.rmtree(folder)
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(
        "the driver is real; the answers are simulated: real tasks on drawn rows made some, which are replayed"
    )
    if not show(by_size, drawn, together, console):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
