"""Benchmark: decoding, embedding and writing shards, compared with their limits.

python -m winnow.jobs.lab.bench.embedding [--folder out/bench] [--pool GLOB].
Absolute rates depend on the machine; read the ratios.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs.lab.bench import decode as bench_decode
from winnow.jobs.lab.bench import writing as bench_shards
from winnow.jobs.quickstart import pocket, world
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.executors.choose import open_executor
from winnow.pipeline.executors.contract import Executor, Needs
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.machine import cores
from winnow.pipeline.stage import ShardItem
from winnow.stages.encoders import Bank, Encoding, OpenClip
from winnow.stages.encoders.limits import decode_only, forward_only, kept_bank, own_transform
from winnow.stages.one_decode import embed
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.results.tar_shard import TarShard
from winnow.stages.sample_files import commit_samples
from winnow.stages.vector_files import commit_vectors

_ROUNDS = 3
_DECODED = 100
_TARS = 6
"""Tars per worker, so that one opens and one ends while another is embedded, as in the stage."""
_TAKES = {224: 500, 512: 200, 1024: 100}
"""Samples per tar, by the side of the pictures in pixels."""
_LARGE = dict.fromkeys(_TAKES, 64)  # of one tar per worker, with ViT-B/32


@dataclass(frozen=True)
class FirstSamples:
    """The first `take` samples of a shard, as item `index`."""

    index: int
    url: str
    take: int

    def samples(self) -> Iterator[Sample | Reject]:
        """Read them."""
        return islice(Webdataset().samples(self.url), self.take)


@dataclass(frozen=True)
class Timed:
    """Times one way to process a shard, on a worker like those of the embed stage. `embed` commits to `out`."""

    encoder: OpenClip
    encoding: Encoding
    out: Artifact
    way: Literal["decode", "models", "embed"] = "embed"

    def open(self) -> Callable[[FirstSamples], tuple[int, float, float]]:
        """Load the model once for all ways and rounds, outside the timing."""
        return partial(self._time, kept_bank(self.encoder, self.encoding))

    def _time(self, bank: Bank, item: FirstSamples) -> tuple[int, float, float]:
        """(samples, seconds, end time by a clock that all processes of a machine share)."""
        started = time.monotonic()
        if self.way == "models":
            count, seconds = forward_only(bank, item.samples())
            return count, seconds, time.monotonic()
        if self.way == "decode":
            count = decode_only(bank, item.samples())
        else:
            shard = ShardItem(item.index, item.url)
            found = embed(bank, item.samples(), item.url)
            commit_vectors(self.out, shard, found.vectors_of("clip"), found.refused["clip"])
            commit_samples(replace(self.out, stage="samples"), shard, found.samples, found.sides, found.rejects)
            count = len(found.samples)
        ended = time.monotonic()
        return count, ended - started, ended


def rate(task: Timed, executor: Executor, urls: Sequence[str], take: int) -> float:
    """Samples per second of all workers; for `embed`, from the start of the first tar to the end of the last."""
    parts = [FirstSamples(index, url, take) for index, url in enumerate(urls)]
    whole = task.way == "embed"
    done = [found for _, found in executor.map(task, parts, f"{task.way} only", Needs(prefetch=whole))]
    count = sum(samples for samples, _, _ in done)
    if whole:
        return count / (max(ended for _, _, ended in done) - min(ended - seconds for _, seconds, ended in done))
    return count / (sum(seconds for _, seconds, _ in done) / executor.workers)


def bench_embed(
    table: Table, name: str, task: Timed, pools: Mapping[int, list[str]], takes: Mapping[int, int], executor: Executor
) -> None:
    """Time decoding alone, models alone, and the embed stage with its files, on the same cores; medians of rounds.

    pools: tars by the side of their pictures in pixels. takes: samples of each tar. Decoding, then models, would do
    1 / (1/decode + 1/models) samples per second. Tokenizing, tables and files are in neither of these two.
    """
    found: dict[int, list[tuple[float, float, float, float]]] = {side: [] for side in pools}
    first = min(pools)
    rate(task, executor, pools[first], 2 * task.encoding.batch_size)  # warms every worker up
    for _ in range(_ROUNDS):
        models = rate(replace(task, way="models"), executor, pools[first], takes[first])
        for side, urls in pools.items():
            decode = rate(replace(task, way="decode"), executor, urls, takes[side])
            whole = rate(task, executor, urls, takes[side])
            found[side].append((decode, models, whole, whole * (1 / decode + 1 / models)))
    for side, rounds in found.items():
        decode, models, whole, ratio = (median(column) for column in zip(*rounds, strict=True))
        said = f"decode {decode:,.0f}, models {models:,.0f}"
        table.add_row(f"{name}, {side} px: embed", f"{whole:,.0f} samples/s", f"{ratio:.2f} of both in turn ({said})")


def bench_decoding(table: Table, samples: Sequence[Sample]) -> None:
    """Images per second of core time: open_clip's own transform to 224 px, `exact` and `fast`."""
    own, ours = own_transform("ViT-B-32")
    for side in _TAKES:
        files = [bytes(bench_decode.enlarged_sample(sample, side).image) for sample in samples]
        found = bench_decode.rates(files, own, ours)
        for way in ("exact", "fast"):
            said = f"{found[way] / found['own']:.2f} of open_clip's own transform ({found['own']:,.0f})"
            table.add_row(f"decode and resize, {side} px, {way}", f"{found[way]:,.0f} images/s a core", said)


