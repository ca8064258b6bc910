"""Benchmark: what the driver holds and spends when a job has 200,000 shards and 50,000 clusters.

python -m winnow.jobs.lab.bench.scale [--folder out/bench-scale] [--shards 50000,200000] [--clusters 50000].
The driver's side of every pass is the real one: the same reductions, folds and checks. The answers are simulated:
another process runs the real tasks on drawn rows, merges them as a worker does, and some such answers are replayed
until every shard is accounted for. So this measures memory, CPU seconds and bytes of the driver, and nothing else.
"""

import pickle
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs.lab.bench.meter import peak_bytes
from winnow.jobs.sweep import intersections, sum_of
from winnow.jobs.verify.orders import CutLook, merge_looks
from winnow.pipeline.executors.contract import Needs, Task
from winnow.pipeline.executors.ray_worker import Worker
from winnow.pipeline.keep_top import Rows, Selection, merge
from winnow.pipeline.keep_top.scan import Partial, Pass
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.storage import Identity
from winnow.pipeline.sums import Sums, dense, merge_sums
from winnow.pipeline.totals import summed
from winnow.pipeline.uid import UID
from winnow.stages.cuts.contract.findings import Findings, looked
from winnow.stages.cuts.contract.orders import PartStandings, Ranking, Standings
from winnow.stages.cuts.density import cluster_moments, sum_moments

_MOST_MB, _MOST_COUNT_S = 1500, 60.0
_POLICIES = 20
_KEPT = 0.4  # of each cluster


