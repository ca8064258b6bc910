"""Training shards: members byte for byte, exact sizes, and open_clip's own loader reads every sample back."""

import hashlib
import json
import logging
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import pools
from tests.pools import Entry, Filtered, jpeg, members, pair, read_tar, tiny_clip, write_parquet, write_tar
from tests.trainer import left_open, loaded
from winnow.pipeline.errors import FailedShards
from winnow.pipeline.stage import ShardItem, StepResult, artifact_of, execute
from winnow.pipeline.uid import uids_to_hex
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.pools.parquet import Parquet
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.results.shards import Shards, plan_shards

WEBDATASET = Webdataset()


def embedded(folder: Path, urls: Sequence[str], reader: Reader = WEBDATASET) -> Filtered:
    return pools.embedded(urls, str(folder / "store"), {"clip": tiny_clip(folder)}, reader=reader)


def written(pool: Filtered, samples_per_shard: int) -> tuple[Path, StepResult]:
    """Folder of the shards, and the report."""
    step = execute(Shards(pool.survivors, pool.survivors.reader, samples_per_shard), pool.run)  # type: ignore[arg-type]  # an image pool
    return Path(step.artifact.folder), step


def by_sample(entries: Sequence[Entry]) -> dict[str, dict[str, str]]:
    """Key -> suffix -> hash of the content; members of a sample must be adjacent."""
    found: dict[str, dict[str, str]] = {}
    last = None
    for name, content in entries:
        key, _, suffix = name.partition(".")
        assert key == last or key not in found, f"{name} lies apart"
        last = key
        found.setdefault(key, {})[suffix] = hashlib.sha256(content).hexdigest()
    return found


def tars(folder: Path, rows: Sequence[int] = (9, 8, 6)) -> list[str]:
    """Three shards; sample keys differ, the third of each shard has one more member."""
    urls, number = [], 0
    for shard, count in enumerate(rows):
        samples = []
        for row in range(count):
            extra = {"cls": b"7" * (500 + row)} if row == 2 else {}
            samples.append((f"{shard:02d}-{row:04d}", pair(number, f"a caption of {number}") | extra))
            number += 1
        urls.append(write_tar(folder / f"pool/{shard}.tar", members(samples)))
    return urls


def kept_keys(pool: Filtered) -> list[str]:
    """Keys of the kept samples in the order of the pool."""
    tables = [pool.survivors.samples.read(item.index, ["key"]) for item in pool.run.items]
    keys = [key for table in tables for key in table["key"].to_pylist()]
    return [key for key, row in zip(keys, pool.rows, strict=True) if row["kept"]]


def meta(folder: Path, name: str) -> Path:
    """A file of the folder beside that of the tars."""
    return folder.with_name(f"{folder.name}.meta") / name


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Filtered:
    folder = tmp_path_factory.mktemp("shards")
    return embedded(folder, tars(folder)).through(Random(count=17))


def test_members_are_carried_over_byte_for_byte_in_order(pool: Filtered) -> None:
    folder, step = written(pool, 5)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]
    sizes = json.loads(meta(folder, "sizes.json").read_text())
    assert sizes == {"00000.tar": 5, "00001.tar": 5, "00002.tar": 5, "00003.tar": 2}
    source = by_sample([entry for shard in pool.run.shards for entry in read_tar(shard.url)])
    parts = [by_sample(read_tar(folder / name)) for name in sizes]
    assert [len(part) for part in parts] == list(sizes.values())
    assert [key for part in parts for key in part] == kept_keys(pool)
    assert all(part[key] == source[key] for part in parts for key in part)
    assert (step.report["samples"], step.report["shards"]) == (17, 4)
    assert step.report["bytes"] == sum((folder / name).stat().st_size for name in sizes)


def test_headers_are_carried_over_too(pool: Filtered) -> None:
    folder, _ = written(pool, 100)
    with tarfile.open(folder / "00000.tar") as tar:
        assert {member.mtime for member in tar} == {1_700_000_000}
    content = (folder / "00000.tar").read_bytes()
    assert len(content) % tarfile.RECORDSIZE == 0
    assert not any(content[-2 * tarfile.BLOCKSIZE :])


