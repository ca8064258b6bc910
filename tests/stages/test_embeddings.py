"""What the embed stage leaves: rows and rejects that account for every sample, cosines, no second copy of vectors."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import (
    Filtered,
    Samples,
    filtered,
    jpeg,
    members,
    normed,
    opened,
    pair,
    tiny_clip,
    unit,
    write_clip_retrieval,
    write_datacomp,
    write_tar,
)
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, matrix
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import Run, ShardItem, Summary, artifact_of, execute
from winnow.pipeline.uid import content_hash
from winnow.stages.embeddings import Embeddings, commit, cosine
from winnow.stages.encoders import Encoding, Timm
from winnow.stages.pools.clip_retrieval import ClipRetrieval
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.pool import Pool, PoolStage
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.vectors import Vectors
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.rejects import read_rejects
from winnow.stages.survivors import Survivors

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
    **encoders: Timm,
) -> Filtered:
    shards = Pool(urls, reader).identities()
    url = str(folder / store)
    run = Run(url, LocalExecutor(1), shards)
    every = {"clip": tiny_clip(folder), **encoders}
    stage = Embeddings.of(artifact_of(PoolStage(shards), url), reader, every, Encoding(batch_size), needs)
    step = execute(stage, run)
    return Filtered(run, Survivors(step.artifact, None, reader), (step,))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Filtered:
    """Three shards: sound, with broken samples, and with nothing but a broken one."""
    folder = tmp_path_factory.mktemp("embeddings")
    urls = (
        write_tar(folder / "pool/0.tar", entries(0, 6, broken=False)),
        write_tar(folder / "pool/1.tar", entries(10, 8, broken=True)),
        write_tar(folder / "pool/2.tar", [("x.jpg", b""), ("x.txt", b"words")]),
    )
    return embed(folder, urls, dino=Timm("test_vit", "random"))


def test_every_sample_is_a_row_or_a_reject(pool: Filtered) -> None:
    out = pool.survivors.embeddings
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
    expected = [*place, "clip.similarity", "clip.image", "clip.text", "dino.image"]
    for index in range(3):
        assert pool.survivors.embeddings.columns(index) == expected
    row = pool.survivors.embeddings.read(1).to_pylist()[1]
    assert row["uid"] == f"{13:032x}"
    assert row["image_hash"] == content_hash(jpeg(12))
    assert (row["key"], row["caption"]) == ("00012", "a picture of thing 2")
    assert (row["width"], row["height"]) == (40, 40)


def test_vectors_are_of_unit_norm_and_similarity_is_their_cosine(pool: Filtered) -> None:
    for index in range(3):
        table = pool.survivors.embeddings.read(index)
        image, text = (matrix(table[f"clip.{tower}"]).astype(np.float64) for tower in ("image", "text"))
        assert np.linalg.norm(image, axis=1) == pytest.approx(1, abs=2e-3)
        assert np.linalg.norm(matrix(table["dino.image"]).astype(float), axis=1) == pytest.approx(1, abs=2e-3)
        expected = (image * text).sum(axis=1).astype(np.float32)
        assert column(table, "clip.similarity").tolist() == expected.tolist()
        assert matrix(table["clip.image"]).dtype == np.float16


def test_ranges_cut_the_samples_out_of_the_tar(pool: Filtered) -> None:
    content = Path(pool.run.shards[1].url).read_bytes()
    for row in pool.survivors.embeddings.read(1).to_pylist():
        assert content[row["offset"] : row["offset"] + len(row["key"])] == row["key"].encode()
        assert row["size"] % 512 == 0
        assert row["extra_ranges"] == []


def test_a_changed_shard_redoes_only_that_shard(tmp_path: Path) -> None:
    urls = tuple(write_tar(tmp_path / f"pool/{i}.tar", entries(10 * i, 7, broken=i == 1)) for i in range(3))
    first = embed(tmp_path, urls)
    write_tar(tmp_path / "pool/2.tar", entries(50, 3, broken=False))
    second = embed(tmp_path, urls)
    assert second.artifact("embeddings") != first.artifact("embeddings")
    assert second.steps[0].report["adopted"] == 2
    one, two = (pool.survivors.embeddings for pool in (first, second))
    for index in range(2):
        assert Path(one.shard(index)).read_bytes() == Path(two.shard(index)).read_bytes()
        assert read_rejects(one, index).equals(read_rejects(two, index))
    assert two.read(2).num_rows == 3


def test_what_only_says_how_to_run_makes_the_same_artifact(tmp_path: Path) -> None:
    pool, reader = artifact_of(PoolStage(()), "s"), Webdataset()
    encoders = {"clip": tiny_clip(tmp_path / "a")}
    base = artifact_of(Embeddings.of(pool, reader, encoders, Encoding(), Needs()), "s")

    def other(encoding: Encoding = ENCODING, needs: Needs = NEEDS, folder: str = "a", name: str = "clip") -> bool:
        stage = Embeddings.of(pool, reader, {name: tiny_clip(tmp_path / folder)}, encoding, needs)
        return artifact_of(stage, "s") != base

    assert not other(Encoding(decode_threads=3), Needs(cpus=2, retries=5))
    assert not other(Encoding(precision="fp32", device="cpu"))
    assert not other(folder="moved")
    assert other(Encoding(batch_size=8))
    assert other(Encoding(preprocess="fast"))
    assert other(Encoding(precision="bf16"))
    assert other(needs=Needs(gpus=1))
    assert other(name="clip2")


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
    stored = pool.survivors.embeddings
    good = [i for i in range(20) if i != 2]
    tables = [stored.read(index) for index in range(3)]
    assert all(not {"image", "text", f"{name}.image"} & set(table.column_names) for table in tables)
    found = {row["uid"]: row for table in tables for row in table.to_pylist()}
    assert list(found) == [samples.uid[i] for i in good]
    similarity = [found[samples.uid[i]][f"{name}.similarity"] for i in good]
    assert similarity == pytest.approx(samples.cosine[good], abs=1e-6)
    assert [found[samples.uid[i]]["caption"] for i in good] == [samples.caption[i] for i in good]
    assert read_rejects(stored, 0)["kind"].to_pylist() == ["vector-zero"]
    assert pool.survivors.pool_count() == 20
    rows = np.array([0, 2, 4])
    vectors = pool.survivors.vectors(0, pool.run.shards[0].url, name, "image", rows)
    assert vectors.tolist() == samples.image[[0, 3, 5]].tolist()


def test_a_precomputed_pool_without_text_has_no_similarity(tmp_path: Path) -> None:
    samples = Samples.drawn(6)
    pool = filtered(samples, shards=2)
    reader = Vectors(image="image", text=None)
    bare = opened(tuple(shard.url for shard in pool.run.shards), reader)
    assert "vectors.similarity" not in bare.survivors.embeddings.columns(0)
    assert bare.kept == samples.uid


def test_a_shard_of_rejects_alone(tmp_path: Path) -> None:
    samples = Samples.drawn(6)
    samples.image[:3] = np.nan
    pool = filtered(samples, shards=2)
    assert pool.kept == samples.uid[3:]
    assert read_rejects(pool.survivors.embeddings, 0)["kind"].to_pylist() == ["vector-not-finite"] * 3
    assert "clip.similarity" in pool.survivors.embeddings.columns(0)


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
    made = pool.survivors.embeddings
    names = [[storage.name_of(found.url) for found in storage.listing(url)] for url in (made.folder, made.meta_folder)]
    assert names == [
        ["00000.parquet", "00001.parquet", "00002.parquet"],
        ["_done.json", "_parts.json", "files.parquet"],
    ]
    assert (storage.folders(made.folder), storage.folders(made.meta_folder)) == ([], ["rejects"])


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
        return commit(out, item, *rest)  # type: ignore[arg-type]  # what embed gave

    monkeypatch.setattr("winnow.stages.embeddings.commit", ends_late)
    found = embed(tmp_path, urls, store="prefetched", reader=WaitsForNext(), needs=Needs(prefetch=True))
    assert sorted(committed) == [0, 1]
    for index in range(2):
        ours, theirs = (Path(made.survivors.embeddings.shard(index)) for made in (found, plain))
        assert ours.read_bytes() == theirs.read_bytes()
