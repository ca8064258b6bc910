"""A pool that grows, shrinks and renames its shards: what is embedded anew, and that the result is exact."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pools import Samples, write_vectors
from winnow.jobs import finished_job
from winnow.jobs.job_file.job import Job, parse
from winnow.jobs.run import JobResult, run_job
from winnow.jobs.verify.finished import RowSample
from winnow.jobs.verify.verify import verify_job
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.executors.local import LocalExecutor

POLICY: list[dict[str, Any]] = [
    {"rules": {"min_words": 3}},
    {"duplicates": {"by": "clip", "exact": False, "epsilon": 0.05, "clusters": 4}},
    {"density": {"by": "clip", "fraction": 0.5, "clusters": 4}},
]


def job_of(
    folder: Path, store: str = "store", name: str = "grown", policy: list[dict[str, Any]] = POLICY, **more: Any
) -> Job:
    vectors = {"format": "vectors", "image": "image", "text": "text", "encoder": "clip"}
    pool = {"shards": f"{folder}/pool/*.parquet", **vectors, **more}
    return parse({"name": name, "store": str(folder / store), "pool": pool, "policy": policy})


def ran(job: Job) -> JobResult:
    return run_job(job, LocalExecutor(2), lambda line: None)


def embedded(result: JobResult) -> Artifact:
    return dict(result.steps)["samples"].artifact


def bytes_of(artifact: Artifact) -> list[str]:
    """A hash of every data file, and of uids.npy."""
    urls = [*(artifact.shard(index) for index in sorted(artifact.present())), artifact.meta("uids.npy")]
    return [hashlib.sha256(storage.read_bytes(url)).hexdigest() for url in urls if storage.exists(url)]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Seven shards of 30 samples."""
    write_vectors(str(tmp_path / "pool"), Samples.drawn(210, seed=2), 7)
    return tmp_path


def changed(pool: Path) -> None:
    """One shard is added, one removed, two change their names, one of them to the front."""
    folder = pool / "pool"
    [added] = write_vectors(str(pool / "new"), Samples.drawn(30, seed=8))
    shutil.move(added, folder / "00003a.parquet")
    os.remove(folder / "00005.parquet")
    os.rename(folder / "00001.parquet", folder / "000000.parquet")
    os.rename(folder / "00006.parquet", folder / "z.parquet")


def test_the_result_is_that_of_a_fresh_store_and_only_the_new_shard_is_made(pool: Path) -> None:
    ran(job_of(pool))
    changed(pool)
    grown, fresh = ran(job_of(pool)), ran(job_of(pool, "fresh"))
    assert dict(grown.steps)["samples"].report["adopted"] == 6
    assert [storage.name_of(found.url) for found in storage.listing(embedded(grown).folder)] == ["00004.parquet"]
    assert bytes_of(grown.path.manifest) == bytes_of(fresh.path.manifest)
    assert bytes_of(embedded(grown)) == bytes_of(embedded(fresh))
    assert grown.counts == fresh.counts
    checks = verify_job(str(pool / "store"), "grown", LocalExecutor(2), RowSample(None))
    assert [line.check for line in checks if not line.holds] == []


def test_other_programs_find_every_file_in_the_list(pool: Path) -> None:
    ran(job_of(pool))
    changed(pool)
    ran(job_of(pool))
    job = finished_job.open(str(pool / "store"), "grown")
    files = job.files("samples")
    assert len(files) == 7
    assert {storage.parent_of(url) for url in files} > {job.artifacts["samples"]}
    assert job.dataset("samples").count_rows() == job.counts["pool"] == 210
    listed = f"{job.artifacts['samples']}.meta/files.parquet"
    sql = f"SELECT '{job.store}/' || file FROM '{listed}' ORDER BY shard"
    assert [url for (url,) in duckdb.sql(sql).fetchall()] == files
    assert pl.scan_parquet(files).select(pl.len()).collect().item() == 210
    assert [storage.parent_of(url) for url in job.files("manifest")] == [job.artifacts["manifest"]] * 7


def test_a_field_whose_type_grows_wider_is_made_again_and_the_old_one_stays(pool: Path) -> None:
    for number, path in enumerate(sorted((pool / "pool").iterdir())):
        table = pq.read_table(path)
        whole = [number] * len(table)
        pq.write_table(table.append_column("score", pa.array(whole if number < 6 else [0.5] * len(table))), path)
    last = (pool / "pool/00006.parquet").rename(pool / "last.parquet")
    policy: list[dict[str, Any]] = [{"rules": {"min_words": 3}}]
    first = ran(job_of(pool, name="first", policy=policy, fields={"score": "score"}))
    [field] = [step.artifact for _, step in first.steps if step.artifact.stage == "field"]
    before = bytes_of(field)
    last.rename(pool / "pool/00006.parquet")
    grown = ran(job_of(pool, policy=policy, fields={"score": "score"}))
    fresh = ran(job_of(pool, "fresh", policy=policy, fields={"score": "score"}))
    assert bytes_of(grown.path.manifest) == bytes_of(fresh.path.manifest)
    assert bytes_of(field) == before
    assert all(step.reused for _, step in ran(job_of(pool, policy=policy, fields={"score": "score"})).steps)
    checks = verify_job(str(pool / "store"), "grown", LocalExecutor(2), RowSample(None))
    assert [line.check for line in checks if not line.holds] == []
