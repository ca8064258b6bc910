"""What is known of samples: rows and rejects that account for each, vectors by encoder, one decode for all of them."""

import json
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import (
    Filtered,
    Samples,
    embedded,
    filtered,
    jpeg,
    members,
    normed,
    opened,
    pair,
    read_tar,
    tiny_clip,
    unit,
    write_clip_retrieval,
    write_datacomp,
    write_tar,
)
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, matrix
from winnow.pipeline.errors import WinnowError
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import ShardItem, Summary, artifact_of
from winnow.pipeline.uid import content_hash
from winnow.stages.encoders import Encoding, OpenClip, Timm, bank
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.pools.clip_retrieval import ClipRetrieval
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.vectors import Vectors
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.rejects import read_rejects
from winnow.stages.sample_files import commit_samples
from winnow.stages.vector_files import cosine
from winnow.stages.vectors import Vectors as VectorsStage

ENCODING, NEEDS = Encoding(), Needs()
BROKEN = {
    # position in the second shard: reject kind
    1: "image-decode",
    3: "no-caption",
    4: "no-image",
    6: "image-decode",
}


def entries(start: int, rows: int, broken: bool) -> list[tuple[str, bytes]]:
    samples = [(f"{start + i:05d}", pair(start + i, f"a picture of thing {i}")) for i in range(rows)]
    if broken:
        samples[1][1]["jpg"] = jpeg(1)[:200]
        del samples[3][1]["txt"]
        del samples[4][1]["jpg"]
        samples[6][1]["jpg"] = b"<html>gone</html>"
    return members(samples)


def embed(
    folder: Path,
    urls: tuple[str, ...],
    *,
    store: str = "store",
    batch_size: int = 4,
    reader: Webdataset = Webdataset(),  # noqa: B008  # it is frozen
    needs: Needs = NEEDS,
    **encoders: Encoder,
) -> Filtered:
    every = {"clip": tiny_clip(folder), **encoders}
    return embedded(urls, str(folder / store), every, reader=reader, encoding=Encoding(batch_size), needs=needs)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Filtered:
    """Three shards: sound, with broken samples, and with nothing but a broken one."""
    folder = tmp_path_factory.mktemp("vectors")
    urls = (
        write_tar(folder / "pool/0.tar", entries(0, 6, broken=False)),
        write_tar(folder / "pool/1.tar", entries(10, 8, broken=True)),
        write_tar(folder / "pool/2.tar", [("x.jpg", b""), ("x.txt", b"words")]),
    )
    return embed(folder, urls, dino=Timm("test_vit", "random"))


def test_every_sample_is_a_row_or_a_reject(pool: Filtered) -> None:
    out = pool.survivors.samples
    positions = [column(out.read(i, ["position"]), "position").tolist() for i in range(3)]
    assert positions == [[0, 1, 2, 3, 4, 5], [0, 2, 5, 7], []]
    rejects = read_rejects(out, 1).to_pylist()
    assert {row["position"]: row["kind"] for row in rejects} == BROKEN
    assert [row["key"] for row in rejects] == ["00011", "00013", "00014", "00016"]
    assert all(row["message"] and row["offset"] >= 0 for row in rejects)
    assert read_rejects(out, 0).num_rows == 0
    assert read_rejects(out, 2)["kind"].to_pylist() == ["image-empty"]
    report = pool.steps[0].report
    assert (report["kept"], report["rejected"]) == (10, 5)
    assert report["rejects"] == {"image-decode": 2, "image-empty": 1, "no-caption": 1, "no-image": 1}
    assert pool.survivors.pool_count() == 15