def test_nothing_kept_writes_no_shard(pool: Filtered) -> None:
    folder, step = written(pool.through(Rules(min_words=99)), 5)
    assert json.loads(meta(folder, "sizes.json").read_text()) == {}
    assert (step.report["samples"], step.report["shards"], step.report["bytes"]) == (0, 0, 0)


def test_shards_that_are_there_are_not_written_again(pool: Filtered) -> None:
    folder, _ = written(pool, 6)
    before = {path.name: path.stat().st_ino for path in folder.glob("*.tar")}
    meta(folder, "_done.json").unlink()
    (folder / "00001.tar").unlink()
    _, step = written(pool, 6)
    after = {path.name: path.stat().st_ino for path in folder.glob("*.tar")}
    assert set(after) == set(before)
    assert {name for name in after if after[name] == before[name]} >= set(before) - {"00001.tar"}
    assert step.report["samples"] == 17


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("end", [0, 777, tarfile.RECORDSIZE])
def test_a_shard_that_another_program_tore_is_written_again(pool: Filtered, finished: bool, end: int) -> None:
    folder, _ = written(pool, 6)
    before = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    kept = {path.name: path.stat().st_ino for path in folder.glob("*.tar")}
    torn = folder / "00001.tar"
    torn.write_bytes(before[torn.name][:end])
    if not finished:
        meta(folder, "_done.json").unlink()
    written(pool, 6)
    assert {path.name: path.read_bytes() for path in folder.glob("*.tar")} == before
    assert {path.name for path in folder.glob("*.tar") if path.stat().st_ino == kept[path.name]} == set(before) - {
        torn.name
    }


@settings(max_examples=100, deadline=None)
@given(kept=st.lists(st.integers(0, 30), max_size=12), size=st.integers(1, 20))
def test_the_plan_is_the_list_cut_into_pieces(kept: list[int], size: int) -> None:
    items = [ShardItem(index, f"{index}.tar") for index in range(len(kept))]
    samples = [(index, n) for index, count in enumerate(kept) for n in range(count)]
    planned = plan_shards(items, kept, size)
    found = [[(p.item.index, n) for p in shard.pieces for n in range(p.first, p.last)] for shard in planned]
    assert found == [samples[start : start + size] for start in range(0, len(samples), size)]
    assert [shard.index for shard in planned] == list(range(len(planned)))
    assert [shard.samples for shard in planned] == [len(part) for part in found]


def wds_samples(folder: Path) -> list[Mapping[str, bytes]]:
    """What webdataset itself reads."""
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    with left_open():
        return list(wds.DataPipeline(wds.SimpleShardList(urls), wds.tarfile_to_samples()))


def trainers_texts(folder: Path, *, train: bool) -> list[str]:
    """Captions that open_clip's loader gives a trainer, which is told what sizes.json says."""
    sizes = json.loads(meta(folder, "sizes.json").read_text())
    shards = f"{folder}/{{00000..{len(sizes) - 1:05d}}}.tar"
    return [text for _, text in loaded(shards, sum(sizes.values()), lambda image: image.size, train=train)]


