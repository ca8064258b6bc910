"""A tiny run of the real thing: both tables come out, and what moves vectors is seen where it is planted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.pools import members, pair, write_parquet, write_tar
from tests.stages.encoders.conftest import encoded, photo, tiny_clip
from winnow.jobs.filter_network.evaluate import Truth
from winnow.jobs.lab.bench import decode as bench_decode
from winnow.jobs.lab.bench.decode import enlarged_sample, moved, photos, rates, through
from winnow.stages.encoders import OpenClip
from winnow.stages.encoders.limits import own_transform
from winnow.stages.encoders.pixels.decoding import decode
from winnow.stages.pools.sample import Sample

__all__ = ["tiny_clip"]  # a fixture

PHOTOS = 10


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of photos with a broken one among them, and the truth about each: every other is mismatched."""
    folder = tmp_path_factory.mktemp("pool")
    pairs = [(f"{i:03d}", pair(i, f"photo {i}") | {"jpg": encoded(photo(i))}) for i in range(PHOTOS)]
    spoiled = ("000-spoiled", pair(99, "broken") | {"jpg": b"\xff\xd8\xff no picture"})
    write_tar(folder / "pool.tar", members([spoiled, *pairs]))
    kinds = ["clean", "mismatched"] * (PHOTOS // 2)
    uids = [f"{i + 1:032x}" for i in range(PHOTOS)]
    write_parquet(str(folder / "truth.parquet"), pa.table({"uid": uids, "what": kinds}))
    return folder


@pytest.fixture(scope="module")
def samples(pool: Path) -> list[Sample]:
    return photos([str(pool / "pool.tar")], PHOTOS)


def test_a_tiny_bench(pool: Path, tiny_clip: OpenClip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(bench_decode, "_ROUNDS", 1)
    app = bench_decode.typer.Typer()
    app.command()(bench_decode.main)
    model = ["--filter", str(tiny_clip.pretrained), "--config", tiny_clip.model]
    options = ["--pool", str(pool / "*.tar"), "--truth", str(pool / "truth.parquet"), "--timed", "3", *model]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line]
    speed, drift = [row for row in rows if row[0].endswith("px")][:3], rows[3:]
    assert [row[0] for row in speed] == ["224 px", "512 px", "1024 px"]
    for row in speed:
        own, exact, fast, *ratios = (float(cell.replace(",", "")) for cell in row[1:])
        assert own > 0
        assert ratios == pytest.approx([exact / own, fast / own], rel=0.03)  # of rates that are rounded
    shrunk = ", shrunk to 224 px before"
    assert [row[0] for row in drift] == [
        "the pool as it is",
        *(f"{side} px{more}" for side in (224, 512, 1024) for more in ("", shrunk)),
    ]
    for _, *numbers in drift:
        middle, first, least, *auc = (float(number) for number in numbers)
        assert 1 >= middle >= first >= least > 0.9
        assert all(0 <= value <= 1 for value in auc)
    assert any(float(row[3]) < 1 for row in drift)


def test_photos_are_those_that_can_be_decoded(samples: list[Sample]) -> None:
    assert [sample.key for sample in samples] == [f"{i:03d}" for i in range(PHOTOS)]
    large = enlarged_sample(samples[3], 300)
    size, _ = decode(large.image, [], fast=False)
    assert size == (300, 300)
    assert (large.key, large.uid) == (samples[3].key, samples[3].uid)


def test_every_way_decodes_every_file(samples: list[Sample]) -> None:
    seen: list[bytes] = []
    _, ours = own_transform("ViT-B-32")
    files = [bytes(sample.image) for sample in samples]
    found = rates(files, seen.append, ours)
    assert seen == files * (bench_decode._ROUNDS + 1)
    assert list(found) == ["own", "exact", "fast"]
    assert min(found.values()) > 0
    kept = through(samples[0], ours, fast=True)
    _, [expected] = decode(files[0], [ours], fast=True)
    _, [pixels] = decode(kept.image, [ours], fast=False)
    assert np.array_equal(pixels, expected)


def test_vectors_that_moved_are_told(samples: list[Sample], pool: Path, tiny_clip: OpenClip) -> None:
    truth = Truth.read(str(pool / "truth.parquet"), "what", ["clean"], ["mismatched"])
    other = [enlarged_sample(sample, 40) for sample in samples]
    random = np.random.default_rng(0).integers(0, 256, (PHOTOS, 600, 600, 3), np.uint8)
    noise = [replace(one, image=encoded(Image.fromarray(grain))) for one, grain in zip(samples, random, strict=True)]
    name, *same = moved("same", tiny_clip, [samples, list(samples)], truth)
    assert name == "same"
    assert same[:3] == ["1.00000"] * 3
    assert same[3] == same[4]
    _, *fast = moved("noise", tiny_clip, [noise, noise], truth)
    assert float(fast[2]) < 1
    _, *coarse = moved("coarse", tiny_clip, [samples, other], truth)
    assert float(coarse[2]) <= float(coarse[1]) <= float(coarse[0]) < 1