def test_columns_are_what_the_design_says(pool: Filtered) -> None:
    place = [
        "position",
        "key",
        "uid",
        "caption",
        "image_hash",
        "offset",
        "size",
        "extra_ranges",
        "plain",
        "width",
        "height",
    ]
    for index in range(3):
        assert pool.survivors.samples.columns(index) == place
        assert pool.survivors.encoder("clip").columns(index) == ["kept", "image", "text", "similarity"]
        assert pool.survivors.encoder("dino").columns(index) == ["kept", "image"]
    row = pool.survivors.samples.read(1).to_pylist()[1]
    assert row["uid"] == f"{13:032x}"
    assert row["image_hash"] == content_hash(jpeg(12))
    assert (row["key"], row["caption"]) == ("00012", "a picture of thing 2")
    assert (row["width"], row["height"]) == (40, 40)


def test_vectors_are_of_unit_norm_and_similarity_is_their_cosine(pool: Filtered) -> None:
    for index in range(3):
        table, dino = (pool.survivors.encoder(name).read(index) for name in ("clip", "dino"))
        image, text = (matrix(table[tower]).astype(np.float64) for tower in ("image", "text"))
        assert np.linalg.norm(image, axis=1) == pytest.approx(1, abs=2e-3)
        assert np.linalg.norm(matrix(dino["image"]).astype(float), axis=1) == pytest.approx(1, abs=2e-3)
        expected = (image * text).sum(axis=1).astype(np.float32)
        assert column(table, "similarity").tolist() == expected.tolist()
        assert matrix(table["image"]).dtype == np.float16


def test_ranges_cut_the_samples_out_of_the_tar(pool: Filtered) -> None:
    content = Path(pool.run.shards[1].url).read_bytes()
    for row in pool.survivors.samples.read(1).to_pylist():
        assert content[row["offset"] : row["offset"] + len(row["key"])] == row["key"].encode()
        assert row["size"] % 512 == 0
        assert row["extra_ranges"] == []


def test_a_changed_shard_redoes_only_that_shard(tmp_path: Path) -> None:
    urls = tuple(write_tar(tmp_path / f"pool/{i}.tar", entries(10 * i, 7, broken=i == 1)) for i in range(3))
    first = embed(tmp_path, urls)
    write_tar(tmp_path / "pool/2.tar", entries(50, 3, broken=False))
    second = embed(tmp_path, urls)
    for name in ("samples", "vectors"):
        assert second.artifact(name) != first.artifact(name)
        assert second.step(name).report["adopted"] == 2
        one, two = (pool.artifact(name) for pool in (first, second))
        for index in range(2):
            assert Path(one.shard(index)).read_bytes() == Path(two.shard(index)).read_bytes()
            assert read_rejects(one, index).equals(read_rejects(two, index))
        assert two.read(2).num_rows == 3


def test_what_only_says_how_to_run_makes_the_same_artifact(tmp_path: Path) -> None:
    samples, reader = Artifact("s", "samples", "0" * 16), Webdataset()
    base = artifact_of(
        VectorsStage.of(samples, reader, "", "clip", tiny_clip(tmp_path / "a"), Encoding(), Needs()), "s"
    )

    def other(encoding: Encoding = ENCODING, needs: Needs = NEEDS, folder: str = "a", name: str = "clip") -> bool:
        stage = VectorsStage.of(samples, reader, "", name, tiny_clip(tmp_path / folder), encoding, needs)
        return artifact_of(stage, "s") != base

    assert not other(Encoding(decode_threads=3), Needs(cpus=2, retries=5))
    assert not other(Encoding(precision="fp32", device="cpu"))
    assert not other(folder="moved")
    assert other(Encoding(batch_size=8))
    assert other(Encoding(preprocess="fast"))
    assert other(Encoding(precision="bf16"))
    assert other(needs=Needs(gpus=1))
    assert not other(name="clip2")


