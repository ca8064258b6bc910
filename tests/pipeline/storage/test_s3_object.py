"""Objects of a real S3 server: known by one request, read as one version, refused as soon as they are another."""

import os
from io import SEEK_END

import numpy as np
import pyarrow as pa
import pytest

from tests.faults import FaultyProxy
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_table, write_table
from winnow.pipeline.columns import vector_column
from winnow.pipeline.errors import StorageError
from winnow.pipeline.storage.s3_object import TAIL_BYTES, one_version

SMALL, LONG = os.urandom(10_000), os.urandom(3 * TAIL_BYTES)


@pytest.fixture
def url(s3_store: str, counted: FaultyProxy, request: pytest.FixtureRequest) -> str:
    """Where nothing is yet; every request is counted."""
    return storage.join(s3_store, "objects", request.node.name.replace("[", "-").strip("]"))


def put(url: str, content: bytes, counted: FaultyProxy) -> None:
    storage.write_bytes(url, content)
    counted.requests.clear()


@pytest.mark.parametrize(("content", "requests"), [(SMALL, 1), (LONG, 2)])
def test_a_file_is_opened_by_one_request_which_brings_its_end(url, counted, content, requests):
    put(url, content, counted)
    with storage.open_read(url) as file:
        assert file.seek(0, SEEK_END) == len(content)
        file.seek(-100, SEEK_END)
        assert file.read() == content[-100:]
        assert counted.requests == {"GET object": 1}
        file.seek(0)
        assert file.read() == content
    assert counted.requests == {"GET object": requests}
    assert storage.read_bytes(url) == content
    assert counted.requests == {"GET object": requests + 1}


def test_an_empty_object_is_empty_and_one_that_is_not_there_is_none(url, counted):
    put(url, b"", counted)
    with storage.open_read(url) as file:
        assert file.read() == b""
    assert storage.read_bytes(url) == b""
    assert storage.read_if_there(url) == b""
    counted.requests.clear()
    assert storage.read_if_there(url + ".none") is None
    assert counted.requests == {"GET object": 1}
    with pytest.raises(StorageError, match="there is no such file"):
        storage.open_read(url + ".none")


@pytest.mark.parametrize("other", [os.urandom(len(LONG)), SMALL], ids=["as-long", "shorter"])
def test_a_file_that_changes_while_it_is_read_is_refused(url, counted, other):
    put(url, LONG, counted)
    with storage.open_read(url) as file:
        storage.write_bytes(url, other)
        file.seek(-10, SEEK_END)
        assert file.read() == LONG[-10:]  # of the version that was opened
        file.seek(20_000)
        with pytest.raises(StorageError, match=r"must not change while it is read, but was replaced; run"):
            file.read(10)


def test_a_block_sees_one_version_of_a_file_and_asks_once_what_it_is(url, counted):
    put(url, SMALL, counted)
    with one_version():
        identity = storage.identity_of(url)
        with one_version():
            for _ in range(3):
                with storage.open_read(url) as file:
                    assert file.read() == SMALL
        assert storage.read_bytes(url) == SMALL
        assert counted.requests == {"GET object": 1}
    assert [identity] == storage.identify([url])
    assert storage.identity_of(url) == identity
    with one_version():
        assert storage.read_bytes(url) == SMALL
        storage.write_bytes(url, b"of this thread")
        assert storage.read_bytes(url) == b"of this thread"
        assert storage.identity_of(url) != identity


def test_a_block_refuses_what_was_changed_since_it_saw_it(url, counted):
    put(url, LONG, counted)
    with one_version():
        storage.identity_of(url)
        put_elsewhere(url)
        with pytest.raises(StorageError, match="was replaced; run again"):
            storage.read_bytes(url)
    assert storage.read_bytes(url) == SMALL


def put_elsewhere(url: str) -> None:
    """Another writer, of whom this thread knows nothing."""
    import boto3

    bucket, _, key = url.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=SMALL)


def test_some_columns_of_a_long_table_are_two_requests_and_a_short_table_is_one(url, counted):
    rows = 6_000
    vectors = np.random.default_rng(0).standard_normal((rows, 256)).astype(np.float16)
    noise = np.random.default_rng(1).standard_normal((3, rows))
    flat = dict(zip("abc", noise, strict=True))
    long = pa.table({"clip.image": vector_column(vectors), **flat, "clip.text": vector_column(vectors)})
    artifact = Artifact(url, "embeddings", "3fa2c17bb71c2af3")
    artifact.write(0, long, {"rows": rows})
    write_table(artifact.shard(1), long.select(["a"]), {})
    artifact.finish({})
    artifact.columns(1)  # a process looks once whether a finished artifact has files elsewhere
    for index, columns, requests in [(0, ["c", "a"], 2), (0, None, 2), (0, [], 1), (1, ["a"], 1)]:
        counted.requests.clear()
        expected = long.select(["a"] if index else columns if columns is not None else long.column_names)
        assert artifact.read(index, columns).equals(expected)
        assert counted.requests == {"GET object": requests}
    counted.requests.clear()
    assert artifact.summary(0) == {"rows": rows}
    assert counted.requests == {"GET object": 1}
    with pytest.raises(StorageError, match=r"must have columns \['z'\], but it has clip\.image, a, b, c, clip\.text"):
        read_table(artifact.shard(0), ["a", "z"])
