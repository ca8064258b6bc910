"""Samples where they lie in a tar: in the cheapest reads, and not a byte of another one."""

import io
import itertools
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline import storage
from winnow.stages.pools.tars.ranges import Read, append_samples, plan_reads, sample_blocks
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.results.tar_shard import TarShard

Spans = list[tuple[int, int]]


@st.composite
def spans(draw: st.DrawFn) -> Spans:
    """Ascending spans with gaps, some of no byte."""
    steps = draw(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40)), max_size=8))
    found, at = [], 0
    for gap, size in steps:
        found.append((at + gap, at + gap + size))
        at += gap + size
    return found


def cost(reads: Sequence[Read], gap: int) -> int:
    return sum(read.stop - read.start + gap for read in reads)


@given(spans(), st.integers(0, 60))
def test_no_other_reads_cost_less(spans: Spans, gap: int) -> None:
    """Against every way to divide the spans into reads."""
    reads = plan_reads(spans, gap, 1 << 40)
    inner = range(1, len(spans))
    ways = []
    for cuts in itertools.chain.from_iterable(itertools.combinations(inner, k) for k in range(len(spans))):
        edges = [0, *cuts, len(spans)]
        ways.append([Read(spans[a][0], spans[b - 1][1], a, b) for a, b in itertools.pairwise(edges)])
    assert cost(reads, gap) == min((cost(way, gap) for way in ways), default=0)


@given(spans(), st.integers(0, 60), st.integers(1, 100))
def test_every_span_lies_in_one_read_and_no_read_is_larger_than_asked(spans: Spans, gap: int, piece: int) -> None:
    reads = plan_reads(spans, gap, piece)
    assert [n for read in reads for n in range(read.first, read.last)] == list(range(len(spans)))
    for read in reads:
        inside = spans[read.first : read.last]
        assert (read.start, read.stop) == (inside[0][0], inside[-1][1])
        assert read.stop - read.start <= piece or len(inside) == 1


def filled(folder: Path, count: int, size: int) -> tuple[str, pa.Table]:
    """A tar of `count` samples of one member of `size` bytes, each its own, and where they lie."""
    path = folder / "0.tar"
    with open(path, "wb") as file:
        places = []
        for number in range(count):
            header = tarfile.TarInfo(f"{number:04d}.bin")
            header.size = size
            places.append(file.tell())
            file.write(header.tobuf(tarfile.GNU_FORMAT) + content(number, size) + bytes(-size % tarfile.BLOCKSIZE))
    whole = tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE))
    return str(path), pa.table(
        {
            "key": [f"{number:04d}" for number in range(count)],
            "offset": pa.array(places, pa.int64()),
            "size": pa.array([whole] * count, pa.int64()),
            "extra_ranges": pa.array([[]] * count, pa.list_(pa.int64())),
            "plain": [number % 5 < 4 for number in range(count)],
        }
    )


def content(number: int, size: int) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)


@pytest.mark.parametrize("size", [1000, 60_000, 700_000])
@pytest.mark.parametrize("kept", [range(0, 40, 7), range(40), [3, 4, 5, 38]])
def test_each_sample_is_itself_whatever_is_read_at_once(tmp_path: Path, size: int, kept: Sequence[int]) -> None:
    """Samples that are smaller and larger than a read and the gaps that are read over."""
    url, places = filled(tmp_path, 40, size)
    places = places.take(pa.array(list(kept), pa.int64()))
    found = {key: bytes(block) for key, [block], _ in sample_blocks(Webdataset().image, url, places)}
    assert list(found) == [f"{number:04d}" for number in kept]
    assert all(found[f"{n:04d}"][512 : 512 + size] == content(n, size) for n in kept)
    assert {len(block) for block in found.values()} == {places["size"][0].as_py()}


def test_a_remote_shard_is_read_alike(tmp_path: Path) -> None:
    url, places = filled(tmp_path, 40, 700_000)  # some 28 MB: reads of 8, one of them under way
    storage.copy(url, "memory://ranges/0.tar")
    places = places.take(pa.array([*range(20), 25, 39]))
    local = [(key, bytes(block)) for key, [block], _ in sample_blocks(Webdataset().image, url, places)]
    assert [
        (key, bytes(block)) for key, [block], _ in sample_blocks(Webdataset().image, "memory://ranges/0.tar", places)
    ] == local


@pytest.mark.parametrize("size", [1000, 60_000, 700_000])
@pytest.mark.parametrize("kept", [range(0, 40, 7), range(40), [3, 4, 5, 38]])
def test_what_is_read_straight_into_a_tar_is_what_is_copied_there(
    tmp_path: Path, size: int, kept: Sequence[int]
) -> None:
    """Local and remote shards, samples that are looked at or come again, and what else is in the tar."""
    url, places = filled(tmp_path, 40, size)
    storage.copy(url, "memory://straight/0.tar")
    places = places.take(pa.array(list(kept), pa.int64()))
    made = []
    for source in (url, "memory://straight/0.tar"):
        writer = TarShard(out := io.BytesIO())
        writer.add_members("first", [("bin", b"1" * 300_001)])
        append_samples(writer, Webdataset().image, source, places, gap_bytes=2 * size)
        append_samples(writer, Webdataset().image, source, places.slice(1))
        writer.add_members("last", [("bin", b"2")])
        writer.finish()
        made.append(out.getvalue())
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(made[0])) as tar:
        names = tar.getnames()
    again = [f"{number:04d}_1.bin" for number in kept[1:]]
    assert names == ["first.bin", *(f"{number:04d}.bin" for number in kept), *again, "last.bin"]


def test_a_sample_without_its_padding_gets_it(tmp_path: Path) -> None:
    """As the last one of a tar that was cut there."""
    url, places = filled(tmp_path, 3, 1000)
    os.truncate(url, 3 * 1536 - 24)
    bare = pa.table({**{name: places[name] for name in places.column_names}, "size": pa.array([1536, 1536, 1512])})
    writer = TarShard(out := io.BytesIO())
    writer.add_members("first", [("bin", b"\xff" * 300_000)])  # lies in the buffers that come again
    append_samples(writer, Webdataset().image, url, bare)
    writer.finish()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.getnames() == ["first.bin", "0000.bin", "0001.bin", "0002.bin"]
        end = tar.getmember("0002.bin").offset_data + 1000
    assert out.getvalue()[end - 1000 : end] == content(2, 1000)
    assert not any(out.getvalue()[end:])


def test_a_disk_is_told_of_some_reads_ahead_and_of_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, places = filled(tmp_path, 40, 700_000)
    told: list[int] = []
    read: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, start, size, how: told.append(start))
    for _ in sample_blocks(Webdataset().image, url, places):
        read.append(len(told))
    starts = places["offset"].to_pylist()
    assert told == starts
    assert read == [min(n + 1 + 12, 40) for n in range(40)]  # 12 of them are the first that have 8 MiB


def test_samples_that_are_large_are_told_of_one_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("winnow.stages.pools.tars.ranges._TOLD_BYTES", 600_000)
    url, places = filled(tmp_path, 5, 700_000)
    told: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, start, size, how: told.append(start))
    assert [len(told) for _ in sample_blocks(Webdataset().image, url, places)] == [2, 3, 4, 5, 5]