@pytest.mark.parametrize("layout", ["datacomp", "clip-retrieval", "vectors"])
def test_precomputed_pools_store_no_vectors(tmp_path: Path, layout: str) -> None:
    samples = Samples.drawn(20)
    samples.image[2] = 0
    if layout == "datacomp":
        name, pool = "l14", opened(write_datacomp(tmp_path, samples, 3), Datacomp(use=("l14",)))
    elif layout == "clip-retrieval":
        name, pool = "clip", opened(write_clip_retrieval(tmp_path, samples, 3), ClipRetrieval())
    else:
        name, pool = "clip", filtered(samples, shards=3)
    read, stored = pool.survivors.samples, pool.survivors.encoder(name)
    good = [i for i in range(20) if i != 2]
    assert all(stored.columns(index) == ["kept", "similarity"] for index in range(3))
    rows = [row for index in range(3) for row in read.read(index).to_pylist()]
    assert [row["uid"] for row in rows] == samples.uid
    assert [row["caption"] for row in rows] == samples.caption
    similarity = np.concatenate([column(stored.read(index), "similarity") for index in range(3)])
    assert similarity[good] == pytest.approx(samples.cosine[good], abs=1e-6)
    assert similarity[2] == 0
    assert pool.kept == [samples.uid[i] for i in good]
    for made in (stored, pool.artifact("distinct")):
        assert read_rejects(made, 0)["kind"].to_pylist() == ["vector-zero"]
        assert made.summary(0)["rejects"] == {"vector-zero": 1}
    assert pool.survivors.pool_count() == 20
    found = pool.survivors.vectors(0, pool.run.shards[0].url, name, "image", np.array([0, 3, 5]))
    assert found.tolist() == samples.image[[0, 3, 5]].tolist()


def test_a_precomputed_pool_without_text_has_no_similarity(tmp_path: Path) -> None:
    samples = Samples.drawn(6)
    pool = filtered(samples, shards=2)
    reader = Vectors(image="image", text=None)
    bare = opened(tuple(shard.url for shard in pool.run.shards), reader)
    assert bare.survivors.encoder("vectors").columns(0) == ["kept"]
    assert bare.survivors.similarity(0, "vectors") is None
    assert bare.kept == samples.uid


def test_a_shard_of_rejects_alone(tmp_path: Path) -> None:
    samples = Samples.drawn(6)
    samples.image[:3] = np.nan
    pool = filtered(samples, shards=2)
    assert pool.kept == samples.uid[3:]
    assert read_rejects(pool.artifact("vectors"), 0)["kind"].to_pylist() == ["vector-not-finite"] * 3


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 40), width=st.integers(1, 700), seed=st.integers(0, 9))
def test_cosine_is_float64_and_rows_stand_alone(n: int, width: int, seed: int) -> None:
    x = normed(unit(n, width, seed)) if n else np.empty((0, width), np.float16)
    y = x[::-1].copy()
    found = cosine(x, y)
    assert found.tolist() == pytest.approx((x.astype(np.float64) * y.astype(np.float64)).sum(axis=1), abs=1e-6)
    for a in range(0, n, 7):
        assert cosine(x[a : a + 3], y[a : a + 3]).tobytes() == found[a : a + 3].tobytes()


def test_the_store_has_one_file_a_shard(pool: Filtered) -> None:
    for made in (pool.survivors.samples, *(artifact for _, artifact in pool.survivors.encoded)):
        urls = made.folder, made.meta_folder
        names = [[storage.name_of(found.url) for found in storage.listing(url)] for url in urls]
        assert names == [
            ["00000.parquet", "00001.parquet", "00002.parquet"],
            ["_done.json", "_parts.json", "files.parquet"],
        ]
    assert storage.folders(pool.survivors.samples.meta_folder) == ["rejects"]


OPENED: dict[str, threading.Event] = defaultdict(threading.Event)
DRAWN: dict[str, threading.Event] = defaultdict(threading.Event)


@dataclass(frozen=True)
class WaitsForNext(Webdataset):
    """Ends the first shard only once the second was opened."""

    def samples(self, url: str) -> Iterator[Sample | Reject]:
        for sample in super().samples(url):
            OPENED[url].set()
            yield sample
        if not OPENED[url.replace("0.tar", "1.tar")].wait(20):
            raise AssertionError(f"nothing opened the shard after {url}")
        DRAWN[url].set()


