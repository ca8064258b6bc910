"""Kept samples where they lie: the bytes of exported shards, as often as weighed, and no more is read."""

import io
import itertools
import os
import tarfile
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pytest
import webdataset as wds

from tests.pools import Entry, Filtered, jpeg, members, pair, read_tar, write_parquet, write_tar
from tests.stages.results.test_shards import by_sample, embedded, kept_keys, left_open, tars, written
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import AccountingError, DataError, ShardError, StorageError
from winnow.stages.cuts.random import Random
from winnow.stages.pools.parquet import Parquet
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.results.selected import Selected


def selected(pool: Filtered, weights: Sequence[float] | None = None, gap: int | None = None) -> Selected:
    """What a manifest selects that gives every kept sample its weight; by default 1."""
    survivors = pool.survivors
    manifest = Artifact(pool.run.store, "manifest", uuid.uuid4().hex[:8])
    given = iter(weights or itertools.repeat(1.0))
    for item in pool.run.items:
        keys = survivors.samples.read(item.index, ["key"])["key"]
        weight = np.array([next(given) if kept else 0.0 for kept in survivors.mask(item.index)], np.float32)
        manifest.write(item.index, pa.table({"shard": [item.url] * len(keys), "key": keys, "weight": weight}), {})
    return Selected(survivors.samples, manifest, survivors.reader, gap_bytes=gap)  # type: ignore[arg-type]  # images


def streamed(selected: Selected, pool: Filtered) -> list[Entry]:
    """Members of the tars of every shard."""
    found: list[Entry] = []
    for item in pool.run.items:
        out = io.BytesIO()
        plan = selected.plan(item.index)
        assert selected.write_tar(plan, out) == plan.samples
        assert len(out.getvalue()) % tarfile.RECORDSIZE == 0
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
            found += [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]  # files
    return found


def in_process(selected: Selected, pool: Filtered) -> list[Entry]:
    """The same, of samples()."""
    every = [sample for item in pool.run.items for sample in selected.samples(selected.plan(item.index))]
    return [(f"{key}.{suffix}", content) for key, parts in every for suffix, content in parts]


