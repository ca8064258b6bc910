"""The vectors of a target set: one answer for every layout, what is lost is counted, what cannot be is said."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pools import (
    Filtered,
    Samples,
    embedded,
    filtered,
    hex_uids,
    jpeg,
    members,
    normed,
    pair,
    tiny_clip,
    write_parquet,
    write_tar,
)
from winnow.pipeline.columns import matrix
from winnow.pipeline.errors import DataError, FailedShards, JobError, PoolError
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.stage import StepResult, artifact_of, execute
from winnow.stages.cuts.targets.target import read_target, target_of, target_shape
from winnow.stages.encoders import Encoding, Timm
from winnow.stages.kernels.products import in_byte_order
from winnow.stages.vectors import Vectors

SEEDS = range(9)
RAW = np.random.default_rng(3).standard_normal((40, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Filtered:
    """A pool of nine pictures, embedded one by one, so that no vector depends on its batch."""
    folder = tmp_path_factory.mktemp("images")
    url = write_tar(folder / "pool.tar", members([(f"{n}", pair(n, f"thing {n}")) for n in SEEDS]))
    encoders = {"clip": tiny_clip(folder), "dino": Timm("test_vit", "random")}
    return embedded([url], str(folder / "store"), encoders, encoding=Encoding(batch_size=1))


@pytest.fixture(scope="module")
def vectors() -> Filtered:
    """A pool that brings its vectors."""
    return filtered(Samples.drawn(4))


def landed(pool: Filtered, target: str | list[str], key: str | None = None, by: str = "clip") -> StepResult:
    return execute(target_of(pool.survivors, by, target, key), pool.run)


def as_folder(folder: Path) -> str:
    for n in SEEDS:
        path = folder / ("below" if n % 2 else ".") / f"{n}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(n))
    (folder / "README.txt").write_text("photos")
    return str(folder)


def as_tar(folder: Path) -> str:
    return write_tar(folder / "t.tar", [entry for n in SEEDS for entry in ((f"{n}.jpg", jpeg(n)), (f"{n}.cls", b"1"))])


def as_parquet(folder: Path) -> str:
    return write_parquet(f"{folder}/t.parquet", pa.table({"image": [jpeg(n) for n in SEEDS], "label": SEEDS}))


def as_hugging_face(folder: Path) -> str:
    rows = [{"image": {"bytes": jpeg(n), "path": f"{n}.jpg"}} for n in reversed(SEEDS)]
    return write_parquet(f"{folder}/t.parquet", pa.Table.from_pylist(rows))


def as_pattern(folder: Path) -> str:
    as_folder(folder)
    return f"{folder}/**/*.jpeg"


@pytest.mark.parametrize("layout", [as_folder, as_tar, as_parquet, as_hugging_face, as_pattern])
@pytest.mark.parametrize("by", ["clip", "dino"])
def test_images_get_the_vectors_that_they_have_in_the_pool(
    images: Filtered, tmp_path: Path, layout: Callable[[Path], str], by: str
) -> None:
    step = landed(images, layout(tmp_path / "target"), by=by)
    expected = matrix(images.survivors.encoder(by).read(0)["image"])
    found = read_target(step.artifact)
    assert found.tobytes() == in_byte_order(expected).tobytes()
    assert target_shape(step.artifact) == expected.shape
    told = {name: step.report[name] for name in ("vectors", "width", "rejected", "rejects")}
    assert told == {"vectors": 9, "width": expected.shape[1], "rejected": 0, "rejects": {}}


def as_npy(folder: Path, raw: np.ndarray) -> str:
    np.save(folder / "t.npy", raw)
    return f"{folder}/t.npy"


def as_npz(folder: Path, raw: np.ndarray) -> str:
    np.savez(folder / "t.npz", only=raw)
    return f"{folder}/t.npz"


def as_lists(folder: Path, raw: np.ndarray) -> str:
    return write_parquet(f"{folder}/t.parquet", pa.table({"image": [*raw]}))


def as_two_files(folder: Path, raw: np.ndarray) -> str:
    np.save(folder / "0.npy", raw[25:])
    np.save(folder / "1.npy", raw[:25])
    return f"{folder}/{{0..1}}.npy"


@pytest.mark.parametrize("layout", [as_npy, as_npz, as_lists, as_two_files])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors_are_normalised_and_have_one_order(
    vectors: Filtered, tmp_path: Path, layout: Callable[[Path, np.ndarray], str], dtype: type
) -> None:
    first = landed(vectors, as_npy(tmp_path, RAW))
    found = read_target(first.artifact)
    assert found.dtype == np.float16
    assert np.linalg.norm(found.astype(float), axis=1) == pytest.approx(1, abs=1e-3)
    assert found.tolist() == in_byte_order(normed(RAW)).tolist()
    (tmp_path / "other").mkdir()
    order = np.random.default_rng(1).permutation(len(RAW))
    other = landed(vectors, layout(tmp_path / "other", RAW[order].astype(dtype)))
    assert other.artifact != first.artifact
    assert read_target(other.artifact).tobytes() == found.tobytes()
    assert other.report["vectors"] == 40


def test_float16_of_unit_norm_is_taken_bit_by_bit(vectors: Filtered, tmp_path: Path) -> None:
    unit = normed(RAW)
    found = read_target(landed(vectors, as_npz(tmp_path, unit)).artifact)
    assert sorted(row.tobytes() for row in found) == sorted(row.tobytes() for row in unit)


def test_a_column_or_an_array_by_name(vectors: Filtered, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", l14=RAW, b32=RAW[:3])
    url = write_parquet(f"{tmp_path}/t.parquet", pa.table({"uid": hex_uids(40), "l14": [*RAW]}))
    one, two = (read_target(landed(vectors, target, "l14").artifact) for target in (f"{tmp_path}/t.npz", url))
    assert one.shape == (40, 16)
    assert one.tobytes() == two.tobytes()


def test_what_cannot_be_read_is_counted_and_listed(images: Filtered, tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "photos")
    (tmp_path / "photos/3b.jpg").write_bytes(jpeg(3)[:200])
    (tmp_path / "photos/4b.png").write_bytes(b"<html>")
    tar = Path(write_tar(tmp_path / "t.tar", [("a.jpg", jpeg(20)), ("b.jpg", jpeg(21, side=400))]))
    tar.write_bytes(tar.read_bytes()[:4000])
    step = landed(images, [folder, str(tar)])
    assert (step.report["vectors"], step.report["rejected"]) == (10, 3)
    assert step.report["rejects"] == {"image-decode": 2, "tar-truncated": 1}
    rows = pq.read_table(step.artifact.meta("rejects.parquet")).to_pylist()
    assert {row["key"]: row["kind"] for row in rows} == {
        f"{folder}/3b.jpg": "image-decode",
        f"{folder}/4b.png": "image-decode",
        str(tar): "tar-truncated",
    }
    assert all(row["message"] for row in rows)


def test_a_target_without_a_readable_image_is_an_error(images: Filtered, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"nothing could be read from .* \(image-decode: 1, image-empty: 1\); see .*rejec"
    ):
        landed(images, str(tmp_path))


def test_what_decides_the_vectors_decides_the_name(images: Filtered, tmp_path: Path) -> None:
    survivors, folder = images.survivors, as_folder(tmp_path / "photos")
    embedder, other = (stage for _, stage in survivors.embedders)

    def name(of: Vectors, by: str = "clip", target: str = folder) -> str:
        return artifact_of(target_of(replace(survivors, embedders=((by, of),)), by, target, None), "s").name

    base = name(embedder)
    assert name(replace(embedder, needs=Needs(gpus=1), samples=embedder.samples)) == base
    assert name(other, "dino") != base
    assert name(embedder, "other") == base
    assert name(replace(embedder, batch_size=2)) != base
    assert name(replace(embedder, preprocess="fast")) != base
    assert name(replace(embedder, precision="bf16")) != base
    assert name(replace(embedder, device="cuda")) != base
    vectors = as_npy(tmp_path, RAW)
    assert name(embedder, target=vectors) == name(replace(embedder, batch_size=2), "dino", vectors)
    (tmp_path / "photos/README.txt").write_text("another text")
    assert name(embedder) == base
    (tmp_path / "photos/below/1.jpeg").write_bytes(jpeg(77))
    assert name(embedder) != base


def test_a_folder_that_changes_before_it_is_read_is_refused(images: Filtered, tmp_path: Path) -> None:
    stage = target_of(images.survivors, "clip", as_folder(tmp_path), None)
    (tmp_path / "new.jpg").write_bytes(jpeg(50))
    with pytest.raises(FailedShards, match=r"must stay as listed, but .* has changed; run again"):
        execute(stage, images.run)


def test_a_listing_of_ten_thousand_images_is_one_line_of_the_record(images: Filtered, tmp_path: Path) -> None:
    step = landed(images, as_folder(tmp_path))
    record = json.loads(Path(step.artifact.meta("_done.json")).read_text())
    assert [file["url"] for file in record["config"]["files"]] == [str(tmp_path)]


def broken(row: int, value: float) -> np.ndarray:
    raw = RAW.copy()
    raw[row] = value
    return raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            broken(7, np.nan),
            "vector of a target must be finite and not zero, but 1 of 40 are not, first in row 7",
        ),
        (broken(3, 0.0), "but 1 of 40 are not, first in row 3; take them out"),
        (broken(3, np.inf), "but 1 of 40 are not, first in row 3"),
        (RAW[0], r"of shape \(rows, width\) in C order, but float32 of shape \(16,\)"),
        (RAW.astype(np.int32), "must be float16, float32 or float64"),
    ],
)
def test_vectors_that_are_none_are_refused(vectors: Filtered, tmp_path: Path, raw: np.ndarray, message: str) -> None:
    with pytest.raises(FailedShards, match=message):
        landed(vectors, as_npy(tmp_path, raw))


def test_vectors_of_two_widths_are_refused(vectors: Filtered, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RAW)
    np.save(tmp_path / "b.npy", RAW[:, :8])
    with pytest.raises(FailedShards, match=r"must have one width, got \[8, 16\]; give files of one encoder"):
        landed(vectors, f"{tmp_path}/*.npy")


def test_no_vectors_are_refused(vectors: Filtered, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must have at least one vector, but nothing .* from .*t\.npy \(it is empty\)"):
        landed(vectors, as_npy(tmp_path, RAW[:0]))


def test_images_for_a_pool_of_vectors_are_refused(vectors: Filtered, tmp_path: Path) -> None:
    for target in (as_folder(tmp_path / "photos"), as_tar(tmp_path), as_parquet(tmp_path)):
        with pytest.raises(JobError, match=r"came precomputed, got .*; give the target as a \.npy"):
            landed(vectors, target)


def test_targets_that_cannot_be_are_refused(images: Filtered, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("# none\n")
    npy, tar = as_npy(tmp_path, RAW), as_tar(tmp_path)
    np.savez(tmp_path / "two.npz", a=RAW, b=RAW)
    table = write_parquet(f"{tmp_path}/t.parquet", pa.table({"uid": ["x"], "image": [3]}))
    cases: list[tuple[str | list[str], str | None, type[Exception], str]] = [
        (f"{tmp_path}/empty", None, JobError, r"a target must be a folder of images \(jpg, .* or holds no image"),
        (f"{tmp_path}/absent", None, JobError, "absent is none of these or holds no image"),
        (f"{tmp_path}/absent.npy", None, PoolError, r"but 1 of 1 are not: .*absent\.npy"),
        (f"{tmp_path}/*.jpg", None, PoolError, "nothing matches"),
        (f"{tmp_path}/list.txt", None, JobError, r"list\.txt' names nothing; give files of one kind"),
        ([npy, tar], None, JobError, "a set of images or of vectors, got both"),
        (npy, "l14", JobError, r"target_key must come with an npz or parquet file, but .*t\.npy is neither"),
        (table, "l14", JobError, "target_key must name a column of .*, but l14 is not one of uid, image"),
        (table, None, JobError, r"column image must hold images .* or lists of floats, but is int64; name another by"),
        (
            f"{tmp_path}/two.npz",
            None,
            JobError,
            r"two\.npz must hold one array, but holds a, b; name the vectors by target_key",
        ),
        (f"{tmp_path}/two.npz", "c", FailedShards, "the archive must hold c, but holds a, b"),
    ]
    for target, key, error, message in cases:
        with pytest.raises(error, match=message):
            landed(images, target, key)


def test_byte_order_is_that_of_the_rows_alone() -> None:
    rows = normed(np.random.default_rng(0).standard_normal((50, 3)))
    rows[10:20] = rows[:10]
    rows[:, 2] = 0
    found = in_byte_order(rows)
    assert [row.tobytes() for row in found] == sorted(row.tobytes() for row in rows)
    assert in_byte_order(rows[:0]).shape == (0, 3)
