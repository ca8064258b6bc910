"""Rows of images in parquet: each once, in order, and back into tar members that read as the same sample."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from winnow.pipeline.errors import DataError, JobError, PoolError, ShardError
from winnow.pipeline.uid import content_hash
from winnow.stages.pools.parquet import Parquet
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.webdataset import Webdataset

JPG, PNG, WEBP = b"\xff\xd8\xffJ", b"\x89PNG\r\n\x1a\nP", b"RIFF1234WEBPW"


def write(folder: Path, columns: dict[str, Any], **options: Any) -> str:
    path = folder / "0.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_rows_become_samples_in_order(tmp_path: Path, kind: pa.DataType) -> None:
    images = [bytes([n % 256]) * 50 for n in range(1000)]
    captions = [f"c {n}" for n in range(1000)]
    columns = {"image": pa.array(images, kind), "text": captions, "uid": [f"{n:032X}" for n in range(1000)]}
    found = list(Parquet().samples(write(tmp_path, columns, row_group_size=300)))
    assert [item.position for item in found] == list(range(1000))
    for n, sample in enumerate(found):
        assert isinstance(sample, Sample)
        assert (sample.image, sample.caption) == (images[n], captions[n])
        assert sample.uid == n.to_bytes(16, "big")
        assert (sample.key, sample.offset, sample.size) == (f"{n:032x}", -1, 0)
        assert sample.image_hash == content_hash(images[n])


def test_hugging_face_images_and_every_fault(tmp_path: Path) -> None:
    images = [{"bytes": JPG, "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None, *[{"bytes": PNG}] * 2]
    broken = pa.Array.from_buffers(
        pa.string(), 5, [None, pa.py_buffer(np.arange(6, dtype=np.int32)), pa.py_buffer(b"abc\xffe")]
    )
    columns = {"image": images, "caption": broken, "key": [5, 6, 7, 8, 9]}
    found = list(Parquet().samples(write(tmp_path, columns)))
    assert [item.key for item in found] == ["5", "6", "7", "8", "9"]
    assert [getattr(item, "kind", "") for item in found] == [
        "",
        "no-image",
        "no-image",
        "caption-not-utf8",
        "",
    ]
    assert isinstance(found[4], Sample)
    assert found[4].uid == content_hash(PNG, b"e")
    missing = list(Parquet().samples(write(tmp_path, {"image": [JPG], "caption": pa.nulls(1, pa.string())})))
    assert missing == [Reject(0, "", "no-caption", "a row must have a caption, but it is null")]


def test_uids_by_column(tmp_path: Path) -> None:
    raw = bytes(range(16))
    columns = {"image": [JPG] * 3, "caption": ["a"] * 3, "id": pa.array([raw, b"short", None], pa.binary())}
    first, second, last = Parquet(uid="id").samples(write(tmp_path, columns))
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert (first.uid, first.named) == (raw, "column id")
    assert (second.uid, second.named) == (content_hash(b"short"), "column id")
    assert getattr(last, "kind", "") == "no-uid"
    columns = {"image": [JPG] * 2, "caption": ["a"] * 2, "uid": ["f" * 32, "7"]}
    path = write(tmp_path, columns)
    assert [item.uid for item in Parquet().samples(path)] == [b"\xff" * 16, content_hash(JPG, b"a")]  # type: ignore[union-attr]  # no rejects here
    assert {item.uid for item in Parquet(uid="content").samples(path)} == {content_hash(JPG, b"a")}  # type: ignore[union-attr]  # no rejects here


def test_members_read_back_as_the_same_samples(tmp_path: Path) -> None:
    columns = {
        "image": [JPG, PNG, WEBP, b"GIF89a", b"BM..", b"II*\0", b"?"] * 100,
        "caption": [f"caption {n} ü" for n in range(700)],
        "key": [f"k{n}" if n % 2 else f"http://x/{n}.jpg" for n in range(700)],
        "score": [float("nan") if n == 3 else n / 2 for n in range(700)],
        "nested": [[1, 2]] * 700,
        "raw": [b"raw"] * 700,
    }
    path = write(tmp_path, columns, row_group_size=90)
    positions = np.array([0, 1, 2, 3, 3, 4, 5, 6, 350, 699])
    written = list(Parquet().members(path, positions))
    samples = list(Parquet().samples(path))
    assert {members[0][0] for _, members in written} == {"jpg"}
    for (key, members), position in zip(written, positions.tolist(), strict=True):
        sample = samples[position]
        assert isinstance(sample, Sample)
        assert key == (sample.key if position % 2 else sample.uid.hex())
        assert [suffix for suffix, _ in members[1:]] == ["txt", "json"]
        score = None if position == 3 else position / 2
        wanted = {"key": columns["key"][position], "score": score, "uid": sample.uid.hex()}
        assert json.loads(members[2][1]) == wanted
        tar = tmp_path / "one.tar"
        with tarfile.open(tar, "w") as writer:
            for suffix, content in members:
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                writer.addfile(info, io.BytesIO(content))
        [again] = Webdataset(image=("jpg", "png", "webp", "gif", "bmp", "tif", "bin")).samples(str(tar))
        assert isinstance(again, Sample)
        assert (again.uid, again.image, again.caption) == (sample.uid, sample.image, sample.caption)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([1, 0], "must ascend"),
        ([-1], "must ascend"),
        ([2], "must be below 2, its number of rows, got 2"),
        ([1], "row 1 must be"),
    ],
)
def test_members_refuse_positions_that_are_no_readable_rows(tmp_path: Path, positions: list[int], message: str) -> None:
    path = write(tmp_path, {"image": [JPG, None], "caption": ["a", "b"]})
    with pytest.raises(DataError, match=message):
        list(Parquet().members(path, np.array(positions)))


def test_missing_and_mistyped_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"img": [JPG], "words": [["a"]]})
    with pytest.raises(PoolError, match=r"pool\.image must name a column, but there is no image; there are img, words"):
        list(Parquet().samples(path))
    with pytest.raises(PoolError, match="there is no caption or text or TEXT"):
        list(Parquet(image="img").samples(path))
    with pytest.raises(PoolError, match="must name a text column, but words is list"):
        list(Parquet(image="img", caption="words").samples(path))
    with pytest.raises(PoolError, match="must name encoded images"):
        list(Parquet(image="caption").samples(write(tmp_path, {"caption": ["a"]})))
    with pytest.raises(JobError, match="empty name"):
        Parquet(caption="")


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path, {"image": [JPG], "caption": ["a"]}))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ShardError, match=r"0\.parquet: the file must be whole and readable"):
        list(Parquet().samples(str(path)))
