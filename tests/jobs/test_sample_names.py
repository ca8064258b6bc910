"""What names a sample, told once by a run; rows that are no samples; and one name for a picture in two pools."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pools import jpeg, members, pair, read_tar, tiny_clip, unit, write_tar
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import JobResult, run_job
from winnow.jobs.verify.verify import verify_job
from winnow.pipeline.errors import RejectsError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.stages.cuts.contract.finished import RowSample

RAW = [bytes([n + 1]) * 16 for n in range(6)]


def ran(folder: Path, pool: dict[str, Any], images: bool = True, **more: Any) -> tuple[JobResult, list[str]]:
    """A job over the pool that keeps everything unless `more` says else, and what it says."""
    clip = tiny_clip(folder)
    values = {
        "name": "names",
        "store": str(folder / "store"),
        "pool": pool,
        "policy": [{"random": {"fraction": 1.0}}],
        **({"embeddings": {"clip": {"model": clip.model, "pretrained": "random"}}} if images else {}),
        **({"shards": {"samples_per_shard": 100}} if images else {}),
        **more,
    }
    said: list[str] = []
    return run_job(parse(values), LocalExecutor(1), said.append), said


def uids(result: JobResult) -> list[str]:
    return pq.read_table(result.path.manifest.shard(0))["uid"].to_pylist()


def faults(result: JobResult) -> list[str]:
    """What `winnow verify` finds wrong."""
    return [
        str(line) for line in verify_job(result.job.store, "names", LocalExecutor(1), RowSample(None)) if not line.holds
    ]


def told(said: list[str]) -> str:
    """The one line about uids."""
    [line] = [line for line in said if line.startswith("uids ")]
    return line.removeprefix("uids").strip()


def test_links_that_were_dead_count_for_no_limit_and_no_fraction(tmp_path: Path) -> None:
    dead = [0, 4, 5, 9]
    columns: dict[str, Any] = {
        "key": [f"{n:09d}" for n in range(12)],
        "jpg": [None if n in dead else jpeg(n) for n in range(12)],
        "caption": [f"a picture of thing {n}" for n in range(12)],
        "status": ["failed_to_download" if n in dead else "success" for n in range(12)],
        "error_message": ["HTTP Error 404" if n in dead else None for n in range(12)],
    }
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
    pool = {"shards": f"{tmp_path}/*.parquet", "image": "jpg"}
    half = [{"random": {"fraction": 0.5, "of": "pool"}}]
    result, said = ran(tmp_path, pool, policy=half)
    assert result.counts == {
        "pool": 12,
        "kept": 4,
        "dropped": {"random": 4},
        "rejected": {"not-downloaded": 4},
    }
    assert told(said) == "8 by a hash of image and caption"
    assert faults(result) == []
    columns["jpg"][1] = None  # said to be there, and is not: that is a fault, of one in eight
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
    with pytest.raises(RejectsError, match=r"1 of 8 samples are rejected, 12\.50%"):
        ran(tmp_path, pool, policy=half)


@pytest.mark.parametrize("format", ["parquet", "vectors", "clip-retrieval"])
@pytest.mark.parametrize(
    "column",
    [
        pa.array(RAW, pa.uuid()),
        pa.array(RAW, pa.binary()),
        pa.array(RAW, pa.large_binary()),
        pa.array(RAW, pa.binary_view()),
        pa.array(RAW, pa.binary(16)),
        pa.array([raw.hex().encode() for raw in RAW]),
        pa.array([raw.hex() for raw in RAW], pa.string_view()),
        pa.array([raw.hex().upper() for raw in RAW], pa.large_string()),
        pa.array([str(UUID(bytes=raw)) for raw in RAW]),
        pa.array([str(UUID(bytes=raw)).upper() for raw in RAW]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_a_uid_is_read_however_it_is_stored(tmp_path: Path, format: str, column: pa.Array) -> None:
    images = format == "parquet"
    facts = {"caption": [f"a picture {n}" for n in range(6)], "uid": column}
    url = tmp_path / "metadata/metadata_0.parquet"
    url.parent.mkdir()
    (tmp_path / "img_emb").mkdir()
    np.save(tmp_path / "img_emb/img_emb_0.npy", unit(6, 8))
    pool: dict[str, Any] = {"shards": str(url), "format": format}
    if format == "clip-retrieval":
        pool["text"] = False
    else:
        facts["image"] = [jpeg(n) for n in range(6)] if images else list(unit(6, 8))
    pq.write_table(pa.table(facts), url)
    for uid in ("auto", "uid"):
        result, said = ran(tmp_path, {**pool, "uid": uid}, images)
        assert uids(result) == [raw.hex() for raw in RAW]
        assert told(said) == "6 by column uid"


def test_rows_without_a_uid_of_their_own_are_told(tmp_path: Path) -> None:
    columns = {
        "image": [jpeg(n) for n in range(4)],
        "caption": ["a picture"] * 4,
        "uid": [RAW[0].hex(), None, "12", "13"],
    }
    pq.write_table(pa.table(columns), tmp_path / "0.parquet")
    pool = {"shards": f"{tmp_path}/0.parquet"}
    _, said = ran(tmp_path, pool)
    hashed = "a hash of image and caption"
    other = f"{hashed}, where uid is filled with other than 32 hex digits or 16 bytes"
    assert told(said) == f"1 by {hashed}; 2 by {other}; 1 by column uid"
    _, again = ran(tmp_path, pool)
    assert told(again) == told(said)


@pytest.mark.parametrize(("tars", "vectors"), [("key", "image_path"), ("json:key", "key"), ("json:sha256", "sha256")])
def test_vectors_of_clip_retrieval_and_the_tars_that_they_came_from_have_one_uid(
    tmp_path: Path, tars: str, vectors: str
) -> None:
    samples = [(f"{n:09d}", pair(n, f"a picture {n}", key=f"{n:09d}", sha256=f"{n:064x}", uid=None)) for n in range(6)]
    write_tar(tmp_path / "00000.tar", members(samples))
    for folder in ("metadata", "img_emb"):
        (tmp_path / folder).mkdir()
    facts = [json.loads(parts["json"]) for _, parts in samples]
    table = {name: [fact[name] for fact in facts] for name in ("key", "sha256")}
    url = tmp_path / "metadata/metadata_0.parquet"
    pq.write_table(pa.table({"image_path": [key for key, _ in samples], **table}), url)
    np.save(tmp_path / "img_emb/img_emb_0.npy", unit(6, 8))
    pool = {"shards": str(url), "format": "clip-retrieval", "text": False, "uid": vectors}
    from_vectors, _ = ran(tmp_path, pool, images=False, policy=[{"random": {"count": 3}}])
    from_tars, said = ran(tmp_path, {"shards": f"{tmp_path}/00000.tar", "uid": tars})
    assert uids(from_tars) == uids(from_vectors)
    assert len(set(uids(from_tars))) == 6
    assert told(said) == f"6 by {tars}"
    assert faults(from_tars) == []
    stays = np.load(from_vectors.path.manifest.meta("uids.npy"))
    names = [f"{high:016x}{low:016x}" for high, low in stays.tolist()]
    pq.write_table(pa.table({"uid": names, "stays": [1.0] * len(names)}), tmp_path / "stays.parquet")
    score = {"from": f"{tmp_path}/stays.parquet", "column": "stays", "threshold": 0, "missing": "drop"}
    cut, _ = ran(tmp_path, {"shards": f"{tmp_path}/00000.tar", "uid": tars}, policy=[{"score": score}])
    assert cut.path.shards is not None
    written = {name.partition(".")[0] for name, _ in read_tar(cut.path.shards.file("00000.tar"))}
    kept = pq.read_table(from_vectors.path.manifest.shard(0)).filter(pa.compute.field("kept"))
    assert written == set(kept["key"].to_pylist())
    assert len(written) == 3
