"""A pool file that changes between two stages: refused by name wherever it is opened again, on any storage."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.pools import READER, Filtered, Samples, opened, write_datacomp, write_vectors
from winnow.pipeline import storage
from winnow.pipeline.errors import FailedShards, ShardError, StorageError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import Run, artifact_of, execute
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.pool import Pool, PoolStage
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.unchanged import check_unchanged
from winnow.stages.samples import Samples as SamplesStage

ROWS = np.arange(3)
STAYS = "must stay as it was when the run listed it, but is another file now, of "


def check(pool: Filtered, index: int, reader: Reader = READER) -> None:
    check_unchanged(pool.survivors.samples, index, pool.run.shards[index].url, reader)


@pytest.fixture(params=["local", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_store')}/{uuid.uuid4().hex}"
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_what_a_stage_opens_again_must_be_what_was_listed(root: str) -> None:
    urls = write_vectors(f"{root}/pool", Samples.drawn(9), 3)
    pool = opened(urls, store=f"{root}/store")
    for index in range(3):
        check(pool, index)
    storage.write_bytes(urls[1], storage.read_bytes(urls[0]) + b" ")
    check(pool, 0)
    with pytest.raises(ShardError, match=rf"00001\.parquet {STAYS}"):
        check(pool, 1)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    urls = write_vectors(str(tmp_path / "pool"), Samples.drawn(9), 3)
    pool = opened(urls, store=str(tmp_path / "store"))
    Path(urls[2]).unlink()
    with pytest.raises(StorageError, match=r"cannot read .*00002\.parquet: there is no such file"):
        check(pool, 2)


@pytest.mark.parametrize("part", ["parquet", "npz"])
def test_survivors_read_no_vector_of_a_changed_shard(tmp_path: Path, part: str) -> None:
    reader = Datacomp(use=("l14",))
    urls = write_datacomp(tmp_path / "pool", Samples.drawn(9), 3)
    pool = opened(urls, reader, str(tmp_path / "store"))
    survivors = pool.survivors
    before = survivors.vectors(1, urls[1], "l14", "image", ROWS)
    changed = Path(urls[1]).with_suffix(f".{part}")
    time = changed.stat().st_mtime_ns
    os.utime(changed, ns=(time, time + 10_000_000))
    reads: list[Callable[[], object]] = [
        lambda: survivors.vectors(1, urls[1], "l14", "image", ROWS),
        lambda: list(survivors.blocks(1, urls[1], "l14", "image", ROWS)),
    ]
    for read in reads:
        with pytest.raises(ShardError, match=rf"00001\.parquet {STAYS}"):
            read()
    os.utime(changed, ns=(time, time))
    assert np.array_equal(survivors.vectors(1, urls[1], "l14", "image", ROWS), before)


def test_a_shard_that_changes_before_it_is_embedded_is_refused_and_the_next_run_reads_it(tmp_path: Path) -> None:
    samples = Samples.drawn(9)
    urls = write_vectors(str(tmp_path / "pool"), samples, 3)
    store = str(tmp_path / "store")
    shards = Pool(urls, READER).identities()
    write_vectors(str(tmp_path / "pool"), samples.take([5, 4, 3]), 1)  # over the first shard
    with pytest.raises(FailedShards, match="1 of 3 failed") as error:
        execute(SamplesStage(artifact_of(PoolStage(shards), store), READER, None), Run(store, LocalExecutor(1), shards))
    assert STAYS in error.value.failures[0][1]
    pool = opened(urls, store=store)
    assert pool.steps[0].report["adopted"] == 2
    assert pool.kept[:3] == [samples.uid[n] for n in (5, 4, 3)]
