"""Benchmark: decoding and resizing, compared with open_clip's own transform; how far `fast` moves vectors.

python -m winnow.jobs.lab.bench.decode [--pool GLOB] [--filter FILE --config FILE --truth FILE]. It measures CPU time
of one thread, so other work on the machine changes little; read the ratios.
"""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from winnow.jobs.filter_network import evaluate
from winnow.jobs.filter_network.evaluate import Truth
from winnow.jobs.quickstart import world
from winnow.pipeline import storage
from winnow.pipeline.errors import SampleError
from winnow.stages.encoders import Bank, Encoding, OpenClip
from winnow.stages.encoders.bank import TOGETHER
from winnow.stages.encoders.limits import own_transform
from winnow.stages.encoders.pixels.decoding import Preprocess, decode, decode_all
from winnow.stages.pools.sample import Sample
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.vector_files import cosine

SIDES = (224, 512, 1024)
_ROUNDS = 5
_QUALITY = 90
_PEER = "ViT-B-32"  # 224 px


def photos(urls: Sequence[str], take: int) -> list[Sample]:
    """The first samples of some tars whose images can be decoded, with the images as RGB."""

    def found() -> Iterator[Sample]:
        for sample in (sample for url in urls for sample in Webdataset().samples(url)):
            if isinstance(sample, Sample):
                try:
                    decode(sample.image, [], fast=False)
                except SampleError:
                    continue
                yield replace(sample, image=bytes(sample.image))

    return list(islice(found(), take))


def enlarged_sample(sample: Sample, side: int) -> Sample:
    """The sample with its picture as a square JPEG of this side: resized by Lanczos, quality 90."""
    with Image.open(io.BytesIO(sample.image)) as image:
        picture = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    return replace(sample, image=_file(picture, "JPEG", quality=_QUALITY))


def _file(picture: Image.Image, format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def rates(files: Sequence[bytes], own: Callable[[bytes], object], ours: Preprocess) -> dict[str, float]:
    """Images per second of core time: open_clip's own transform, `exact`, `fast`; medians of rounds in turn.

    `exact` and `fast` get as many files per call as a decoding thread of the embed stage.
    """
    calls = [files[first : first + TOGETHER] for first in range(0, len(files), TOGETHER)]
    ways: dict[str, Callable[[Sequence[bytes]], object]] = {
        "own": lambda call: [own(data) for data in call],
        "exact": lambda call: decode_all(call, [ours], fast=False),
        "fast": lambda call: decode_all(call, [ours], fast=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS + 1):
        for name, way in ways.items():
            started = time.thread_time()
            for call in calls:
                way(call)
            seconds[name].append(time.thread_time() - started)
    return {name: len(files) / median(found[1:]) for name, found in seconds.items()}


def embedded_vectors(bank: Bank, samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Image vectors float16 (n, d), and cosines with the captions float32 (n,)."""
    image, text = zip(*((b.vectors["clip.image"], b.vectors["clip.text"]) for b in bank.encode(samples)), strict=True)
    return np.concatenate(image), cosine(np.concatenate(image), np.concatenate(text))


def through(sample: Sample, ours: Preprocess, fast: bool) -> Sample:
    """The sample with the pixels that a model of 224 px would see, as a lossless file."""
    _, [pixels] = decode(sample.image, [ours], fast)
    return replace(sample, image=_file(Image.fromarray(pixels), "BMP"))


def moved(name: str, encoder: OpenClip, pairs: Sequence[Sequence[Sample]], truth: Truth) -> tuple[str, ...]:
    """A row: cosines between the image vectors of `exact` and `fast`, and the ROC AUC of both against the truth.

    pairs: the samples for `exact` and those for `fast`. A second pair of the same preprocessing goes through `exact`.
    """
    ways: tuple[Literal["exact", "fast"], ...] = ("exact", "fast") if pairs[0] is pairs[1] else ("exact", "exact")
    found = [
        embedded_vectors(Bank.open({"clip": encoder}, Encoding(preprocess=way, device="cpu")), samples)
        for way, samples in zip(ways, pairs, strict=True)
    ]
    exact, fast = (image.astype(np.float64) for image, _ in found)
    cosines = (exact * fast).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    place = {sample.uid.hex(): row for row, sample in enumerate(pairs[0])}
    known = [(place[uid], good) for uid, good in zip(truth.uid.to_pylist(), truth.good, strict=True) if uid in place]
    rows, good = np.array([row for row, _ in known]), np.array([good for _, good in known])
    auc = [f"{evaluate.roc_auc(similarity[rows].astype(np.float64), good):.4f}" for _, similarity in found]
    return name, *(f"{value:.5f}" for value in (np.median(cosines), np.percentile(cosines, 1), cosines.min())), *auc


def main(
    pool: Annotated[str | None, typer.Option(help="captioned tars; without them the rendered world")] = None,
    folder: Annotated[Path, typer.Option(help="folder of the rendered world")] = Path("out/bench"),
    timed: Annotated[int, typer.Option(help="number of images to time")] = 100,
    judged: Annotated[int, typer.Option(help="number of images to embed; 10 kB to 200 kB of memory each")] = 3000,
    filter: Annotated[Path | None, typer.Option(help="weights of a trained CLIP")] = None,
    config: Annotated[Path | None, typer.Option(help="configuration .json of the CLIP")] = None,
    truth: Annotated[str | None, typer.Option(help="parquet: uid, and kind `what`: clean, mismatched")] = None,
) -> None:
    """Print rates per core; with a filter, also how far `fast` moves its vectors and its ROC AUC."""
    if pool is None and not (folder / "world" / "truth.parquet").exists():
        world.render_world(world.World(), folder / "world")
    urls = storage.expand([pool or f"{folder}/world/pool/*.tar"])
    judge = None if filter is None or config is None else OpenClip(str(config), str(filter))
    known = None if truth is None else Truth.read(truth, "what", ["clean"], ["mismatched"])
    samples = photos(urls, timed if judge is None else max(timed, judged))
    own, ours = own_transform(_PEER)
    speed = Table("JPEG of", f"{_PEER}'s own, images/s", "exact", "fast", "exact / own", "fast / own")
    drift = Table("image vectors of", "median cosine", "1st percentile", "smallest", "AUC exact", "AUC fast")
    if judge is not None and known is not None:
        drift.add_row(*moved("the pool as it is", judge, [samples, samples], known))
    for side in SIDES:
        large = [enlarged_sample(sample, side) for sample in samples]
        rate = rates([bytes(sample.image) for sample in large[:timed]], own, ours)
        ratios = (f"{rate[way] / rate['own']:.2f}" for way in ("exact", "fast"))
        speed.add_row(f"{side} px", *(f"{value:,.0f}" for value in rate.values()), *ratios)
        if judge is not None and known is not None:
            drift.add_row(*moved(f"{side} px", judge, [large, large], known))
            pairs = [[through(sample, ours, fast) for sample in large] for fast in (False, True)]
            drift.add_row(*moved(f"{side} px, shrunk to 224 px before", judge, pairs, known))
    Console().print(speed, *([drift] if drift.row_count else []))


if __name__ == "__main__":
    typer.run(main)