@pytest.mark.parametrize("train", [False, True])
def test_open_clips_own_loader_reads_every_sample(
    pool: Filtered, train: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = written(pool, 5)
    with caplog.at_level(logging.WARNING):
        texts = trainers_texts(folder, train=train)
    assert len(texts) == 17
    assert set(texts) == {f"a caption of {int(uid, 16) - 1}" for uid in pool.kept}
    if not train:
        assert [int(text.split()[-1]) for text in texts] == [int(uid, 16) - 1 for uid in pool.kept]
    assert caplog.records == []


def test_members_that_were_renamed_are_counted(tmp_path: Path) -> None:
    """Beside sound samples one with a class that is a word, and one whose own `jpg` another picture stands before."""
    misleading = {"img": jpeg(1), **pair(2, "two renamed")}
    entries = [("a", pair(0, "sound")), ("b", {**pair(1, "one"), "cls": b"cat"}), ("c", misleading)]
    url = write_tar(tmp_path / "pool/0.tar", members(entries))
    pool = embedded(tmp_path, [url], Webdataset(image=("img", "jpg")))
    folder, step = written(pool, 2)
    assert step.report["renamed"] == 3
    names = [name for tar in sorted(folder.glob("*.tar")) for name, _ in read_tar(tar)]
    assert [name for name in names if name.endswith(".bin")] == ["b.cls.bin", "c.jpg.bin"]
    meta(folder, "_done.json").unlink()
    (folder / "00000.tar").unlink()
    assert "renamed" not in written(pool, 2)[1].report, "what an earlier call wrote is not looked at again"


def test_webdataset_reads_every_sample(pool: Filtered) -> None:
    folder, _ = written(pool, 5)
    assert [sample["__key__"] for sample in wds_samples(folder)] == kept_keys(pool)


def test_keys_that_come_again_are_renamed(tmp_path: Path) -> None:
    """Three input shards with the same keys; at a seam they would lie side by side and be merged by a reader."""
    parts = [[("a", pair(10 * n, f"first {n}")), ("b", pair(10 * n + 1, f"second {n}"))] for n in range(3)]
    parts[1].reverse()
    urls = [write_tar(tmp_path / f"pool/{n}.tar", members(part)) for n, part in enumerate(parts)]
    pool = embedded(tmp_path, urls)
    folder, _ = written(pool, 100)
    samples = wds_samples(folder)
    assert [sample["__key__"] for sample in samples] == ["a", "b", "b_1", "a_1", "a_2", "b_2"]
    assert [sample["txt"] for sample in samples] == [parts[n][i][1]["txt"] for n in range(3) for i in range(2)]
    assert [sample["json"] for sample in samples] == [parts[n][i][1]["json"] for n in range(3) for i in range(2)]
    assert len(trainers_texts(folder, train=False)) == 6


def test_a_renamed_key_never_meets_another(tmp_path: Path) -> None:
    keys = [["a", "a_1"], ["a"], ["a_1", "a"]]
    number = iter(range(9))
    urls = [
        write_tar(tmp_path / f"pool/{n}.tar", members([(key, pair(next(number), key)) for key in part]))
        for n, part in enumerate(keys)
    ]
    folder, _ = written(embedded(tmp_path, urls), 100)
    found = [sample["__key__"] for sample in wds_samples(folder)]
    assert len(set(found)) == 5
    assert found[:2] == ["a", "a_1"]


def test_a_caption_from_json_becomes_a_txt_member(tmp_path: Path) -> None:
    samples = [(f"{n:03d}", pair(n, f"from json {n}")) for n in range(6)]
    for _, parts in samples:
        del parts["txt"]
    url = write_tar(tmp_path / "pool/0.tar", members(samples))
    pool = embedded(tmp_path, [url], Webdataset(caption="json:caption"))
    folder, _ = written(pool, 4)
    found = by_sample([entry for path in sorted(folder.glob("*.tar")) for entry in read_tar(path)])
    source = by_sample(read_tar(url))
    for n, key in enumerate(source):
        assert found[key] == {**source[key], "txt": hashlib.sha256(f"from json {n}".encode()).hexdigest()}
    assert trainers_texts(folder, train=False) == [f"from json {n}" for n in range(6)]


def test_members_that_lie_apart_come_together(tmp_path: Path) -> None:
    samples = [(f"{n:03d}", pair(n, f"apart {n}")) for n in range(5)]
    entries = sorted(members(samples), key=lambda entry: entry[0].rpartition(".")[2])
    url = write_tar(tmp_path / "pool/0.tar", entries)
    pool = embedded(tmp_path, [url]).through(Random(count=3))
    folder, _ = written(pool, 10)
    found = by_sample(read_tar(folder / "00000.tar"))
    assert list(found) == kept_keys(pool)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in entries}
    assert all(found[key] == {s: hashes[f"{key}.{s}"] for s in ("jpg", "txt", "json")} for key in found)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_survive_copying_and_renaming(tmp_path: Path, format: int) -> None:
    long = "deep/" * 30 + "x" * 120
    parts = [[(long, pair(n, f"long {n}"))] for n in range(2)]
    urls = [write_tar(tmp_path / f"pool/{n}.tar", members(part), format) for n, part in enumerate(parts)]
    folder, _ = written(embedded(tmp_path, urls), 10)
    found = wds_samples(folder)
    assert [sample["__key__"] for sample in found] == [long, f"{long}_1"]
    assert [sample["jpg"] for sample in found] == [parts[n][0][1]["jpg"] for n in range(2)]


