"""Benchmark: writing training shards, compared with cp and two resharders in Python.

python -m winnow.jobs.lab.bench.writing [--folder out/bench-shards].
Absolute rates depend on the machine; read the ratios. In a folder in memory,
such as /dev/shm, fsync and the disk cost nothing, so only the copying is measured.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated

import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs.job_file.job import Job, parse
from winnow.jobs.quickstart import drawing, pocket
from winnow.jobs.run import JobResult, run_job
from winnow.pipeline.executors.choose import open_executor
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.machine import cores
from winnow.stages.results.tar_shard import TarShard

_SHARE = 0.25
_SHARD_SAMPLES = 1000
_SMALLEST, _TYPICAL, _LARGEST = 30_000, 95_000, 300_000  # bytes per picture, like photos of 256 to 1024 px
_PICTURES = 32  # samples differ by size and json
_NO_MEMBERS = ("__url__", "__local_path__")  # keys of a webdataset sample that are not members
_PART = 0.2  # share of the pool that the resharders read; they are slow, and equally fast on any part
_ROOM = 1 + 3 * _SHARE + 0.05  # in pool sizes: the pool, the kept samples three times, vectors
_CP = 'cp "$@" .'
_CP_FSYNC = f'{_CP} && for tar; do sync "${{tar##*/}}"; done'
_DIRECT = 'for tar; do dd if="$tar" of="${tar##*/}" bs=1M oflag=direct conv=fsync status=none; done'


def make_pool(folder: Path, size: int) -> None:
    """Write tars of about `size` bytes in all: drawn pictures, each padded behind its end to the size of a photo."""
    rng = Random(0)
    pictures = [drawing.jpeg(rng) for _ in range(_PICTURES)]
    filling = rng.randbytes(_LARGEST)
    folder.mkdir(parents=True)
    shard, left = 0, size
    while left > 0:
        with open(folder / f"{shard:05d}.tar", "wb") as file:
            tar = TarShard(file)
            for number in range(shard * _SHARD_SAMPLES, (shard + 1) * _SHARD_SAMPLES):
                picture = pictures[number % _PICTURES]
                weight = int(min(_LARGEST, max(_SMALLEST, _TYPICAL * rng.lognormvariate(0, 0.6))))
                members = [
                    ("jpg", picture + filling[: weight - len(picture)]),
                    ("json", f'{{"uid": "{rng.getrandbits(128):032x}"}}'.encode()),
                    ("txt", f"picture {number}".encode()),
                ]
                tar.add_members(f"{number:09d}", members)
            tar.finish()
            left -= file.tell()
            os.fsync(file.fileno())  # otherwise the first rounds would pay for it
        shard += 1


def _job(folder: Path) -> Job:
    return parse(
        {
            "name": "bench",
            "store": str(folder / "store"),
            "pool": {"shards": f"{folder}/pool/*.tar"},
            "embeddings": {"clip": {"model": str(pocket.POCKET_CONFIG), "pretrained": "random"}},
            "policy": [{"random": {"fraction": _SHARE}}],
            "shards": {"samples_per_shard": _SHARD_SAMPLES},
        }
    )


@dataclass(frozen=True)
class Bench:
    """The ways to write shards, and their folders. Each way returns its seconds.

    folder: has `pool`, `store` and the written files. made: the folder of the stage. kept: the shards that the stage
    wrote, which cp copies. part: some shards of the pool with their kept keys, for the resharders.
    """

    folder: Path
    job: Job
    made: Path
    kept: Path
    part: Sequence[tuple[Path, frozenset[str]]]

    @classmethod
    def prepared(cls, folder: Path, size: int) -> "Bench":
        """Make a pool of about `size` bytes and run the job once."""
        make_pool(folder / "pool", size)
        job = _job(folder)
        result = run_job(job, LocalExecutor(), lambda line: None)
        made = Path(dict(result.steps)["shards"].artifact.folder)
        made.rename(folder / "kept")
        shards = sorted((folder / "pool").glob("*.tar"))
        count = max(1, int(len(shards) * _PART))
        part = [(shard, _kept_keys(result, index)) for index, shard in enumerate(shards[:count])]
        return cls(folder, job, made, folder / "kept", part)

    @property
    def out(self) -> Path:
        """Folder of all other ways."""
        return self.folder / "out"

    def by_winnow(self, executor: Executor) -> float:
        """Run the stage, from the listing of its artifacts to `_done.json`."""
        return dict(run_job(self.job, executor, lambda line: None).steps)["shards"].seconds

    def by_shell(self, script: str, at_once: int = 1) -> float:
        """Copy the stage's shards by parallel shells. Each gets its own shards and writes to its working folder."""
        shards = sorted(self.kept.glob("*.tar"))
        self.out.mkdir()
        started = time.perf_counter()
        parts = [part for first in range(at_once) if (part := shards[first::at_once])]
        shells = [subprocess.Popen(["sh", "-ec", script, "sh", *map(str, part)], cwd=self.out) for part in parts]
        ends = [shell.wait() for shell in shells]
        seconds = time.perf_counter() - started
        if any(ends):
            raise OSError(f"a shell must copy {self.kept} by {script!r}, got {ends}; its messages are above")
        return seconds

    def by_tarfile(self) -> float:
        """Read every member of the part and write the kept ones, by tarfile."""
        self.out.mkdir()
        started = time.perf_counter()
        for url, keys in self.part:
            with tarfile.open(url) as source, tarfile.open(self.out / url.name, "w") as target:
                for member in source:
                    content = source.extractfile(member)
                    data = content.read() if content else b""
                    if member.name.partition(".")[0] in keys:
                        target.addfile(member, io.BytesIO(data))
        return time.perf_counter() - started

    def by_webdataset(self) -> float:
        """Read every sample of the part by webdataset, and write the kept ones by its TarWriter."""
        from webdataset import TarWriter, tariterators  # imports torch, three seconds that no timing may contain

        self.out.mkdir()
        started = time.perf_counter()
        for url, keys in self.part:
            with open(url, "rb") as source, TarWriter(str(self.out / url.name), encoder=False) as target:
                members = tariterators.tar_file_expander([{"url": str(url), "stream": source}])
                for sample in tariterators.group_by_keys(members):
                    if sample["__key__"] in keys:
                        target.write({name: part for name, part in sample.items() if name not in _NO_MEMBERS})
        return time.perf_counter() - started

    def rate(self, way: Callable[[], float], cold: bool) -> float:
        """Bytes of shards per second of one way."""
        for folder in (self.made, self.out):
            shutil.rmtree(folder, ignore_errors=True)
        tars = [*(self.folder / "pool").glob("*.tar"), *self.kept.glob("*.tar")]
        if cold:
            for tar in tars:
                _forget(tar)
        else:  # again each time: some systems reclaim the cache even if there is room
            subprocess.run(["cat", *map(str, tars)], check=True, stdout=subprocess.DEVNULL)
        seconds = way()
        return sum(tar.stat().st_size for folder in (self.made, self.out) for tar in folder.glob("*.tar")) / seconds