def test_the_next_shard_opens_while_one_is_drawn_and_one_ends_while_the_next_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = tuple(write_tar(tmp_path / f"pool/{i}.tar", entries(10 * i, 8, broken=i == 1)) for i in range(2))
    plain = embed(tmp_path, urls)
    committed = []

    def ends_late(out: Artifact, item: ShardItem, *rest: object) -> Summary:
        if item.index == 0:
            assert DRAWN[urls[1]].wait(20)
        committed.append(item.index)
        return commit_samples(out, item, *rest)  # type: ignore[arg-type]  # what the pass gave

    monkeypatch.setattr("winnow.stages.one_decode.commit_samples", ends_late)
    found = embed(tmp_path, urls, store="prefetched", reader=WaitsForNext(), needs=Needs(prefetch=True))
    assert sorted(committed) == [0, 1]
    for name in ("samples", "vectors"):
        for index in range(2):
            ours, theirs = (Path(made.artifact(name).shard(index)) for made in (found, plain))
            assert ours.read_bytes() == theirs.read_bytes()


DECODED: list[int] = []
"""The number of files of each call that decodes."""
LOADED: list[str] = []


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the images that are decoded and the encoders that are loaded."""
    DECODED.clear()
    LOADED.clear()
    decode, load = bank.decode_all, {kind: kind.load for kind in (OpenClip, Timm)}

    def decodes(files: Sequence[bytes | memoryview], *more: Any, **options: Any) -> Any:
        DECODED.append(len(files))
        return decode(files, *more, **options)

    def loads(self: OpenClip | Timm, device: torch.device) -> Any:
        LOADED.append(self.kind)
        return load[type(self)](self, device)

    monkeypatch.setattr(bank, "decode_all", decodes)
    for kind in load:
        monkeypatch.setattr(kind, "load", loads)


def files_of(*artifacts: Artifact) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file."""
    paths = [path for made in artifacts for url in (made.folder, made.meta_folder) for path in Path(url).rglob("*")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths if path.is_file()}


def tars(folder: Path) -> tuple[str, ...]:
    return tuple(write_tar(folder / f"pool/{i}.tar", entries(10 * i, 8, broken=i == 1)) for i in range(3))


READABLE = 22
"""Images that are decoded once: 24 samples, less those without a caption or an image."""


@pytest.mark.usefixtures("counted")
def test_a_second_encoder_leaves_the_first_and_the_samples_alone(tmp_path: Path) -> None:
    urls, dino = tars(tmp_path), Timm("test_vit", "random")
    first = embed(tmp_path, urls)
    assert (sum(DECODED), LOADED) == (READABLE, ["open_clip"])
    there = files_of(first.artifact("samples"), first.artifact("vectors"))
    second = embed(tmp_path, urls, dino=dino)
    assert (sum(DECODED), LOADED) == (2 * READABLE, ["open_clip", "timm"])
    assert files_of(first.artifact("samples"), first.artifact("vectors")) == there
    assert [step.reused for step in second.steps] == [True, True, False, False]
    both = embed(tmp_path, urls, store="both", dino=dino)
    assert sum(DECODED) == 3 * READABLE  # one decode where both are missing
    for ours, theirs in zip(second.survivors.encoded, both.survivors.encoded, strict=True):
        for index in range(3):
            assert Path(ours[1].shard(index)).read_bytes() == Path(theirs[1].shard(index)).read_bytes()


@pytest.mark.usefixtures("counted")
def test_encoders_that_are_both_missing_are_made_in_one_decode(tmp_path: Path) -> None:
    urls = tars(tmp_path)
    first = embed(tmp_path, urls)
    there = files_of(first.artifact("samples"), first.artifact("vectors"))
    embed(tmp_path, urls, dino=Timm("test_vit", "random"), other=Timm("test_resnet", "random"))
    assert (sum(DECODED), LOADED) == (2 * READABLE, ["open_clip", "timm", "timm"])
    assert files_of(first.artifact("samples"), first.artifact("vectors")) == there


