"""What the first samples of a pool are, and which pools end a run before it starts: planted pools, right options."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.pools import (
    READER,
    Samples,
    jpeg,
    members,
    pair,
    write_clip_retrieval,
    write_datacomp,
    write_parquet,
    write_tar,
    write_vectors,
)
from winnow.pipeline.errors import PoolError, RejectsError, ShardError
from winnow.pipeline.stage import Limits, nearly_whole, spread
from winnow.stages.pools.clip_retrieval import ClipRetrieval
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.parquet import Parquet
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import BY_CONTENT
from winnow.stages.pools.vectors import Vectors
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.preview.head import TAR_BYTES
from winnow.stages.preview.look import check_readable, first_samples, none_readable


def checked(reader: Reader, *urls: str, limits: Limits | None = None) -> None:
    check_readable(reader, urls, limits or Limits(), first_samples(reader, urls[0]))


def tar(folder: Path, number: int, parts: dict[str, bytes], count: int = 5) -> str:
    samples = [(f"{number}{n:03d}", parts) for n in range(count)]
    return write_tar(folder / f"{number:05d}.tar", members(samples))


def test_a_sample_of_a_tar(tmp_path: Path) -> None:
    url = write_tar(tmp_path / "a.tar", members([(f"{n:03d}", pair(n, f"a picture of {n}")) for n in range(3)]))
    seen = first_samples(Webdataset(), url)
    assert (seen.samples, seen.rejected, seen.whole) == (3, 0, True)
    assert seen.first == {
        "key": "000",
        "caption": "a picture of 0",
        "width": 40,
        "height": 40,
        "uid": f"{1:032x}",
        "uid_from": "json:uid",
    }
    assert first_samples(Webdataset(uid="content"), url).first["uid_from"] == BY_CONTENT


@pytest.mark.parametrize(
    ("reader", "write"),
    [
        (READER, lambda folder, samples: write_vectors(str(folder), samples)),
        (Datacomp(use=("l14",)), write_datacomp),
        (ClipRetrieval(), write_clip_retrieval),
    ],
    ids=["vectors", "datacomp", "clip-retrieval"],
)
def test_a_sample_of_vectors(tmp_path: Path, reader: Reader, write) -> None:  # type: ignore[no-untyped-def]
    samples = Samples.drawn(100)
    [url] = write(tmp_path / "pool", samples)
    seen = first_samples(reader, url)
    assert (seen.samples, seen.rejected, seen.whole) == (64, 0, False)
    encoder = reader.encoders()[0]  # type: ignore[union-attr]  # all bring vectors
    assert seen.first["vectors"] == {f"{encoder}.image": [16, "float16"], f"{encoder}.text": [16, "float16"]}
    assert (seen.first["uid"], seen.first["uid_from"]) == (samples.uid[0], "column uid")
    assert seen.first["caption_from"] == ("text" if isinstance(reader, Datacomp) else "caption")


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (Parquet(), "pool.image must name a column, but there is no image; there are jpg, caption"),
        (Parquet(image="jpg", caption="text"), "pool.caption must name a column, but there is no text"),
        (Parquet(image="caption"), "pool.image must name encoded images"),
        (Vectors(image="jpg"), "jpg must hold lists of floats"),
    ],
)
def test_a_misnamed_column_names_the_shard_and_those_there_are(tmp_path: Path, reader: Reader, message: str) -> None:
    url = write_parquet(str(tmp_path / "a.parquet"), pa.table({"jpg": [jpeg(0)], "caption": ["a b"]}))
    with pytest.raises(PoolError, match=message) as error:
        first_samples(reader, url)
    assert str(error.value).startswith(url)


def test_images_of_no_format_are_rejects_of_the_look(tmp_path: Path) -> None:
    url = tar(tmp_path, 0, {"jpg": b"\0\0\0 ftypavif" + bytes(99), "txt": b"a b c"})
    assert first_samples(Webdataset(), url).rejects == {"image-decode": 5}


@pytest.mark.parametrize(
    ("parts", "option"),
    [
        ({"jpg": jpeg(0), "json": b'{"id": "7f", "title": "a red car"}'}, "pool.caption: json:title 5 of the first 5"),
        ({"jpg": jpeg(0), "text": b"a red car", "cls": b"3"}, "pool.caption: text 5 of the first 5"),
        ({"img": jpeg(0), "txt": b"a red car"}, r"pool.image: \[img\] 5 of the first 5"),
        ({"photo.jpg": jpeg(0), "cap": b"a red car"}, r"pool.image: \[photo.jpg\], pool.caption: cap 5 of"),
        ({"jpg": jpeg(0), "json": b'{"caption": "a red car", "text": "b"}'}, "pool.caption: json:caption 5 of"),
    ],
)
def test_the_option_that_is_meant_is_named(tmp_path: Path, parts: dict[str, bytes], option: str) -> None:
    with pytest.raises(RejectsError, match=f"With {option}") as error:
        checked(Webdataset(), tar(tmp_path, 0, parts))
    assert "a red car" in str(error.value)
    assert "but has " + ", ".join(sorted(parts)) in str(error.value)


def test_where_no_option_reads_them_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(RejectsError, match="but has cls, jpg") as error:
        checked(Webdataset(), tar(tmp_path, 0, {"jpg": jpeg(0), "cls": b"3"}))
    assert "With" not in str(error.value)


def test_a_uid_that_is_none_and_a_caption_column_of_nulls(tmp_path: Path) -> None:
    rows = {
        "uid": pa.nulls(9, pa.string()),
        "image": [jpeg(0)] * 9,
        "caption": pa.nulls(9, pa.string()),
        "alt": ["a red car"] * 9,
    }
    url = write_parquet(str(tmp_path / "a.parquet"), pa.table(rows))
    with pytest.raises(RejectsError, match=r"With pool\.caption: alt 9 of the first 9"):
        checked(Parquet(), url)
    with pytest.raises(RejectsError, match=r"With pool\.uid: auto 9 of the first 9"):
        checked(Parquet(caption="alt", uid="uid"), url)


def test_one_bad_shard_does_not_end_a_run(tmp_path: Path) -> None:
    bad = [tar(tmp_path, n, {"jpg": jpeg(0)}) for n in range(4)]
    good = tar(tmp_path, 9, {"jpg": jpeg(0), "txt": b"a b"})
    checked(Webdataset(), *bad[:3], good)
    checked(Webdataset(), *bad, good)
    with pytest.raises(RejectsError, match="20 of the 20 samples of 4 of its 4 shards"):
        checked(Webdataset(), *bad)
    for limits in (Limits(stop_early=False), Limits(max_reject_fraction=1.0)):
        checked(Webdataset(), *bad, limits=limits)


def test_an_empty_shard_says_nothing(tmp_path: Path) -> None:
    empty = write_tar(tmp_path / "8.tar", [])
    bad = tar(tmp_path, 0, {"jpg": jpeg(0)})
    checked(Webdataset(), empty, bad)
    with pytest.raises(RejectsError, match="5 of the 5 samples of 1 of its 2 shards"):
        checked(Webdataset(), bad, empty)


def test_members_that_lie_apart_end_no_run(tmp_path: Path) -> None:
    """The captions come after 10 MB of pictures: the head of the tar has none of them, all of it does."""
    picture = jpeg(0) + np.random.default_rng(0).bytes(100_000)
    entries = [(f"{n:03d}.jpg", picture) for n in range(100)] + [(f"{n:03d}.txt", b"a b") for n in range(100)]
    url = write_tar(tmp_path / "apart.tar", entries)
    assert Path(url).stat().st_size > TAR_BYTES
    seen = first_samples(Webdataset(), url)
    assert seen.rejected == seen.samples > 0
    checked(Webdataset(), url)
    without = write_tar(tmp_path / "without.tar", entries[:100])
    with pytest.raises(RejectsError, match="100 of the 100 samples"):
        checked(Webdataset(), without)


def test_a_first_sample_that_is_longer_than_the_head(tmp_path: Path) -> None:
    large = jpeg(0) + bytes(TAR_BYTES + (1 << 20))
    url = write_tar(tmp_path / "a.tar", [("0.jpg", large), ("0.txt", b"a b"), ("1.jpg", large), ("1.txt", b"c d")])
    assert first_samples(Webdataset(), url).first["caption"] == "a b"


def test_rows_that_are_null_at_the_start_end_no_run(tmp_path: Path) -> None:
    captions = [None] * 100 + ["a b"] * 100
    table = pa.table({"image": [[1.0, 0.0]] * 200, "caption": captions})
    url = write_parquet(str(tmp_path / "a.parquet"), table)
    seen = first_samples(Vectors(), url)
    assert (seen.rejected, seen.whole) == (64, False)
    checked(Vectors(), url)


def test_rows_are_read_to_the_end_before_a_pool_is_refused(tmp_path: Path) -> None:
    """A head of 16 rows, all bad: of one pool the other rows are sound, of the other one they are not."""
    avif = b"\0\0\0 ftypavif" + bytes(99)
    for name, images in (("well", [avif] * 30 + [jpeg(0)] * 30), ("bad", [avif] * 60)):
        table = pa.table({"image": images, "caption": ["a b"] * 60})
        write_parquet(str(tmp_path / f"{name}.parquet"), table)
    zero = Samples.drawn(200)
    checked(Parquet(), str(tmp_path / "well.parquet"))
    with pytest.raises(RejectsError, match=r"60 of the 60 samples of 1 of its 1 shards.*\n  image-decode +60 +100"):
        checked(Parquet(), str(tmp_path / "bad.parquet"))
    zero.image[:] = 0
    [url] = write_vectors(str(tmp_path / "zero"), zero)
    with pytest.raises(RejectsError, match="200 of the 200 samples"):
        checked(READER, url)


def test_a_remote_pool_is_not_read_to_the_end(tmp_path: Path) -> None:
    table = pa.table({"image": [b"no picture"] * 60, "caption": ["a b"] * 60})
    far = write_parquet("memory://far/0.parquet", table)
    checked(Parquet(), far)
    few = write_parquet("memory://far/1.parquet", table.slice(0, 9))  # the head is all of it
    with pytest.raises(RejectsError, match="9 of the 9 samples"):
        checked(Parquet(), few)


def test_a_shard_that_cannot_be_read_is_told_as_itself(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz"):
        pass
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    url = str(tmp_path / "a.tar")
    with pytest.raises(ShardError, match=f"^{url}: a webdataset shard must be an uncompressed tar"):
        first_samples(Webdataset(), url)
    good = tar(tmp_path, 0, {"jpg": jpeg(0), "txt": b"a b"})
    assert none_readable(Webdataset(), [url])
    assert not none_readable(Webdataset(), [url, good])


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 1000])
def test_five_shards_stand_for_all(count: int) -> None:
    found = spread(count)
    assert len(found) == len(set(found)) == min(5, count)
    assert found == sorted(found)
    if count:
        assert (found[0], found[-1]) == (0, count - 1)


def test_nearly_whole_is_beyond_the_limit_too() -> None:
    assert nearly_whole(10, 10, Limits())
    assert not nearly_whole(9, 10, Limits())
    assert not nearly_whole(0, 0, Limits())
    assert not nearly_whole(95, 100, Limits(0.95))
