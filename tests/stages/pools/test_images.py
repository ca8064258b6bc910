"""Images of a target set: what counts as one, in files, tars and parquet, and what stands for those that are lost."""

import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from tests.pools import jpeg, write_parquet, write_tar
from winnow.pipeline import storage
from winnow.pipeline.errors import ShardError
from winnow.pipeline.uid import content_hash
from winnow.stages.pools.images import (
    file_images,
    holds_images,
    holds_vectors,
    image_files,
    is_image,
    parquet_images,
    tar_images,
)
from winnow.stages.pools.sample import Reject, Sample


@pytest.mark.parametrize("name", ["a.jpg", "a.b.JPEG", "x/y.Png", "ü.webp", "n01440764_10026.JPEG"])
def test_names_of_images(name: str) -> None:
    assert is_image(name)


@pytest.mark.parametrize("name", ["jpg", ".jpg", "a.txt", "a.jpg.json", "a", "", "photos"])
def test_names_of_other_things(name: str) -> None:
    assert not is_image(name)


def test_a_folder_is_its_images_and_those_below() -> None:
    root = f"memory://{uuid.uuid4().hex}"
    for name in ("b.jpg", "a/2.PNG", "a/deep/1.webp", "notes.txt", ".hidden.jpg", ".cache/3.jpg", "c/4.txt"):
        storage.write_bytes(f"{root}/{name}", name.encode())
    found = image_files(root)
    assert [file.url for file in found] == [f"{root}/{name}" for name in ("a/2.PNG", "a/deep/1.webp", "b.jpg")]
    samples = list(file_images(file.url for file in found))
    assert [sample.image for sample in samples] == [b"a/2.PNG", b"a/deep/1.webp", b"b.jpg"]
    assert samples[1].image_hash == content_hash(b"a/deep/1.webp")
    assert image_files(f"{root}/absent") == []


def test_a_tar_gives_its_images_whatever_lies_beside_them(tmp_path: Path) -> None:
    """Labels in place of captions, a mask beside an image, and an image alone."""
    entries = [("n1/a.JPEG", jpeg(0)), ("n1/a.cls", b"3"), ("b.png", b"png"), ("b.mask.png", b"mask"), ("c.txt", b"c")]
    url = write_tar(tmp_path / "t.tar", entries)
    found = list(tar_images(url))
    assert [sample.key for sample in found] == [f"{url}/n1/a.JPEG", f"{url}/b.png"]
    assert [sample.image for sample in found if isinstance(sample, Sample)] == [jpeg(0), b"png"]


def test_a_damaged_tar_gives_what_came_before(tmp_path: Path) -> None:
    url = write_tar(tmp_path / "t.tar", [("a.jpg", jpeg(0)), ("b.jpg", jpeg(1) * 9)])
    Path(url).write_bytes(Path(url).read_bytes()[: 512 + 1024 + 512 + 100])
    first, second = tar_images(url)
    assert isinstance(first, Sample)
    assert isinstance(second, Reject)
    assert second.kind == "tar-truncated"
    Path(url).write_bytes(b"<html>")
    with pytest.raises(ShardError, match="must be an uncompressed tar"):
        list(tar_images(url))


@pytest.mark.parametrize("layout", ["bytes", "large", "hugging face"])
def test_a_column_of_images(tmp_path: Path, layout: str) -> None:
    images: list[bytes | None] = [b"one", None, b"three"] * 30
    if layout == "hugging face":
        column = pa.array([{"bytes": image, "path": None} for image in images])
    else:
        column = pa.array(images, pa.large_binary() if layout == "large" else pa.binary())
    url = write_parquet(str(tmp_path / "t.parquet"), pa.table({"label": range(90), "photo": column}))
    found = list(parquet_images(url, "photo"))
    assert [sample.image if isinstance(sample, Sample) else None for sample in found] == images
    assert [reject.kind for reject in found if isinstance(reject, Reject)] == ["no-image"] * 30
    assert found[1].key == f"{url}: row 1"
    assert holds_images(column.type)


def test_types_of_columns() -> None:
    assert holds_vectors(pa.list_(pa.float16()))
    assert holds_vectors(pa.list_(pa.float64(), 3))
    others = [pa.list_(pa.int8()), pa.float32(), pa.string(), pa.struct([("path", pa.string())])]
    assert not any(holds_vectors(kind) or holds_images(kind) for kind in others)


def test_a_broken_parquet_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + bytes(99))
    with pytest.raises(ShardError, match="the file must be whole and readable"):
        list(parquet_images(str(tmp_path / "t.parquet"), "image"))
