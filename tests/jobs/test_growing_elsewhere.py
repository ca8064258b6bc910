"""A pool that grows in a bucket and on Ray: a copied object is known by its etag; workers find files elsewhere."""

import uuid
from pathlib import Path

from tests.jobs.test_growing import POLICY, bytes_of
from tests.pools import Samples, write_vectors
from winnow.jobs.garbage.removal import remove_unneeded
from winnow.jobs.job_file.job import Job, parse
from winnow.jobs.run import run_job
from winnow.pipeline import storage
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor


def job_of(root: str, store: str) -> Job:
    vectors = {"format": "vectors", "image": "image", "text": "text", "encoder": "clip"}
    pool = {"shards": f"{root}/pool/*.parquet", **vectors}
    return parse({"name": "grown", "store": f"{root}/{store}", "pool": pool, "policy": POLICY})


def test_a_renamed_object_is_known_by_its_etag_and_a_removal_keeps_its_file(s3_store: str) -> None:
    root = storage.join(s3_store, uuid.uuid4().hex)
    write_vectors(f"{root}/pool", Samples.drawn(90, seed=2), 3)
    run_job(job_of(root, "store"), LocalExecutor(2), lambda line: None)
    storage.copy(f"{root}/pool/00000.parquet", f"{root}/pool/z.parquet")
    storage.remove([f"{root}/pool/00000.parquet"])
    grown = run_job(job_of(root, "store"), LocalExecutor(2), lambda line: None)
    fresh = run_job(job_of(root, "fresh"), LocalExecutor(2), lambda line: None)
    assert dict(grown.steps)["samples"].report["adopted"] == 3
    assert bytes_of(grown.path.manifest) == bytes_of(fresh.path.manifest)
    # the record of the same options is renewed, so nothing names what the first run left
    removed = remove_unneeded(f"{root}/store", 0)
    rumps = {one.name.partition("-")[0]: len(one.kept) for one in removed.unneeded if one.kept}
    assert rumps == {"samples": 3, "vectors": 3}, "the new samples and vectors have no folder of data at all"
    again = run_job(job_of(root, "store"), LocalExecutor(2), lambda line: None)
    assert all(step.reused for _, step in again.steps)


def test_both_executors_read_what_lies_in_other_artifacts(tmp_path: Path, executor: Executor) -> None:
    root = str(tmp_path)
    write_vectors(f"{root}/pool", Samples.drawn(90, seed=2), 3)
    run_job(job_of(root, "store"), executor, lambda line: None)
    storage.copy(*write_vectors(f"{root}/more", Samples.drawn(30, seed=8)), f"{root}/pool/00000a.parquet")
    grown = run_job(job_of(root, "store"), executor, lambda line: None)
    fresh = run_job(job_of(root, "fresh"), LocalExecutor(2), lambda line: None)
    assert dict(grown.steps)["samples"].report["adopted"] == 3
    assert bytes_of(grown.path.manifest) == bytes_of(fresh.path.manifest)