@dataclass(frozen=True)
class Drawn:
    """The rows of a shard, drawn by its number: clusters uniform, distances about 0.45, as those of CLIP are."""

    rows: int
    clusters: int

    def of(self, item: ShardItem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """cluster int32, distance float32 and uid of its rows."""
        draw = np.random.default_rng(item.index)
        distance = np.clip(draw.normal(0.45, 0.1, self.rows), 0, 2).astype(np.float32)
        uids = draw.integers(0, 1 << 62, (self.rows, 2), np.uint64).reshape(-1).view(UID)
        return draw.integers(0, self.clusters, self.rows, np.int32), distance, uids


@dataclass(frozen=True)
class _DrawnSizes:
    drawn: Drawn

    def __call__(self, item: ShardItem) -> Sums:
        return Sums.of(self.drawn.of(item)[0])


@dataclass(frozen=True)
class _DrawnMoments:
    drawn: Drawn

    def __call__(self, item: ShardItem) -> Sums:
        cluster, distance, _ = self.drawn.of(item)
        return cluster_moments(cluster, distance)


@dataclass(frozen=True)
class _DrawnScan:
    drawn: Drawn
    step: Pass

    def __call__(self, item: ShardItem) -> Partial:
        cluster, distance, uids = self.drawn.of(item)
        return self.step.scan(Rows(distance, cluster, uids, item.index))


@dataclass(frozen=True)
class _DrawnSummary:
    """A summary such as the manifest's, the longest that a shard has."""

    drawn: Drawn

    def __call__(self, item: ShardItem) -> Summary:
        dropped = dict.fromkeys(("rules", "duplicates", "similarity", "density"), self.drawn.rows // 9)
        rejected = {"image-decode": 7, "no-image": 2}
        return {"rows": self.drawn.rows, "in": 9, "kept": 3, "dropped": dropped, "rejected": rejected}


@dataclass(frozen=True)
class _DrawnStandings:
    drawn: Drawn

    def __call__(self, item: ShardItem) -> CutLook:
        cluster, distance, uids = self.drawn.of(item)
        ranking = Ranking(distance, cluster, distance > 0.5)
        return looked(rows=len(cluster)), [PartStandings.of(ranking, uids, item.index)]


@dataclass(frozen=True)
class _DrawnOverlap:
    drawn: Drawn

    def __call__(self, item: ShardItem) -> np.ndarray:
        draw = np.random.default_rng(item.index)
        return intersections(draw.random((_POLICIES, self.drawn.rows)) < 0.3)


def _answer(task: Task[Any, Any], items: Sequence[ShardItem], path: Path) -> None:
    """What a worker answers to one call, as it is sent."""
    path.write_bytes(pickle.dumps(Worker().run(1, task, items, 1e9), 5))


class Replayed:
    """An executor whose answers another process makes: `distinct` of them, each sent for many calls.

    together: shards of a call. largest, sent: bytes of an answer, and of all.
    """

    workers = 1
    failed: Mapping[int, int] = {}
    avoided: Mapping[str, str] = {}

    def __init__(self, folder: Path, pool: ProcessPoolExecutor, together: int, distinct: int) -> None:
        self._folder, self._pool, self._together, self._distinct = folder, pool, together, distinct
        self.largest = self.sent = 0

    def start(self) -> None:
        """Nothing to start."""

    def map(self, task: Task[Any, Any], items: Sequence[Any], label: str, needs: Needs) -> Iterator[tuple[int, Any]]:
        """See Executor.map."""
        starts = range(0, len(items), self._together)
        paths = [self._folder / f"{number}.pickle" for number in range(min(self._distinct, len(starts)))]
        for start, path in zip(starts, paths, strict=False):
            self._pool.submit(_answer, task, items[start : start + self._together], path).result()
        self.largest, self.sent = max((path.stat().st_size for path in paths), default=0), 0
        for number, start in enumerate(starts):
            content = paths[number % len(paths)].read_bytes()
            self.sent += len(content)
            _, outcomes = pickle.loads(content)  # noqa: S301 - our own
            del content
            for index, (_, result) in zip(
                range(start, min(start + self._together, len(items))), outcomes, strict=False
            ):
                yield index, result

    def close(self) -> None:
        """Nothing to end."""


def _fold_standings(run: Run, drawn: Drawn) -> Findings:
    found, standing = Findings(), Standings.empty()
    for findings, [part] in run.reduce(_DrawnStandings(drawn), merge_looks, run.items, "verify"):
        found += findings
        standing.take(part)
    return found


def _fill(run: Run, drawn: Drawn) -> int:
    return summed(run.each(_DrawnSummary(drawn), run.items, "fill")).number("rows")


def _overlaps(run: Run, drawn: Drawn) -> np.ndarray:
    both = np.zeros((_POLICIES, _POLICIES), np.int64)
    for part in run.reduce(_DrawnOverlap(drawn), sum_of, run.items, "sweep"):
        both += part
    return both


def _count(selection: Selection, run: Run, drawn: Drawn) -> None:
    step = selection.next_pass()
    if step is not None:
        selection.absorb(run.reduce(_DrawnScan(drawn, step), merge, run.items, "keep_top"))


def passes(drawn: Drawn, shards: int) -> dict[str, Callable[[Run], object]]:
    """What the driver does in the passes of a job, by the cuts and commands that make them."""
    selection = Selection(np.full(drawn.clusters, int(_KEPT * shards * drawn.rows / drawn.clusters)))
    k = drawn.clusters
    return {
        "list the shards: every pass": lambda run: run.items,
        "a stage's files: summaries": lambda run: _fill(run, drawn),
        "sizes: clusters": lambda run: dense(run.reduce(_DrawnSizes(drawn), merge_sums, run.items, "sizes"), k),
        "moments: density": lambda run: sum_moments(
            run.reduce(_DrawnMoments(drawn), merge_sums, run.items, "moments"), k
        ),
        "count, byte 1: density, prototypes": partial(_count, selection, drawn=drawn),
        "count, byte 2: density, prototypes": partial(_count, selection, drawn=drawn),
        "standings: verify": lambda run: _fold_standings(run, drawn),
        f"overlap of {_POLICIES}: sweep": lambda run: _overlaps(run, drawn),
    }


@dataclass(frozen=True)
class PassCost:
    """One pass. peak: highest resident bytes. cpu: seconds of this process. largest, sent: bytes of answers."""

    peak: int
    cpu: float
    largest: int
    sent: int


def measured(shards: int, drawn: Drawn, executor: Replayed) -> dict[str, PassCost]:
    """Every pass over so many shards, in turn."""
    identities = tuple(Identity(f"s3://laion/{i:06d}.tar", 1, f"etag-{i:032x}") for i in range(shards))
    run = Run("out", executor, identities)
    lines = {}
    for name, work in passes(drawn, shards).items():
        executor.largest = executor.sent = 0
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
    folder: Annotated[Path, typer.Option(help="scratch space: 150 MB")] = Path("out/bench-scale"),
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
            by_size[size] = measured(size, drawn, Replayed(folder, pool, together, distinct))
    shutil.rmtree(folder)
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(
        "the driver is real; the answers are simulated: real tasks on drawn rows made some, which are replayed"
    )
    if not show(by_size, drawn, together, console):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
