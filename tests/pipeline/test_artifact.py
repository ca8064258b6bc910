"""A stage's folder: tables with their summaries, what is there and what is done, and files that are torn."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from winnow.pipeline import storage
from winnow.pipeline.artifact import (
    DONE,
    Artifact,
    array_if_whole,
    is_artifact,
    json_if_whole,
    read_json,
    read_summary,
    read_table,
    shard_name,
    write_json,
    write_table,
)
from winnow.pipeline.columns import matrix, vector_column
from winnow.pipeline.errors import StorageError, TornError

TABLE = pa.table({"row": [0, 1, 2], "caption": ["a", None, "c"]})


@pytest.fixture
def artifact(tmp_path) -> Artifact:
    return Artifact(str(tmp_path), "embeddings", "3fa2c17bb71c2af3")


def test_names_follow_from_stage_and_fingerprint():
    artifact = Artifact("s3://bucket/store/", "embeddings", "3fa2c17bb71c2af3", refers=False)
    assert artifact.name == "embeddings-3fa2c17bb71c2af3"
    assert artifact.folder == "s3://bucket/store/embeddings-3fa2c17bb71c2af3"
    assert artifact.shard(7) == "s3://bucket/store/embeddings-3fa2c17bb71c2af3/00007.parquet"
    assert shard_name(123_456, ".tar") == "123456.tar"


def test_nothing_is_there_before_it_is_made(artifact):
    assert artifact.present() == set()
    assert artifact.done() is None
    assert not storage.exists(artifact.folder)


def test_a_table_comes_back_with_its_summary(artifact):
    artifact.write(3, TABLE, {"rows": 3, "kinds": {"decode": 1}})
    assert artifact.read(3).equals(TABLE)
    assert artifact.read(3, ["caption"]).equals(TABLE.select(["caption"]))
    assert artifact.read(3, []).num_columns == 0
    assert artifact.columns(3) == ["row", "caption"]
    assert artifact.summary(3) == {"rows": 3, "kinds": {"decode": 1}}


def test_a_table_without_summary_has_none(tmp_path):
    url = str(tmp_path / "table.parquet")
    write_table(url, TABLE)
    assert read_table(url).equals(TABLE)
    assert read_summary(url) == {}


@pytest.mark.parametrize("rows", [0, 5])
def test_vectors_keep_their_bits(artifact, rows):
    vectors = np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float16)
    artifact.write(0, pa.table({"image": vector_column(vectors), "row": np.arange(rows)}), {})
    assert np.array_equal(matrix(artifact.read(0, ["image"])["image"]), vectors)


def test_equal_tables_make_equal_bytes(artifact):
    for index in (0, 1):
        artifact.write(index, TABLE, {"b": 1, "a": 2} if index else {"a": 2, "b": 1})
    assert storage.read_bytes(artifact.shard(0)) == storage.read_bytes(artifact.shard(1))


def test_present_is_the_shards_alone(artifact):
    for index in (0, 2, 123_456):
        artifact.write(index, TABLE, {})
    for name in ("size.parquet", ".00003.parquet.tmp", "00004.tar"):
        storage.write_bytes(artifact.file(name), b"")
    for name in ("centroids.npy", "rejects/00001.parquet", "00005.parquet"):
        storage.write_bytes(artifact.meta(name), b"")
    assert artifact.present() == {0, 2, 123_456}
    assert artifact.present(".tar") == {4}


def test_done_is_what_finish_said(artifact):
    artifact.finish({"rows": 3})
    assert artifact.done() == {"rows": 3}
    assert storage.read_bytes(artifact.meta(DONE)) == b'{\n  "rows": 3\n}\n'


def test_json_comes_back(tmp_path):
    url = str(tmp_path / "a" / "b.json")
    write_json(url, {"name": "größe", "list": [1, 2.5, None]})
    assert read_json(url) == {"name": "größe", "list": [1, 2.5, None]}


def test_a_missing_shard_is_named(artifact):
    for read in (artifact.read, artifact.summary, artifact.columns):
        with pytest.raises(StorageError, match=r"cannot read .*00009\.parquet: there is no such file"):
            read(9)


@pytest.mark.parametrize("damage", ["empty", "short", "page"])
def test_a_torn_file_is_named_with_what_to_do(artifact, damage):
    artifact.write(0, pa.table({"v": np.random.default_rng(0).integers(0, 9, 50_000)}), {})
    data = bytearray(storage.read_bytes(artifact.shard(0)))
    damaged = {"empty": b"", "short": data[: len(data) // 2], "page": data[:100] + bytes(2000) + data[2100:]}
    storage.write_bytes(artifact.shard(0), bytes(damaged[damage]))
    with pytest.raises(TornError, match=r"00000\.parquet must be a whole parquet file: .*delete it"):
        artifact.read(0)
    # the footer of a file with a bad page is whole; `winnow verify` reads the pages
    assert artifact.summary_if_whole(0) == ({} if damage == "page" else None)


@pytest.mark.parametrize("content", [b"", b'{\n  "rows": 3,', b"[1]", b"\xff"])
def test_torn_json_is_named_or_counts_as_not_there(artifact, content):
    storage.write_bytes(artifact.meta(DONE), content)
    with pytest.raises(TornError, match=r"_done\.json must be a whole JSON file: .*delete it"):
        read_json(artifact.meta(DONE))
    assert artifact.done() is None
    assert json_if_whole(artifact.meta("none.json")) is None


@pytest.mark.parametrize("damage", [None, b"", b"PAR1 cut off"])
def test_a_shard_is_whole_with_its_rejects(artifact, damage):
    summary = {"rejects": {"no-image": 2}}
    write_table(artifact.rejects(4), TABLE)
    artifact.write(4, TABLE, summary)
    report = {"rejects": {"no-image": 2}, "files": artifact.weight(summary)}
    assert report["files"]["count"] == 2
    assert artifact.summary_if_whole(4) == summary
    assert artifact.holds(report)
    if damage is None:
        Path(artifact.rejects(4).removeprefix("file://")).unlink()
    else:
        storage.write_bytes(artifact.rejects(4), damage)
    assert artifact.summary_if_whole(4) is None
    assert not artifact.holds(report)


@pytest.mark.parametrize("keep", [0, 60, 200])
def test_an_array_that_is_torn_counts_as_not_there(artifact, keep):
    url = artifact.meta("centroids.npy")
    assert array_if_whole(url) is None
    buffer = io.BytesIO()
    np.save(buffer, np.arange(40.0).reshape(8, 5))
    storage.write_bytes(url, buffer.getvalue())
    assert np.array_equal(array_if_whole(url), np.arange(40.0).reshape(8, 5))
    storage.write_bytes(url, buffer.getvalue()[:keep])
    assert array_if_whole(url) is None


def test_a_folder_weighs_what_it_did_until_a_file_is_lost_or_torn(artifact):
    for index in range(3):
        artifact.write(index, TABLE, {})
    done = {"rows": 9, "files": artifact.weight({})}
    assert done["files"]["count"] == 3
    artifact.finish(done)
    storage.write_bytes(artifact.file(".00000.parquet.tmp"), b"half")
    assert artifact.holds(done)
    assert artifact.holds({"rows": 9})  # of a version that did not weigh
    whole = storage.read_bytes(artifact.shard(1))
    storage.write_bytes(artifact.shard(1), whole[:-1])
    assert not artifact.holds(done)
    storage.write_bytes(artifact.shard(1), whole)
    assert artifact.holds(done)
    storage.write_bytes(artifact.meta("uids.npy"), b"of the whole")
    assert not artifact.holds(done)
    os.remove(artifact.meta("uids.npy"))
    os.remove(artifact.shard(2))
    assert not artifact.holds(done)


def test_an_artifact_is_known_by_its_name():
    assert is_artifact("embeddings-3fa2c17bb71c2af3")
    assert not any(
        is_artifact(name)
        for name in (
            "jobs",
            "embeddings",
            "a-3fa2c17bb71c2af",
            "a-3fa2c17bb71c2af39",
            "-3fa2c17bb71c2af3",
            "a-3fa2c17bb71c2af3.meta",
        )
    )