def exported(pool: Filtered) -> list[Entry]:
    folder, _ = written(pool, 1000)
    return [entry for path in sorted(folder.glob("*.tar")) for entry in read_tar(path)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Filtered:
    folder = tmp_path_factory.mktemp("selected")
    return embedded(folder, tars(folder)).through(Random(count=14))


@pytest.mark.parametrize("gap", [0, 2000, None, 1 << 40])
def test_the_samples_are_those_of_exported_shards_byte_for_byte(pool: Filtered, gap: int | None) -> None:
    source = selected(pool, gap=gap)
    assert streamed(source, pool) == in_process(source, pool) == exported(pool)
    assert list(by_sample(streamed(source, pool))) == kept_keys(pool)


def test_headers_are_those_of_the_source(pool: Filtered) -> None:
    out = io.BytesIO()
    source = selected(pool)
    source.write_tar(source.plan(0), out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert {member.mtime for member in tar} == {1_700_000_000}


def test_only_what_is_kept_is_read(pool: Filtered, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ranges: not a byte more than the kept samples have; with every gap read over, one read a shard."""
    reads: list[int] = []

    class Counting(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            reads.append(len(found))
            return found

    read_to = os.preadv

    def counting(descriptor: int, places: Sequence[memoryview], start: int) -> int:
        found = read_to(descriptor, places, start)
        reads.append(found)
        return found

    monkeypatch.setattr(storage, "open_exact", Counting)
    monkeypatch.setattr(os, "preadv", counting)
    source = selected(pool, gap=0)
    streamed(source, pool)
    sizes = [sum(source.plan(item.index).places["size"].to_pylist()) for item in pool.run.items]
    assert sum(reads) == sum(sizes)
    assert len(reads) > len(pool.run.items)
    reads.clear()
    streamed(replace(source, gap_bytes=1 << 40), pool)
    assert len(reads) == len(pool.run.items)
    assert sum(reads) > sum(sizes)


@pytest.mark.parametrize("kind", ["caption in json", "apart", "long names", "parquet"])
def test_every_kind_of_pool_gives_what_its_shards_have(tmp_path: Path, kind: str) -> None:
    long = "deep/" * 30 + "x" * 120
    samples = [(f"{n:03d}" if kind != "long names" else f"{long}{n}", pair(n, f"words {n}")) for n in range(8)]
    reader: Webdataset | Parquet = Webdataset()
    if kind == "caption in json":
        samples = [(key, {**parts, "txt": b"another text"}) for key, parts in samples]
        reader = Webdataset(caption="json:caption")
    if kind == "parquet":
        rows = {"image": [jpeg(n) for n in range(8)], "text": [f"row {n}" for n in range(8)], "key": ["a", "b"] * 4}
        url, reader = write_parquet(f"{tmp_path}/pool/0.parquet", pa.table(rows)), Parquet()
    else:
        entries = members(samples)
        if kind == "apart":
            entries.sort(key=lambda entry: entry[0].rpartition(".")[2])
        url = write_tar(tmp_path / "pool/0.tar", entries, tarfile.PAX_FORMAT)
    pool = embedded(tmp_path, [url], reader).through(Random(count=5))
    source = selected(pool)
    assert streamed(source, pool) == exported(pool)
    assert [content for _, content in in_process(source, pool)] == [content for _, content in exported(pool)]


def test_a_weight_is_how_often_a_sample_comes(pool: Filtered) -> None:
    """And a sample that comes again is not beside itself."""
    weights = [0.0, 3.0, 1.0, 2.0] + [1.0] * 10
    source = selected(pool, weights)
    found = by_sample(streamed(source, pool))
    hashes = by_sample(exported(pool))
    wanted = {key: int(weight) for key, weight in zip(kept_keys(pool), weights, strict=True)}
    assert {key: [key, f"{key}_1", f"{key}_2"][: wanted[key]] for key in wanted} == {
        key: [name for name in found if name.startswith(key)] for key in wanted
    }
    assert all(found[name] == hashes[name.partition("_")[0]] for name in found)
    keys = [key for item in pool.run.items for key, _ in source.samples(source.plan(item.index))]
    assert sorted(keys) == sorted(key for key, times in wanted.items() for _ in range(times))
    assert all(a != b for a, b in itertools.pairwise(keys))
    assert sum(source.plan(item.index).samples for item in pool.run.items) == sum(weights)


@pytest.mark.parametrize("weight", [0.5, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_count_is_refused(pool: Filtered, weight: float) -> None:
    with pytest.raises(DataError, match=r"00000\.parquet: a weight must be a whole number >= 0"):
        selected(pool, [weight] * 14).plan(0)


def test_files_of_two_jobs_are_refused(pool: Filtered) -> None:
    source = selected(pool)
    table = source.manifest.read(0)
    source.manifest.write(0, table.slice(1), {})
    with pytest.raises(AccountingError, match="must have a row for each sample of"):
        source.plan(0)
    source.manifest.write(0, table.set_column(1, "key", table["key"].take(pa.array([1, 0, *range(2, 9)]))), {})
    with pytest.raises(AccountingError, match="but they name other samples"):
        source.plan(0)


def read_by_webdataset(content: bytes) -> list[str]:
    """Keys of what webdataset reads of a pipe that gave this and ended."""
    with left_open():
        files = wds.tariterators.tar_file_expander([{"url": "pipe:", "stream": io.BytesIO(content)}])
        return [sample["__key__"] for sample in wds.tariterators.group_by_keys(files)]


def test_a_shard_that_keeps_nothing_is_an_empty_tar(pool: Filtered) -> None:
    source = selected(pool, [0.0] * 14)
    out = io.BytesIO()
    assert source.write_tar(source.plan(0), out) == 0
    assert read_by_webdataset(out.getvalue()) == []


@pytest.mark.parametrize("how", ["changed", "gone", "secretly", "secretly shorter", "while it is read"])
def test_a_shard_that_changed_is_refused_and_who_reads_sees_it(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [url] = tars(tmp_path, rows=(6,))
    pool = embedded(tmp_path, [url])
    source = selected(pool)
    path, content = Path(url), Path(url).read_bytes()
    at = source.plan(0).places["offset"][4].as_py()
    match how:
        case "changed":
            path.write_bytes(content[:-512])
        case "gone":
            path.unlink()
        case "secretly":  # of the same length and time, as a bad disk changes files
            path.write_bytes(content[:at] + b"x" * 512 + content[at + 512 :])
            monkeypatch.setattr("winnow.stages.results.selected.check_unchanged", lambda *what: None)
        case "while it is read":
            whole = storage.open_exact

            def cut(url: str) -> BinaryIO:
                file = whole(url)
                monkeypatch.setattr(file, "read", lambda size: content[at : at + size - 100])
                return file

            monkeypatch.setattr(storage, "open_exact", cut)
            monkeypatch.setattr(os, "preadv", lambda descriptor, places, start: 100)
        case _:
            path.write_bytes(content[: at + 100])
            monkeypatch.setattr("winnow.stages.results.selected.check_unchanged", lambda *what: None)
    says = {
        "changed": r"0\.tar must stay as it was when the run listed it",
        "gone": "there is no such file",
        "secretly": r"0\.tar must be as it was when it was embedded, but 00-0004 is not at",
        "secretly shorter": r"0\.tar must be as long as when it was embedded",
        "while it is read": r"0\.tar must stay as long as it was",
    }[how]
    with pytest.raises((ShardError, StorageError), match=says):
        list(source.samples(source.plan(0)))
    out = io.BytesIO()
    with pytest.raises((ShardError, StorageError), match=says):
        source.write_tar(source.plan(0), out)
    with pytest.raises(tarfile.ReadError, match="unexpected end of data"):
        read_by_webdataset(out.getvalue())


def test_ranges_of_an_object_store_are_read(s3_store: str, tmp_path: Path) -> None:
    folder = storage.join(s3_store, uuid.uuid4().hex)
    for path in tars(tmp_path):
        storage.write_bytes(storage.join(folder, storage.name_of(path)), Path(path).read_bytes())
    pool = embedded(tmp_path, [f"{folder}/{n}.tar" for n in range(3)]).through(Random(count=9))
    for gap in (0, None):
        assert streamed(selected(pool, gap=gap), pool) == exported(pool)