def test_a_parquet_pool_becomes_tars(tmp_path: Path) -> None:
    rows = {
        "image": pa.array([jpeg(n) for n in range(12)], pa.binary()),
        "text": [f"row {n}" for n in range(12)],
        "uid": [f"{n + 1:032x}" for n in range(12)],
        "license": ["cc0"] * 12,
    }
    rows["image"] = pa.array([None if n == 4 else jpeg(n) for n in range(12)], pa.binary())
    table = pa.table(rows)
    urls = [write_parquet(f"{tmp_path}/pool/{n}.parquet", table.slice(6 * n, 6)) for n in range(2)]
    pool = embedded(tmp_path, urls, Parquet()).through(Random(count=7))
    folder, _ = written(pool, 3)
    samples = wds_samples(folder)
    assert [sample["__key__"] for sample in samples] == pool.kept
    for sample in samples:
        n = int(sample["__key__"], 16) - 1
        assert sample["jpg"] == jpeg(n)
        assert sample["txt"] == f"row {n}".encode()
        assert json.loads(sample["json"]) == {"uid": f"{n + 1:032x}", "license": "cc0"}
    assert json.loads(meta(folder, "sizes.json").read_text()) == {"00000.tar": 3, "00001.tar": 3, "00002.tar": 1}
    assert len(trainers_texts(folder, train=True)) == 7


@pytest.mark.parametrize("how", ["shorter by a little", "shorter by far", "other samples", "no tar", "secretly"])
def test_a_source_that_changed_is_refused(tmp_path: Path, how: str) -> None:
    [url] = tars(tmp_path, rows=(6,))
    pool = embedded(tmp_path, [url])
    path = Path(url)
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    match how:
        case "shorter by a little":
            path.write_bytes(content[: end - 10])
        case "shorter by far":
            path.write_bytes(content[: end // 2])
        case "other samples":
            write_tar(path, members([(f"zz-{n}", pair(n + 50, "another sample with more words")) for n in range(9)]))
        case _:
            times = path.stat()
            path.write_bytes(b"x" * len(content))
            if how == "secretly":  # of the same length and time, as a bad disk changes files
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    says = r"0\.tar must be as it was when it was embedded, but" if how == "secretly" else r"0\.tar must stay as it was"
    with pytest.raises(FailedShards, match=says):
        written(pool, 3)
    out = Path(artifact_of(Shards(pool.survivors, Webdataset(), 3), pool.run.store).folder)
    assert not meta(out, "_done.json").exists()
    assert not list(out.glob(".*"))


def test_uids_of_the_shards_are_those_of_the_manifest(pool: Filtered) -> None:
    folder, _ = written(pool, 5)
    facts = [json.loads(sample["json"])["uid"] for sample in wds_samples(folder)]
    kept = [pool.survivors.uids(item.index)[pool.survivors.mask(item.index)] for item in pool.run.items]
    assert facts == [uid for part in kept for uid in uids_to_hex(part)]


def test_training_sees_the_caption_that_was_judged_and_not_another_txt(tmp_path: Path) -> None:
    parts = [(f"{n}", {**pair(n, "a first caption"), "json": b'{"again": "a new caption"}'}) for n in range(2)]
    url = write_tar(tmp_path / "pool" / "00000.tar", members(parts))
    pool = embedded(tmp_path, [url], Webdataset(caption="json:again"))
    folder, _ = written(pool, 2)
    entries = read_tar(folder / "00000.tar")
    assert [content for name, content in entries if name.endswith(".txt")] == [b"a new caption"] * 2
    assert [content for name, content in entries if name.endswith(".jpg")] == [parts[n][1]["jpg"] for n in range(2)]
