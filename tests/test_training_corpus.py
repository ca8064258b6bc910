"""Every pool of the corpus as open_clip's own loader reads it: exported, and as `winnow cat` streams it."""

import gc
import hashlib
import io
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from tests.corpus import CORPUS
from tests.test_corpus import jobs
from tests.trainer import loaded
from winnow.jobs import loader
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import JobResult, run_job
from winnow.jobs.verify.verify import verify_job
from winnow.pipeline.executors.local import LocalExecutor
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.pools.sample import Sample as Read

Pair = tuple[str, str]
"""Hash of the picture's pixels, and the caption."""


def pixels(image: Image.Image) -> str:
    """A hash of the pixels of a picture as training sees them, and of its size."""
    rgb = np.asarray(image.convert("RGB"))
    return hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).hexdigest()


def judged(result: JobResult) -> Counter[Pair]:
    """The pairs that the cuts judged and kept, from the pool's own shards."""
    found = Counter[Pair]()
    kept = result.path.manifest
    for index, shard in enumerate(result.job.pool.identities()):
        stays = kept.read(index, ["kept"])["kept"].to_pylist()
        if not any(stays):
            continue
        for sample in result.job.pool.reader.samples(shard.url):  # type: ignore[union-attr]  # pools of images
            if stays[sample.position]:
                assert isinstance(sample, Read)
                with Image.open(io.BytesIO(sample.image)) as image:
                    found[pixels(image), sample.caption] += 1
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """webdataset leaves files to the garbage collector, and PIL warns of pictures that the corpus means to be odd."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


def trained(urls: str, samples: int, *, train: bool) -> Counter[Pair]:
    """The pairs that open_clip's own loader hands to the trainer."""
    return Counter(loaded(urls, samples, pixels, train=train))


def exported(result: JobResult) -> str:
    """What open_clip's trainer is told of the shards."""
    assert result.path.shards is not None
    folder = Path(result.path.shards.folder)
    sizes = json.loads(Path(f"{folder}.meta/sizes.json").read_text())
    assert sum(sizes.values()) == result.counts["kept"]
    return f"{folder}/{{00000..{len(sizes) - 1:05d}}}.tar"


def streamed(result: JobResult, folder: Path) -> str:
    """The same of what `winnow cat` writes for each shard of the pool, kept here as files."""
    kept = loader.open_kept_samples(result.job.store, result.job.name)
    folder.mkdir()
    for index in range(kept.shards):
        with open(folder / f"{index:05d}.tar", "wb") as file:
            kept.selected.write_tar(kept.plan(index), file)
    return f"{folder}/{{00000..{kept.shards - 1:05d}}}.tar"


def looped(result: JobResult) -> Counter[Pair]:
    """The pairs of `jobs.loader.samples`, decoded by webdataset without a handler: one that fails ends it."""
    data = loader.samples(result.job.store, result.job.name).compose(wds.decode("pilrgb"))
    every = [{**dict.fromkeys(("jpg", "png", "jpeg", "webp")), **sample} for sample in data]
    images = [sample["jpg"] or sample["png"] or sample["jpeg"] or sample["webp"] for sample in every]
    return Counter((pixels(image), sample["txt"]) for image, sample in zip(images, every, strict=True))


GROUPS = sorted({repr((case.format, case.options)) for case in CORPUS if case.format in ("webdataset", "parquet")})


@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_open_clip_reads_the_very_pairs_that_were_judged(
    tmp_path: Path, group: int, caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]
) -> None:
    values = [values for values, _ in jobs(tmp_path) if "shards" in values][group]
    result = run_job(parse({**values, "policy": [{"random": {"fraction": 1.0}}]}), LocalExecutor(2), lambda line: None)
    wanted, kept = judged(result), cast(int, result.counts["kept"])
    assert wanted.total() == kept
    with caplog.at_level(logging.WARNING), quiet():
        shards, stream = exported(result), streamed(result, tmp_path / "streamed")
        assert trained(shards, kept, train=True) == wanted
        assert trained(shards, kept, train=False) == wanted
        assert trained(stream, kept, train=True) == wanted
        assert looped(result) == wanted
    assert [record.message for record in caplog.records if "webdataset" in record.message] == []
    lines = verify_job(result.job.store, result.job.name, LocalExecutor(1), RowSample(None))
    assert [str(line) for line in lines if not line.holds] == []
    record_property("pairs", kept)
    print(f"open_clip's loader: {kept} pictures, {len({c for _, c in wanted})} captions as they were judged, 0 differ")


def test_the_corpus_holds_what_misleads_a_trainer() -> None:
    assert len(GROUPS) >= 8
    assert len([case for case in CORPUS if case.name.startswith("training: ")]) >= 60