def enlarged_tars(samples: Iterator[Sample], folder: Path, side: int, take: int, shards: int) -> list[str]:
    """Tars of `take` samples each whose pictures are JPEGs of `side` pixels; kept from run to run."""
    urls = [folder / f"{number:05d}.tar" for number in range(shards)]
    for url in (url for url in urls if not url.exists()):
        url.parent.mkdir(parents=True, exist_ok=True)
        with open(url.with_suffix(".part"), "wb") as file:
            tar = TarShard(file)
            for number, sample in enumerate(islice(samples, take)):
                picture = bytes(bench_decode.enlarged_sample(sample, side).image)
                tar.add_members(f"{number:05d}", [("jpg", picture), ("txt", sample.caption.encode())])
            tar.finish()
        url.with_suffix(".part").rename(url)
    return [str(url) for url in urls]


def main(
    folder: Annotated[Path, typer.Option(help="scratch space, 2 GB and twice the gigabytes")] = Path("out/bench"),
    pool: Annotated[str | None, typer.Option(help="captioned tars; without them the rendered world")] = None,
    workers: Annotated[int | None, typer.Option(help="number of workers; one per core by default")] = None,
    gigabytes: Annotated[float, typer.Option(help="size of the pool, of which a quarter is written")] = 5.0,
) -> None:
    """Print every rate and its limit."""
    if pool is None and not (folder / "world" / "truth.parquet").exists():
        world.render_world(world.World(), folder / "world")
    found = bench_decode.photos(storage.expand([pool or f"{folder}/world/pool/*.tar"]), max(_TAKES.values()))
    table = Table("what", "rate", "ratio", title=f"{cores()} cores")
    bench_decoding(table, found[:_DECODED])
    executor = open_executor("ray", workers, None)
    try:
        out = Artifact(str(folder / "store"), "vectors", "be9c4000")
        made = folder / f"pictures-{fingerprint([pool, _TARS, _TAKES])}"
        pools = {
            side: enlarged_tars(itertools.cycle(found), made / f"{side}", side, take, _TARS * executor.workers)
            for side, take in _TAKES.items()
        }
        few = {side: urls[: executor.workers] for side, urls in pools.items()}
        small, large = OpenClip(str(pocket.POCKET_CONFIG), "random"), OpenClip("ViT-B-32", "random")
        bf16 = Encoding(device="cpu", batch_size=32, precision="bf16")
        for name, task in (
            ("pocket, exact", Timed(small, Encoding(device="cpu"), out)),
            ("pocket, fast", Timed(small, Encoding(device="cpu", preprocess="fast"), out)),
        ):
            bench_embed(table, name, task, pools, _TAKES, executor)
        for name, task in (
            ("ViT-B-32", Timed(large, Encoding(device="cpu", batch_size=32), out)),
            ("ViT-B-32, bf16", Timed(large, bf16, out)),
        ):
            bench_embed(table, name, task, few, _LARGE, executor)
        bench_shards.measure_writing(table, folder.absolute(), gigabytes, executor)
    finally:
        executor.close()
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