def _kept_keys(result: JobResult, index: int) -> frozenset[str]:
    verdicts = result.path.manifest.read(index, ["key", "weight"])
    return frozenset(verdicts["key"].filter(pc.greater(verdicts["weight"], 0)).to_pylist())


def _forget(path: Path) -> None:
    """Drop a file from the system's page cache, after fsync has written it to the disk."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _limits(bench: Bench) -> dict[str, Callable[[], float]]:
    """Ways that write the same bytes without a choice of samples; in memory, those with fsync are left out."""
    if _in_memory(bench.folder):
        return {"cp": partial(bench.by_shell, _CP), "cp, two at once": partial(bench.by_shell, _CP, 2)}
    return {
        "cp": partial(bench.by_shell, _CP),
        "cp and fsync": partial(bench.by_shell, _CP_FSYNC),
        "cp and fsync, two at once": partial(bench.by_shell, _CP_FSYNC, 2),
        "the disk past the page cache, two files at once": partial(bench.by_shell, _DIRECT, 2),
    }


def _in_memory(folder: Path) -> bool:
    found = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], check=True, capture_output=True, text=True)
    return found.stdout.strip() in ("tmpfs", "ramfs")


def rate_rows(bench: Bench, executor: Executor, rounds: int, cold: bool) -> Iterator[tuple[str, str, str]]:
    """(what, rate, ratio) of each way: medians and best rates over rounds in which every way runs once."""
    cores = LocalExecutor()
    stage = {
        f"winnow, {cores.workers} threads": partial(bench.by_winnow, cores),
        f"winnow, {executor.workers} Ray workers": partial(bench.by_winnow, executor),
        "winnow, 1 thread": partial(bench.by_winnow, LocalExecutor(1)),
    }
    others = {**_limits(bench), "tarfile": bench.by_tarfile, "webdataset's TarWriter": bench.by_webdataset}
    ways: dict[str, Callable[[], float]] = {**others, **stage}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    rng = Random(0)
    for _ in range(rounds):
        # in turn, so that a drift of the machine affects all ways; in random order, because a way may leave the next
        # one blocks that the disk discards, or memory that the system has returned to its host
        for name in rng.sample(list(ways), len(ways)):
            rates[name].append(bench.rate(ways[name], cold))
    found = {name: median(several) / 1e6 for name, several in rates.items()}
    for name, rate in found.items():
        ratio = "; ".join(f"{rate / found[other]:.2f} of {other}" for other in others) if name in stage else ""
        said = f"{rate:,.0f} MB/s, best {max(rates[name]) / 1e6:,.0f}"
        yield f"shards, {'cold' if cold else 'warm'}: {name}", said, ratio


def measure_writing(table: Table, folder: Path, gigabytes: float, executor: Executor, rounds: int = 5) -> None:
    """Add rows for a warm page cache and, on a disk, for a cold one. Deletes its files in `folder` at the end.

    Raises OSError if the disk does not have enough room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = int(gigabytes * 1e9)
    free = shutil.disk_usage(folder).free
    if free < _ROOM * size:
        raise OSError(
            f"{folder} needs {_ROOM * gigabytes:.1f} GB of free space, but has {free / 1e9:.1f}; use another folder"
        )
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        bench = Bench.prepared(Path(scratch), size)
        bench.by_winnow(executor)  # starts the workers
        for cold in (False,) if _in_memory(folder) else (False, True):
            for row in rate_rows(bench, executor, rounds, cold):
                table.add_row(*row)


def main(
    folder: Annotated[Path, typer.Option(help="scratch space, 1.8 times the pool")] = Path("out/bench-shards"),
    gigabytes: Annotated[float, typer.Option(min=0.001, help="size of the pool")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="rounds, of which the median is printed")] = 5,
) -> None:
    """Print the rate of writing a quarter of a pool, its limits and its peers; 5 minutes on 2 cores."""
    table = Table("what", "rate", "ratio", title=f"{gigabytes:g} GB, {_SHARE:.0%} kept, {cores()} cores")
    executor = open_executor("ray", None, None)
    try:
        measure_writing(table, folder.absolute(), gigabytes, executor, rounds)
    finally:
        executor.close()
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    typer.run(main)
