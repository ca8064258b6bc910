"""Benchmark: embedding by winnow, clip-retrieval and a plain webdataset loop, as whole processes.

python -m winnow.jobs.lab.bench.peer [--clip-retrieval ITS_PYTHON] [--pool GLOB] [--model CONFIG --checkpoint FILE].
All read the same tars with the same weights on the same cores, one after another, and must give the same
vectors. No GPU is used. Absolute rates depend on the machine; read the ratios.
"""

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs.lab.bench.peer_runs import (
    WEIGHTS,
    PairVectors,
    Ran,
    Workload,
    clip_retrieval,
    plain_loop,
    timed,
    winnow,
)
from winnow.jobs.quickstart import drawing, scenes
from winnow.pipeline import storage
from winnow.pipeline.errors import ShardError
from winnow.stages.pools.sample import Sample
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.results.tar_shard import TarShard

PLAIN = "webdataset"
CLIP_RETRIEVAL = "clip-retrieval"
_LEAST_COSINE = 0.99
_POCKET = Path(__file__).parents[2] / "pocket_filter.json"
_PICTURES = 64  # number of drawn pictures


def least_cosines(ours: PairVectors, theirs: PairVectors) -> tuple[float, float]:
    """Lowest cosine and first percentile over images and captions of the same keys.

    Raises: ShardError if the keys differ or the percentile is below 0.99, because then the two did different work.
    """
    if not np.array_equal(ours.keys, theirs.keys):
        raise ShardError(f"both must embed the same samples, got {len(ours.keys)} and {len(theirs.keys)}")
    pairs = ((ours.image, theirs.image), (ours.text, theirs.text))
    cosines = np.concatenate([(left * right).sum(axis=1, dtype=np.float64) for left, right in pairs])
    least, first = float(cosines.min()), float(np.quantile(cosines, 0.01))
    if first < _LEAST_COSINE:
        raise ShardError(
            f"vectors of the same sample must have a cosine of {_LEAST_COSINE}, but 1 % are below {first:.4f}"
        )
    return least, first


