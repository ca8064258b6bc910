"""Times the embed stage and the writing of shards beside their limits, in one run; prints one table, keeps nothing.

python -m jobs.bench [--folder out/bench] [--pool GLOB]. Absolute rates are this machine's; read the ratios.
"""

import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import numpy as np
import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from jobs import pocket, world
from jobs.job import Job, parse
from jobs.run import run
from pipeline import storage
from pipeline.executor import Executor, Needs
from pipeline.executor_open import open_executor
from stages.encoders import Bank, Encoding, OpenClip
from stages.encoders.limits import decode_only, forward_only
from stages.formats import Webdataset
from stages.formats.sample import Reject, Sample

_ROUNDS = 5
_PAYLOAD_BYTES = 256 * 1024  # of each sample whose shard is copied, so that bytes and not members are timed


@dataclass(frozen=True)
class Part:
    """The first `take` samples of a shard."""

    url: str
    take: int

    def samples(self) -> Iterator[Sample | Reject]:
        """Read them."""
        return islice(Webdataset().samples(self.url), self.take)


@dataclass(frozen=True)
class Timed:
    """Times one way of going through a shard, on a worker like those of the embed stage."""

    encoder: OpenClip
    encoding: Encoding
    way: Literal["decode", "models", "embed"]

    def open(self) -> Bank:
        """Load the model; not timed."""
        return Bank.open({"clip": self.encoder}, self.encoding)

    def run(self, state: Bank, item: Part) -> tuple[int, float]:
        """(samples, seconds)."""
        if self.way == "models":
            return forward_only(state, item.samples())
        started = time.perf_counter()
        if self.way == "decode":
            return decode_only(state, item.samples()), time.perf_counter() - started
        count = sum(len(batch.samples) for batch in state.encode(item.samples()))
        return count, time.perf_counter() - started


def rate(task: Timed, executor: Executor, urls: list[str], take: int) -> float:
    """Samples per second of all workers together; each warms up on one batch first."""
    warm = [Part(urls[0], task.encoding.batch_size)] * executor.workers
    parts = [Part(url, take) for url in urls]
    found = dict(executor.map(task, [*warm, *parts], f"{task.way} only", Needs()))
    done = [found[len(warm) + number] for number in range(len(parts))]
    samples = sum(count for count, _ in done)
    return samples / (sum(seconds for _, seconds in done) / executor.workers)


def bench_embed(table: Table, name: str, task: Timed, urls: list[str], take: int, executor: Executor) -> None:
    """Decode only, models only, and both together, on the same cores and samples.

    Both in turn would do 1 / (1/decode + 1/models) samples a second; tokenizing is in neither.
    """
    decode, models, embed = (
        rate(replace(task, way=way), executor, urls, take) for way in ("decode", "models", "embed")
    )
    limit = 1 / (1 / decode + 1 / models)
    table.add_row(f"{name}: read and decode only", f"{decode:,.0f} samples/s", "")
    table.add_row(f"{name}: models only", f"{models:,.0f} samples/s", f"embed has {embed / models:.2f} of it")
    table.add_row(f"{name}: embed", f"{embed:,.0f} samples/s", f"{embed / limit:.2f} of both in turn")


def bench_shards(table: Table, folder: Path, executor: Executor, samples: int) -> None:
    """Write a quarter of a pool of large samples, beside cp of the bytes that were written."""
    source = folder / "large"
    if not source.exists():
        _large_pool(folder / "world" / "pool", source, samples)
    job = _large_job(folder, source)
    result = run(job, executor, lambda line: None)
    made = Path(dict(result.steps)["shards"].artifact.folder)
    megabytes = sum(tar.stat().st_size for tar in made.glob("*.tar")) / 1e6
    times: dict[str, list[float]] = {"write": [], "cp": [], "cp and fsync": []}
    for _ in range(_ROUNDS):  # in turn, so that a drift of the machine meets all three
        times["cp"].append(_seconds(lambda: _copy(made, folder / "copy", sync=False)))
        times["cp and fsync"].append(_seconds(lambda: _copy(made, folder / "copy", sync=True)))
        shutil.rmtree(made)
        times["write"].append(dict(run(job, executor, lambda line: None).steps)["shards"].seconds)
    write, copy, synced = (median(found) for found in times.values())
    table.add_row(
        "shards: write (fsync)", f"{megabytes / write:,.0f} MB/s", f"{megabytes:,.0f} MB, median of {_ROUNDS}"
    )
    table.add_row(
        "shards: cp of the same bytes", f"{megabytes / copy:,.0f} MB/s", f"write has {copy / write:.2f} of it"
    )
    table.add_row("shards: cp and fsync", f"{megabytes / synced:,.0f} MB/s", f"write has {synced / write:.2f} of it")


def _large_job(folder: Path, source: Path) -> Job:
    return parse(
        {
            "name": "bench",
            "store": str(folder / "store"),
            "pool": {"shards": f"{source}/*.tar"},
            "embeddings": {"clip": {"model": str(pocket.CONFIG), "pretrained": "random"}},
            "policy": [{"random": {"fraction": 0.25}}],
            "shards": {"samples_per_shard": 200},
        }
    )


def _large_pool(small: Path, folder: Path, samples: int) -> None:
    """The small pool's samples with a large member each."""
    folder.mkdir(parents=True)
    payload = np.random.default_rng(0).bytes(_PAYLOAD_BYTES)
    found = (s for url in sorted(small.glob("*.tar")) for s in Webdataset().samples(str(url)))
    readable = [sample for sample in found if isinstance(sample, Sample)][:samples]
    for number in range(0, len(readable), 500):
        with tarfile.open(folder / f"{number // 500:05d}.tar", "w") as tar:
            for sample in readable[number : number + 500]:
                members = {"jpg": bytes(sample.image), "txt": sample.caption.encode(), "bin": payload}
                for suffix, content in members.items():
                    header = tarfile.TarInfo(f"{sample.key}.{suffix}")
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))


def _copy(source: Path, target: Path, sync: bool) -> None:
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    if sync:
        subprocess.run(["sync", *map(str, target.glob("*.tar"))], check=True)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(
    folder: Annotated[Path, typer.Option(help="scratch space, about 2 GB")] = Path("out/bench"),
    pool: Annotated[str | None, typer.Option(help="tars to embed instead of the rendered world's")] = None,
    workers: Annotated[int | None, typer.Option(help="one per core by default")] = None,
    large_samples: Annotated[int, typer.Option(help="samples of 256 KiB to write a quarter of")] = 3000,
) -> None:
    """Print every rate beside its limit; about 3 minutes on 2 cores."""
    if not (folder / "world" / "truth.parquet").exists():
        world.render(world.World(), folder / "world")
    urls = storage.expand([pool or f"{folder}/world/pool/*.tar"])
    table = Table("what", "rate", "ratio", title=f"{os.cpu_count()} cores")
    executor = open_executor("ray", workers, None)
    try:
        for preprocess in ("exact", "fast"):
            encoding = TypeAdapter(Encoding).validate_python({"preprocess": preprocess, "device": "cpu"})
            task = Timed(OpenClip(str(pocket.CONFIG), "random"), encoding, "embed")
            bench_embed(table, f"pocket, {preprocess}", task, urls, 10_000, executor)
        large = Timed(OpenClip("ViT-B-32", "random"), Encoding(batch_size=32, device="cpu"), "embed")
        bench_embed(table, "ViT-B-32, exact", large, urls[: executor.workers], 96, executor)
        bench_shards(table, folder, executor, large_samples)
    finally:
        executor.close()
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