@pytest.mark.usefixtures("counted")
def test_what_ends_between_vectors_and_samples_costs_that_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = tars(tmp_path)

    def ends(out: Artifact, item: ShardItem, *rest: object) -> Summary:
        if item.index == 1:
            raise KeyboardInterrupt
        return commit_samples(out, item, *rest)  # type: ignore[arg-type]  # what the pass gave

    monkeypatch.setattr("winnow.stages.one_decode.commit_samples", ends)
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path, urls)
    monkeypatch.setattr("winnow.stages.one_decode.commit_samples", commit_samples)
    [samples], [vectors] = ((tmp_path / "store").glob(f"{name}-{'?' * 16}") for name in ("samples", "vectors"))
    done = {path.name for path in samples.glob("*.parquet")}
    made = {path.name: path.stat().st_ino for path in vectors.glob("*.parquet")}
    assert "00001.parquet" not in done
    assert {*done, "00001.parquet"} == set(made)
    DECODED.clear()
    found = embed(tmp_path, urls)
    assert sum(DECODED) == READABLE - sum((8, 6, 8)[int(name[:5])] for name in done)
    assert {path.name: path.stat().st_ino for path in vectors.glob("*.parquet")}.items() >= made.items()
    whole = embed(tmp_path, urls, store="whole")
    for name in ("samples", "vectors"):
        for index in range(3):
            ours, theirs = (Path(pool.artifact(name).shard(index)) for pool in (found, whole))
            assert ours.read_bytes() == theirs.read_bytes()


def test_a_job_without_encoders_reads_headers_and_no_torch(tmp_path: Path) -> None:
    urls = tars(tmp_path)
    policy = [{"rules": {"min_words": 2, "min_side": 40}}, {"duplicates": {}}, {"random": {"count": 9}}]
    job = {"name": "plain", "store": str(tmp_path / "store"), "pool": {"shards": [*urls]}, "policy": policy}
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps({**job, "shards": {"samples_per_shard": 4}, "limits": {"max_reject_fraction": 0.2}}))
    program = (
        "import sys; from winnow.jobs.__main__ import main\n"
        f"sys.argv[1:] = ['run', {str(file)!r}, '--executor', 'local', '--workers', '1']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not run.returncode, run.stderr
    assert run.stdout.splitlines()[-1] == "False"
    [samples] = (tmp_path / "store").glob(f"samples-{'?' * 16}")
    tables = [pq.read_table(path) for path in sorted(samples.glob("*.parquet"))]
    assert [table["position"].to_pylist() for table in tables] == [[*range(8)], [0, 2, 5, 7], [*range(8)]]
    assert {side for table in tables for side in table["width"].to_pylist()} == {40}
    assert len([name for tar in (tmp_path / "store").glob("shards-*/*.tar") for name, _ in read_tar(tar)]) == 27


def test_a_policy_without_vectors_reads_none(tmp_path: Path) -> None:
    samples = Samples.drawn(12)
    urls = write_datacomp(tmp_path / "pool", samples, 3)
    for url in urls[1:]:  # if those of all shards were broken, the look at the first ones would end the run
        Path(url.replace(".parquet", ".npz")).write_bytes(b"no archive")
    values = {
        "name": "plain",
        "store": str(tmp_path / "store"),
        "pool": {"shards": [*urls], "format": "datacomp", "use": ["l14"]},
    }
    job = parse({**values, "policy": [{"rules": {"min_words": 2}}, {"random": {"count": 5}}]})
    assert run_job(job, LocalExecutor(1), lambda line: None).counts["kept"] == 5
    with pytest.raises(WinnowError):
        run_job(parse({**values, "policy": [{"similarity": {"by": "l14", "count": 5}}]}), LocalExecutor(1), print)