def compare_ways(work: Workload, python: str | None, executor: str, rounds: int, title: str) -> Table:
    """Run all ways in turn, `rounds` times. A peer gets 1 torch thread or one per core, whichever is faster in a trial.

    CPU s: of a process and the children that it waited for. Not shown with Ray, because nobody waits for its workers.
    """
    peers: dict[str, Callable[[int], Ran]] = {PLAIN: partial(plain_loop, work)}
    if python is not None:
        peers = {CLIP_RETRIEVAL: partial(clip_retrieval, work, python), **peers}
    ways: dict[str, Callable[[], Ran]] = {
        f"winnow, {preprocess}": partial(winnow, work, preprocess, executor) for preprocess in ("exact", "fast")
    }
    ours = list(ways)
    for name, peer in peers.items():
        tried = {threads: peer(threads).embedding for threads in sorted({1, work.cores})}
        best = min(tried, key=lambda threads: tried[threads])
        ways[f"{name}, threads: {best}"] = partial(peer, best)
    runs: dict[str, list[Ran]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            runs[name].append(way())
    theirs = [name for name in ways if name not in ours]
    heads = [f"x {name.partition(',')[0]}: embedding, whole" for name in theirs]
    table = Table("samples/s", "embedding", "stage", "whole", "CPU s", *heads, "least cosine, 1 %", title=title)
    for name, ran in runs.items():
        ratios = [_ratios(ran, runs[their]) if name in ours else "" for their in theirs]
        cosines = least_cosines(ran[0].vectors, runs[theirs[0]][0].vectors)
        told = name not in ours or executor == "local"
        table.add_row(name, *_rates(ran, told), *ratios, "{:.4f}, {:.4f}".format(*cosines))
    return table


def _rates(ran: list[Ran], told: bool) -> list[str]:
    """Cells: samples per second of the embedding, of the stage and of the whole process; CPU seconds if `told`."""
    samples = len(ran[0].vectors.keys)
    stages = [one.stage for one in ran if one.stage is not None]
    seconds = [[one.embedding for one in ran], stages, [one.whole for one in ran]]
    cells = [f"{samples / median(some):,.0f}" if some else "" for some in seconds]
    return [*cells, f"{median(one.cpu for one in ran):.1f}" if told else ""]


def _ratios(ours: list[Ran], theirs: list[Ran]) -> str:
    """Ratios of the rates, round by round: median (least to most) of the embedding, median of the whole process."""
    pairs = list(zip(ours, theirs, strict=True))
    embedding = [their.embedding / our.embedding for our, their in pairs]
    whole = median(their.whole / our.whole for our, their in pairs)
    return f"{median(embedding):.2f} ({min(embedding):.2f} to {max(embedding):.2f}), {whole:.2f}"


def make_shards(samples: Iterator[tuple[bytes, str]], wanted: int, shards: int, folder: Path) -> tuple[Path, ...]:
    """Write `wanted` pairs of a JPEG and its caption to tars of one size, numbered without gaps."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pairs = list(islice(samples, wanted // shards * shards))
    if len(pairs) < shards:
        raise ShardError(f"{shards} shards need a JPEG with a caption each, got {len(pairs)}")
    paths = tuple(folder / f"{number:05d}.tar" for number in range(shards))
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            tar = TarShard(file)
            for row, (image, caption) in enumerate(pairs[number::shards]):
                tar.add_members(f"{number:05d}{row:06d}", [("jpg", image), ("txt", caption.encode())])
            tar.finish()
    return paths


def _photos(pool: str) -> Iterator[tuple[bytes, str]]:
    found = (sample for url in storage.expand([pool]) for sample in Webdataset().samples(url))
    readable = (sample for sample in found if isinstance(sample, Sample))
    return ((bytes(s.image), s.caption) for s in readable if bytes(s.image[:2]) == b"\xff\xd8")


def _drawn(side: int) -> Iterator[tuple[bytes, str]]:
    """Scenes of side x side pixels, roughened until their JPEG files are as large as photos; pictures repeat."""
    rng = Random(0)
    drawn = []
    for _ in range(_PICTURES):
        scene, buffer = scenes.imagine(rng.choice(scenes.SUBJECTS), rng), io.BytesIO()
        drawing.draw(scene, rng).resize((side, side)).effect_spread(8).save(buffer, "JPEG", quality=90)
        drawn.append((scene, buffer.getvalue()))
    for number in count():  # numbered, because a picture and a caption that repeat have the same uid
        scene, image = drawn[number % _PICTURES]
        yield image, f"{scenes.describe(scene, rng)}, picture {number}"


def main(
    folder: Annotated[Path, typer.Option(help="scratch space, 1 GB")] = Path("out/bench-peer"),
    clip_retrieval: Annotated[
        str | None, typer.Option(metavar="PYTHON", help="Python that has clip-retrieval; else this peer is left out")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="tars with JPEGs to embed, instead of drawn pictures")] = None,
    model: Annotated[
        str | None, typer.Option(help="model of open_clip, or its .json; without it the pocket filter, then ViT-B-32")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="checkpoint of --model; random weights by default")] = None,
    samples: Annotated[int, typer.Option(min=1, help="samples to embed; a sixteenth of them for ViT-B-32")] = 2048,
    side: Annotated[int, typer.Option(min=1, help="side of a drawn picture, in pixels")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="batch size of the peers")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="rounds, of which medians are printed")] = 3,
    executor: Annotated[str, typer.Option(help="executor: ray or local")] = "ray",
) -> None:
    """Print samples per second of every way, and winnow's ratio to each peer; one table per model."""
    folder = folder.absolute()
    cores = len(os.sched_getaffinity(0))
    both = {str(_POCKET): samples, "ViT-B-32": samples // 16}  # ViT-B-32 computes that much more per sample
    for name, wanted in (both if model is None else {model: samples}).items():
        pairs = _drawn(side) if pool is None else _photos(pool)
        shards = make_shards(pairs, wanted, 2 * cores, folder / "shards")
        own = str(Path(name).absolute()) if name.endswith(".json") else name
        weights = checkpoint or folder / "random.pt"
        if checkpoint is None:
            timed([sys.executable, "-c", WEIGHTS, own, str(weights)], {}, folder / "weights.log")
        work = Workload(folder, shards, own, weights.absolute(), cores, batch_size)
        title = f"{Path(name).stem}, {wanted // len(shards) * len(shards)} samples, {cores} cores, {executor}"
        Console().print(compare_ways(work, clip_retrieval, executor, rounds, title))


if __name__ == "__main__":
    typer.run(main)
