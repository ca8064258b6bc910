"""What a job's inputs are: an empty shard is passed over, one that cannot be read is told, all of them end the run."""

from pathlib import Path

import numpy as np
import pytest

from tests.pools import Samples, jpeg, members, tiny_clip, write_clip_retrieval, write_tar, write_vectors
from winnow.jobs.job_file.job import Job, parse
from winnow.jobs.plan.inputs import look_at_inputs
from winnow.jobs.run import laid_out
from winnow.pipeline.errors import PoolError


def job_of(folder: Path, *shards: str) -> Job:
    tiny = tiny_clip(folder)
    values = {"name": "j", "store": str(folder / "store"), "pool": {"shards": list(shards)}}
    return parse({**values, "embeddings": {"clip": {"model": tiny.model, "pretrained": "random"}}})


def test_an_empty_shard_is_passed_over(tmp_path: Path) -> None:
    empty = write_tar(tmp_path / "0.tar", [])
    full = write_tar(tmp_path / "1.tar", members([("a", {"jpg": jpeg(0), "txt": b"a red car"})]))
    job = job_of(tmp_path, empty, full)
    seen = look_at_inputs(job, *laid_out(job))
    assert seen.first is not None
    assert (seen.first.url, seen.first.first["caption"]) == (full, "a red car")
    pool, sample, model = seen.lines()
    assert pool.startswith("pool       2 shards, ")
    assert sample.startswith("sample     key a, 'a red car', 40 \u00d7 40, uid from ")
    assert model == "clip       tiny.json, random weights"


def test_a_shard_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    broken = str(tmp_path / "0.tar")
    full = write_tar(tmp_path / "1.tar", members([("a", {"jpg": jpeg(0), "txt": b"a red car"})]))
    job = job_of(tmp_path, broken, full)
    seen = look_at_inputs(job, *laid_out(job))
    assert seen.first is None
    assert seen.unread is not None
    assert "it begins like a gzip file" in seen.unread
    alone = job_of(tmp_path, broken)
    with pytest.raises(PoolError, match="it begins like a gzip file"):
        look_at_inputs(alone, *laid_out(alone))


def test_a_head_that_proves_nothing_is_told_so(tmp_path: Path) -> None:
    bad = write_tar(tmp_path / "0.tar", members([("a", {"jpg": jpeg(0)})]))
    full = write_tar(tmp_path / "1.tar", members([("a", {"jpg": jpeg(0), "txt": b"a red car"})]))
    job = job_of(tmp_path, bad, full)
    [pool, _] = look_at_inputs(job, *laid_out(job)).lines()
    assert (
        "of the first 1 samples of a shard, 1 cannot be read, but others may be readable, which the run will show\n"
        in pool
    )


def test_what_is_done_is_not_looked_at_again(tmp_path: Path) -> None:
    from winnow.jobs.run import run_job
    from winnow.pipeline.executors.local import LocalExecutor

    [url] = write_vectors(str(tmp_path / "pool"), Samples.drawn(9))
    values = {"name": "j", "store": str(tmp_path / "store"), "pool": {"shards": url, "format": "vectors"}}
    job = parse(values)
    run_job(job, LocalExecutor(1), lambda _: None)
    assert look_at_inputs(job, *laid_out(job), again=False).first is None
    assert look_at_inputs(job, *laid_out(job)).first is not None


def test_vectors_that_no_cut_reads_must_be_vectors_in_some_shard(tmp_path: Path) -> None:
    shards = list(write_clip_retrieval(tmp_path / "pool", Samples.drawn(9), 2))
    job = parse({"name": "j", "store": str(tmp_path / "store"), "pool": {"shards": shards, "format": "clip-retrieval"}})
    for number in range(2):
        look_at_inputs(job, *laid_out(job))
        np.save(tmp_path / f"pool/img_emb/img_emb_{number}.npy", np.zeros((9, 8), "V2"))
    with pytest.raises(PoolError, match="V2 is most likely bfloat16"):
        look_at_inputs(job, *laid_out(job))
