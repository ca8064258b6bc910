"""Benchmark: reading kept samples in place, from exported shards, and from the whole pool.

python -m winnow.jobs.lab.bench.loading [--folder out/bench-loader].
Absolute rates depend on the machine; read the ratios.
"""

import os
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs import loader
from winnow.jobs.job_file.job import parse
from winnow.jobs.quickstart import drawing, pocket
from winnow.jobs.run import JobResult, run_job
from winnow.pipeline.columns import column
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.machine import cores
from winnow.stages.pools.tars.ranges import LOCAL_GAP_BYTES, REMOTE_GAP_BYTES, plan_reads
from winnow.stages.results.selected import ReadPlan, Selected
from winnow.stages.results.tar_shard import TarShard

_SHARES = (0.01, 0.10, 0.25, 0.50, 0.90)
_SHARDS = 2
_PICTURES = 32  # samples differ by their captions
_SAMPLE_BYTES = 30_000  # size of a photo of 256 pixels
_REQUEST_S, _BYTES_S = 0.02, 50e6  # of an assumed object store: computed, not measured
_GAPS = {
    "ranges only": 0,
    "a file's": LOCAL_GAP_BYTES,
    "an object store's": REMOTE_GAP_BYTES,
    "the whole shard": 1 << 40,
}


def make_two_tars(folder: Path, megabytes: int) -> None:
    """Write two tars of drawn pictures, each padded behind its end to the size of a photo."""
    rng = Random(0)
    pictures = [_picture(rng) for _ in range(_PICTURES)]
    folder.mkdir(parents=True)
    for shard in range(_SHARDS):
        with open(folder / f"{shard:05d}.tar", "wb") as file:
            tar = TarShard(file)
            for row in range(megabytes * 1_000_000 // _SAMPLE_BYTES // _SHARDS):
                key = f"{shard:05d}{row:05d}"
                members = [("jpg", pictures[row % _PICTURES]), ("txt", f"picture {key}".encode()), ("json", b"{}")]
                tar.add_members(key, members)
            tar.finish()


def _picture(rng: Random) -> bytes:
    picture = drawing.jpeg(rng)
    room = _SAMPLE_BYTES - 6 * tarfile.BLOCKSIZE - len(picture)  # three headers, and at most three paddings
    return picture + rng.randbytes(room)


def _filtered(folder: Path, share: float) -> JobResult:
    """Run a job that keeps a random share of the pool and writes shards."""
    values = {
        "name": f"kept-{100 * share:.0f}",
        "store": str(folder / "store"),
        "pool": {"shards": f"{folder}/pool/*.tar"},
        "embeddings": {"clip": {"model": str(pocket.POCKET_CONFIG), "pretrained": "random"}},
        "policy": [{"random": {"fraction": share}}],
        "shards": {},
    }
    return run_job(parse(values), LocalExecutor(2), lambda line: None)


def _read(urls: list[str]) -> int:
    """Number of samples that plain webdataset reads from these URLs."""
    import webdataset  # imports torch, three seconds that no timing may contain

    return _count(webdataset.DataPipeline(webdataset.SimpleShardList(urls), webdataset.tarfile_to_samples()))


def _count(samples: Iterable[object]) -> int:
    return sum(1 for _ in samples)


def _rates(ways: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, tuple[int, float]]:
    """Samples and median seconds of each way. The ways take turns, so that a drift of the machine affects all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    samples: dict[str, int] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            samples[name] = way()
            seconds[name].append(time.perf_counter() - started)
    return {name: (samples[name], median(found)) for name, found in seconds.items()}


def bench_reading(table: Table, result: JobResult, rounds: int) -> None:
    """Add one row: exported shards, `winnow cat` and the loader, and plain webdataset on all shards of the pool."""
    store, name = result.job.store, result.job.name
    exported = sorted(str(path) for path in Path(result.path.shards.folder).glob("*.tar")) if result.path.shards else []
    pool = [shard.url for shard in result.job.pool.identities()]
    cat = f"pipe:{shlex.quote(sys.executable)} -m jobs cat {shlex.quote(store)} {name}"
    found = _rates(
        {
            "all": lambda: _read(pool),
            "exported": lambda: _read(exported),
            "piped": lambda: _read([f"pipe:cat {shlex.quote(url)}" for url in exported]),
            "cat": lambda: _read([f"{cat} {shard}" for shard in range(_SHARDS)]),
            "samples": lambda: _count(loader.samples(store, name)),
        },
        rounds,
    )
    kept = cast(int, result.counts["kept"])
    counts = {way: samples for way, (samples, _) in found.items()}
    if counts != {"all": result.counts["pool"], "exported": kept, "piped": kept, "cat": kept, "samples": kept}:
        raise ValueError(f"every reader must yield the {kept} kept samples, got {counts}")
    plain = found["all"][0] / found["all"][1]
    cells = [
        f"{n / s:,.0f} ({n / s / plain:.2f})"
        for n, s in (found[way] for way in ("exported", "piped", "cat", "samples"))
    ]
    table.add_row(f"{kept:,} ({name.removeprefix('kept-')} %)", f"{plain:,.0f}", *cells)


def bench_gaps(table: Table, result: JobResult, rounds: int) -> None:
    """Add one row per gap: reads, bytes, seconds here, and computed seconds of an object store."""
    kept = loader.open_kept_samples(result.job.store, result.job.name)
    plans = [kept.plan(shard) for shard in range(_SHARDS)]
    for what, gap in _GAPS.items():
        spans = [
            list(zip(start.tolist(), (start + size).tolist(), strict=True))
            for start, size in ((column(p.places, "offset"), column(p.places, "size")) for p in plans)
        ]
        reads = [read for one in spans for read in plan_reads(one, gap)]
        size = sum(read.stop - read.start for read in reads)
        selected = replace(kept.selected, gap_bytes=gap)
        ways = {how: partial(_stream, selected, plans, cold=how == "cold") for how in ("warm", "cold")}
        times = _rates(ways, rounds)
        remote = len(reads) * _REQUEST_S + size / _BYTES_S
        cells = [f"{times[how][1]:.2f} s" for how in ("warm", "cold")]
        table.add_row(result.job.name, what, f"{len(reads):,}", f"{size / 1e6:,.0f} MB", *cells, f"{remote:,.0f} s")


def _stream(selected: Selected, plans: list[ReadPlan], cold: bool) -> int:
    """Write the tars of some plans to nowhere; return their number of samples."""
    samples = 0
    with open(os.devnull, "wb") as sink:
        for plan in plans:
            if cold:
                _forget(plan.url)
            samples += selected.write_tar(plan, sink)
    return samples


def _forget(url: str) -> None:
    """Drop a file from the system's page cache, if the system follows the advice."""
    with open(url, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _start_up(result: JobResult) -> float:
    """Seconds until `winnow cat` writes the first byte of a shard."""
    words = [sys.executable, "-m", "winnow.jobs", "cat", result.job.store, result.job.name, "0"]
    started = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        if process.stdout is not None:
            process.stdout.read(1)
        took = time.perf_counter() - started
        process.kill()
    return took


def main(
    folder: Annotated[Path, typer.Option(help="scratch space, about four times the pool")] = Path("out/bench-loader"),
    megabytes: Annotated[int, typer.Option(min=1, help="size of the pool")] = 500,
    rounds: Annotated[int, typer.Option(min=1, help="rounds, of which the median is printed")] = 3,
) -> None:
    """Print samples per second of every way to read the kept samples, and of plain webdataset on the whole pool."""
    if not (folder / "pool").exists():
        make_two_tars(folder / "pool", megabytes)
    reading = Table(
        "kept",
        "whole pool, plain",
        "exported shards",
        "the same, pipe:cat",
        "winnow cat",
        "winnow.jobs.loader.samples",
        title=f"samples/s of one process and its pipes, {cores()} cores; (relative to plain webdataset)",
    )
    remote = f"at {_REQUEST_S * 1e3:.0f} ms, {_BYTES_S / 1e6:.0f} MB/s"
    gaps = Table("job", "gap", "reads", "bytes", "warm", "cold", remote)
    results = [_filtered(folder, share) for share in _SHARES]
    _read([result.job.pool.identities()[0].url for result in results[:1]])  # warms up imports and the page cache
    for result in results:
        bench_reading(reading, result, rounds)
        bench_gaps(gaps, result, rounds)
    console = Console()
    console.print(reading, gaps)
    console.print(f"winnow cat: {median(_start_up(results[0]) for _ in range(5)):.2f} s to the first byte of a shard")


if __name__ == "__main__":
    typer.run(main)
