"""Times the embed stage and the writing of shards beside their limits, in one run; prints one table, keeps nothing.

python -m jobs.bench [--folder out/bench] [--pool GLOB]. Absolute rates are this machine's; read the ratios.
"""

import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, cast

import numpy as np
import typer
from PIL import Image
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from jobs import pocket, world
from jobs.job import Job, parse
from jobs.run import run
from pipeline import storage
from pipeline.artifact import Artifact
from pipeline.executor import Executor, Needs
from pipeline.executor_open import open_executor
from pipeline.stage import ShardItem
from stages.embeddings import embed
from stages.encoders import Bank, Encoding, OpenClip
from stages.encoders.limits import decode_only, forward_only, kept_bank
from stages.formats import Webdataset
from stages.formats.sample import Reject, Sample

_ROUNDS = 5
_EMBED_ROUNDS = 3
_TAKES = {224: 1000, 512: 500, 1024: 200}
"""Samples a worker embeds with the small model, by the short side of their pictures in pixels."""
_PAYLOAD_BYTES = 256 * 1024  # of each sample whose shard is copied, so that bytes and not members are timed


@dataclass(frozen=True)
class Part:
    """The first `take` samples of a shard, as item `index`."""

    index: int
    url: str
    take: int

    def samples(self) -> Iterator[Sample | Reject]:
        """Read them."""
        return islice(Webdataset().samples(self.url), self.take)


@dataclass(frozen=True)
class Timed:
    """Times one way of going through a shard, on a worker like those of the embed stage; `embed` commits to `out`."""

    encoder: OpenClip
    encoding: Encoding
    out: Artifact
    way: Literal["decode", "models", "embed"] = "embed"

    def open(self) -> Bank:
        """Load the model, once for all ways and rounds; not timed."""
        return kept_bank(self.encoder, self.encoding)

    def run(self, state: Bank, item: Part) -> tuple[int, float]:
        """(samples, seconds)."""
        if self.way == "models":
            return forward_only(state, item.samples())
        started = time.perf_counter()
        if self.way == "decode":
            return decode_only(state, item.samples()), time.perf_counter() - started
        count = embed(state, item.samples(), self.out, ShardItem(item.index, item.url))["rows"]
        return cast(int, count), time.perf_counter() - started


def rate(task: Timed, executor: Executor, urls: list[str], take: int) -> float:
    """Samples per second of all workers together."""
    parts = [Part(index, url, take) for index, url in enumerate(urls)]
    done = [result for _, result in executor.map(task, parts, f"{task.way} only", Needs())]
    return sum(count for count, _ in done) / (sum(seconds for _, seconds in done) / executor.workers)


def bench_embed(
    table: Table, name: str, task: Timed, pools: Mapping[int, list[str]], takes: Mapping[int, int], executor: Executor
) -> None:
    """Decode only, models only, and the embed stage with its files, on the same cores; medians of rounds in turn.

    pools: tars, one a worker, by the side of their pictures in pixels; takes: samples of each tar. Both in turn would
    do 1 / (1/decode + 1/models) samples a second; tokenizing, tables and files are in neither.
    """
    found: dict[int, list[tuple[float, float, float, float]]] = {side: [] for side in pools}
    first = min(pools)
    for _ in range(_EMBED_ROUNDS):
        models = rate(replace(task, way="models"), executor, pools[first], takes[first])
        for side, urls in pools.items():
            decode = rate(replace(task, way="decode"), executor, urls, takes[side])
            whole = rate(task, executor, urls, takes[side])
            found[side].append((decode, models, whole, whole * (1 / decode + 1 / models)))
    for side, rounds in found.items():
        decode, models, whole, ratio = (median(column) for column in zip(*rounds, strict=True))
        said = f"decode {decode:,.0f}, models {models:,.0f}"
        table.add_row(f"{name}, {side} px: embed", f"{whole:,.0f} samples/s", f"{ratio:.2f} of both in turn ({said})")


def enlarged(samples: Iterator[Sample], folder: Path, side: int, take: int, shards: int) -> list[str]:
    """Tars of `take` samples each whose pictures are JPEGs with a short side of `side` pixels; kept from run to run."""
    urls = [folder / f"{number:05d}.tar" for number in range(shards)]
    for url in (url for url in urls if not url.exists()):
        url.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(url.with_suffix(".part"), "w") as tar:
            for number, sample in enumerate(islice(samples, take)):
                picture = Image.open(io.BytesIO(sample.image)).convert("RGB")
                factor = side / min(picture.size)
                size = round(picture.width * factor), round(picture.height * factor)
                encoded = io.BytesIO()
                picture.resize(size, Image.Resampling.BICUBIC).save(encoded, "jpeg", quality=90)
                members = {"jpg": encoded.getvalue(), "txt": sample.caption.encode()}
                _add(tar, f"{number:05d}", members)
        url.with_suffix(".part").rename(url)
    return [str(url) for url in urls]


def readable(urls: list[str]) -> Iterator[Sample]:
    """Samples of the tars whose picture PIL can open, over and over."""
    while True:
        for sample in (sample for url in urls for sample in Webdataset().samples(url)):
            if isinstance(sample, Sample) and _opens(sample.image):
                yield sample


def _opens(image: bytes | memoryview) -> bool:
    try:
        Image.open(io.BytesIO(image)).load()
    except (OSError, SyntaxError, ValueError):  # what PIL raises for the broken pictures of a pool
        return False
    return True


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
                _add(tar, sample.key, members)


def _add(tar: tarfile.TarFile, key: str, members: Mapping[str, bytes]) -> None:
    for suffix, content in members.items():
        header = tarfile.TarInfo(f"{key}.{suffix}")
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
    """Print every rate beside its limit; about 6 minutes on 2 cores."""
    if not (folder / "world" / "truth.parquet").exists():
        world.render(world.World(), folder / "world")
    urls = storage.expand([pool or f"{folder}/world/pool/*.tar"])
    table = Table("what", "rate", "ratio", title=f"{os.cpu_count()} cores")
    executor = open_executor("ray", workers, None)
    try:
        out = Artifact(str(folder / "store"), "embeddings", "be9c4000")
        samples, workers = readable(urls), executor.workers
        pools = {side: enlarged(samples, folder / f"{side}", side, take, workers) for side, take in _TAKES.items()}
        for preprocess in ("exact", "fast"):
            encoding = TypeAdapter(Encoding).validate_python({"preprocess": preprocess, "device": "cpu"})
            task = Timed(OpenClip(str(pocket.CONFIG), "random"), encoding, out)
            bench_embed(table, f"pocket, {preprocess}", task, pools, _TAKES, executor)
        large = Timed(OpenClip("ViT-B-32", "random"), Encoding(batch_size=32, device="cpu"), out)
        bench_embed(table, "ViT-B-32, exact", large, pools, dict.fromkeys(pools, 64), executor)
        bench_shards(table, folder, executor, large_samples)
    finally:
        executor.close()
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
