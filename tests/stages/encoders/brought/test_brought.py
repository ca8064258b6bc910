"""Vectors of another program beside tars: which sample gets which vector, what is a reject, what is refused."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pools import ON_EACH, jpeg, members, pair, read_tar, write_parquet, write_tar
from winnow.jobs.job_file.job import Job, parse
from winnow.jobs.plan.inputs import look_at_inputs
from winnow.jobs.run import JobResult, laid_out, run_job
from winnow.jobs.verify.verify import verify_job
from winnow.jobs.why.explain import explain
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import matrix
from winnow.pipeline.errors import DataError, JobError, PoolError, RejectsError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.encoders.brought import vector_join, vector_parts
from winnow.stages.rejects import read_rejects

N, WIDTH = 60, 16
KEYS = [f"{n:05d}" for n in range(N)]
RNG = np.random.default_rng(3)
IMAGE, TEXT = (RNG.standard_normal((N, WIDTH)).astype(np.float32) for _ in range(2))
ORDER = RNG.permutation(N)
"""The order in which the other program wrote its vectors."""


def links(n: int) -> str:
    return f"http://x/{n}.jpg"


def tars(folder: Path, shards: int = 3, keys: Sequence[str] = KEYS) -> str:
    """Sample n has uid n + 1, key n and a url."""
    parts = [(key, pair(n, f"a caption of thing {n}", url=links(n))) for n, key in enumerate(keys)]
    for at in range(shards):
        some = parts[N * at // shards : N * (at + 1) // shards]
        write_tar(folder / f"pool-{shards}/{at:05d}.tar", members(some))
    return str(folder / f"pool-{shards}/*.tar")


def inference(
    folder: Path, rows: Sequence[int] = tuple(ORDER), files: int = 2, **columns: list[Any]
) -> Mapping[str, object]:
    """clip-retrieval's folders with the vectors of these samples, in this order."""
    for name in ("metadata", "img_emb", "text_emb"):
        (folder / name).mkdir(parents=True)
    told = {"image_path": [KEYS[n] for n in rows], "url": [links(n) for n in rows], **columns}
    for at, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        some = [rows[i] for i in part]
        table = {name: [values[i] for i in part] for name, values in told.items()}
        pq.write_table(
            pa.table({**table, "caption": ["words"] * len(part)}), folder / f"metadata/metadata_{at}.parquet"
        )
        np.save(folder / f"img_emb/img_emb_{at}.npy", IMAGE[some])
        np.save(folder / f"text_emb/text_emb_{at}.npy", TEXT[some])
    return {"shards": str(folder / "metadata/*.parquet"), "format": "clip-retrieval"}


def job(folder: Path, shards: str, clip: Mapping[str, object], **more: object) -> Job:
    values = {
        "name": "beside",
        "store": str(folder / "store"),
        "pool": {"shards": shards},
        "embeddings": {"clip": clip},
    }
    policy = [{"similarity": {"by": "clip", "fraction": 0.5}}]
    return parse({**values, "policy": policy, "shards": {"samples_per_shard": 10}, **more})


def done(made: Job, executor: Executor | None = None) -> tuple[JobResult, list[str]]:
    lines: list[str] = []
    return run_job(made, executor or LocalExecutor(2), lines.append), lines


def vectors_of(result: JobResult) -> Artifact:
    labels = {label: step.artifact for label, step in result.steps}
    return labels["vectors.clip"]


def cosines() -> np.ndarray:
    """Image-text cosines, float64 (n,)."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (IMAGE, TEXT)]
    return (unit[0] * unit[1]).sum(axis=1)


def kept_keys(made: Job) -> list[str]:
    written = Path(made.store).glob("shards-*/*.tar")
    return sorted(name.partition(".")[0] for tar in written for name, _ in read_tar(tar) if name.endswith(".jpg"))


BEST = sorted(KEYS[n] for n in np.argsort(-cosines())[: N // 2])


def test_the_vectors_cut_the_tars_and_no_model_runs(tmp_path: Path) -> None:
    made = job(tmp_path, tars(tmp_path), {"from": inference(tmp_path / "made"), "key": "image_path"})
    result, lines = done(made)
    assert kept_keys(made) == BEST
    assert any("60 vectors joined by key; 0 of them are of no sample" in line for line in lines)
    out, place = vectors_of(result), 0
    for index in range(3):
        for tower, known in (("image", IMAGE), ("text", TEXT)):
            stored = matrix(out.read(index, [tower])[tower])
            expected = known[place : place + len(stored)]
            expected = (expected / np.linalg.norm(expected, axis=1, keepdims=True)).astype(np.float32)
            assert stored.dtype == np.float16
            assert np.abs(stored - expected).max() < 1e-3
        place += len(stored)
    assert result.counts["rejected"] == {}
    assert all(check.holds for check in verify_job(made.store, made.name, LocalExecutor(2), RowSample(None)))


@pytest.mark.parametrize(("shards", "executor"), ON_EACH, indirect=["executor"])
def test_one_answer(tmp_path: Path, shards: int, executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(executor, LocalExecutor):  # several parts of a file, and several of the exchange
        monkeypatch.setattr(vector_parts, "_PART_BYTES", 7 * 4 * WIDTH)
        monkeypatch.setattr(vector_join, "_PART_BYTES", 3000)
    made = job(tmp_path, tars(tmp_path, shards), {"from": inference(tmp_path / "made"), "key": "image_path"})
    done(made, executor)
    assert kept_keys(made) == BEST


def test_no_torch(tmp_path: Path) -> None:
    made = job(tmp_path, tars(tmp_path), {"from": inference(tmp_path / "made"), "key": "image_path"})
    code = f"""
import json, sys
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.pipeline.executors.local import LocalExecutor
run_job(parse(json.loads({json.dumps(json.dumps(made.resolved))})), LocalExecutor(1), lambda line: None)
assert not {{"torch", "open_clip", "timm"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def by_uid(folder: Path) -> Mapping[str, object]:
    """DataComp's layout with two encoders."""
    folder.mkdir()
    uids = [f"{n + 1:032x}" for n in ORDER]
    pq.write_table(pa.table({"uid": uids, "text": ["words"] * N}), folder / "0.parquet")
    np.savez(folder / "0.npz", l14_img=IMAGE[ORDER], l14_txt=TEXT[ORDER], b32_img=TEXT[ORDER], b32_txt=TEXT[ORDER])
    return {"from": {"shards": str(folder / "*.parquet"), "format": "datacomp", "use": ["l14"]}}


def by_url(folder: Path) -> Mapping[str, object]:
    """A parquet file with columns of vectors."""
    columns = {"link": [f" {links(n)}" for n in ORDER], "image": list(IMAGE[ORDER]), "text": list(TEXT[ORDER])}
    write_parquet(str(folder / "0.parquet"), pa.table(columns))
    source = {"shards": str(folder), "format": "vectors", "image": "image", "text": "text"}
    return {"from": source, "url": "link"}


@pytest.mark.parametrize("clip", [by_uid, by_url])
def test_other_formats_and_names(tmp_path: Path, clip: Any) -> None:
    made = job(tmp_path, tars(tmp_path), clip(tmp_path / "made"))
    done(made)
    assert kept_keys(made) == BEST
    assert all(check.holds for check in verify_job(made.store, made.name, LocalExecutor(2), RowSample(None)))


def test_parquet_of_images_too(tmp_path: Path) -> None:
    rows = {"key": KEYS, "image": [jpeg(n) for n in range(N)], "caption": [f"caption {n}" for n in range(N)]}
    pool = write_parquet(str(tmp_path / "pool/0.parquet"), pa.table(rows))
    made = job(tmp_path, pool, {"from": inference(tmp_path / "made"), "key": "image_path"})
    result, _ = done(made)
    manifest = result.path.manifest.read(0, ["key", "kept"])
    assert sorted(manifest["key"].filter(manifest["kept"]).to_pylist()) == BEST


def test_keys_that_repeat_need_their_shard(tmp_path: Path) -> None:
    keys = [f"{n % 20:05d}" for n in range(N)]
    source = inference(
        tmp_path / "made", image_path=[keys[n] for n in ORDER], tar=[f"{n // 20:05d}.tar" for n in ORDER]
    )
    pool = tars(tmp_path, 3, keys)
    with pytest.raises(DataError, match=r"a key must belong to one sample, but 40 .*; name their shards by shard"):
        done(job(tmp_path, pool, {"from": source, "key": "image_path"}))
    made = job(tmp_path, pool, {"from": source, "key": "image_path", "shard": "tar"})
    result, _ = done(made)
    kept = [column for i in range(3) for column in result.path.manifest.read(i, ["uid", "kept"]).to_pylist()]
    assert sorted(KEYS[int(row["uid"], 16) - 1] for row in kept if row["kept"]) == BEST


def test_what_lacks_a_vector_is_a_reject_and_strangers_are_told(tmp_path: Path) -> None:
    rows = [n for n in ORDER.tolist() if n not in (7, 41)]
    zero = IMAGE.copy()
    source = inference(tmp_path / "made", rows, image_path=[KEYS[n] if n != 3 else "elsewhere" for n in rows])
    files = [tmp_path / f"made/img_emb/img_emb_{at}.npy" for at in range(2)]
    at = rows.index(12)
    zero = np.load(files[at // 29])
    zero[at % 29] = 0
    np.save(files[at // 29], zero)
    made = job(tmp_path, tars(tmp_path), {"from": source, "key": "image_path"}, limits={"max_reject_fraction": 0.07})
    result, lines = done(made)
    assert any("58 vectors joined by key; 1 of them are of no sample of the pool" in line for line in lines)
    assert result.counts["rejected"] == {"no-vector": 3, "vector-zero": 1}
    out = vectors_of(result)
    rejects = [row for i in range(3) for row in read_rejects(out, i).to_pylist()]
    assert [(row["key"], row["kind"]) for row in rejects] == [
        (KEYS[3], "no-vector"),
        (KEYS[7], "no-vector"),
        (KEYS[12], "vector-zero"),
        (KEYS[41], "no-vector"),
    ]
    assert all(check.holds for check in verify_job(made.store, made.name, LocalExecutor(2), RowSample(None)))
    told = explain(made.store, made.name, f"{42:032x}")
    assert "no-vector" in str(told)
    with pytest.raises(RejectsError, match="no-vector"):
        done(job(tmp_path, str(tmp_path / "pool-3/*.tar"), {"from": source, "key": "image_path"}))


def test_a_name_that_repeats_in_the_files_is_refused(tmp_path: Path) -> None:
    source = inference(tmp_path / "made", [*ORDER.tolist(), 5])
    made = job(tmp_path, tars(tmp_path), {"from": source, "key": "image_path"})
    with pytest.raises(
        DataError, match=r"must have one vector, but 1 rows repeat .* first '00005' in row 29 of .*_1\.p"
    ):
        done(made)


def test_nothing_in_common_shows_one_name_of_each(tmp_path: Path) -> None:
    source = inference(tmp_path / "made", image_path=[f"/data/{n}.jpg" for n in ORDER])
    made = job(tmp_path, tars(tmp_path), {"from": source, "key": "image_path"})
    with pytest.raises(DataError, match=rf"no key of the pool, such as '00000', .* has '/data/{ORDER[0]}\.jpg' first"):
        done(made)


def test_changed_files_make_another_artifact(tmp_path: Path) -> None:
    made = job(tmp_path, tars(tmp_path), {"from": inference(tmp_path / "made"), "key": "image_path"})
    first, _ = done(made)
    np.save(tmp_path / "made/img_emb/img_emb_0.npy", -IMAGE[ORDER[:30]])
    second, _ = done(made)
    names = [{label: step.artifact.name for label, step in result.steps} for result in (first, second)]
    assert names[0]["samples"] == names[1]["samples"]
    assert names[0]["vectors.clip"] != names[1]["vectors.clip"]


def test_verify_sees_another_vector_and_says_when_the_files_are_gone(tmp_path: Path) -> None:
    made = job(tmp_path, tars(tmp_path), {"from": inference(tmp_path / "made"), "key": "image_path"})
    result, _ = done(made)
    out = vectors_of(result)
    table = out.read(1)
    image = matrix(table["image"]).copy()
    image[[4, 5]] = image[[5, 4]]
    swapped = pa.FixedSizeListArray.from_arrays(pa.array(image.ravel()), WIDTH)
    pq.write_table(table.set_column(1, "image", swapped), out.shard(1))

    def brought() -> str:
        checks = verify_job(made.store, made.name, LocalExecutor(2), RowSample(None))
        return next(str(check) for check in checks if check.check == "brought")

    assert brought().startswith("NOT  brought: 60 vectors; 2 violations")
    (tmp_path / "made/img_emb/img_emb_0.npy").unlink()
    assert "are not what they were" in brought()


def test_plan_looks_at_the_files(tmp_path: Path) -> None:
    made = job(tmp_path, tars(tmp_path), {"from": inference(tmp_path / "made"), "key": "image_path"})
    look = look_at_inputs(made, *laid_out(made))
    told = "image and text vectors of 16 numbers by image_path, 30 rows in metadata_0.parquet and 1 more; no model runs"
    assert look.files["vectors.clip"] == told
    assert look.models == {}
    wrong = job(tmp_path, str(tmp_path / "pool-3/*.tar"), {"from": made.embeddings["clip"].source, "key": "name"})  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="must have a column name, but it has image_path, url, caption"):
        look_at_inputs(wrong, *laid_out(wrong))


def test_two_widths_are_refused(tmp_path: Path) -> None:
    source = inference(tmp_path / "made")
    for tower in ("img_emb", "text_emb"):
        np.save(tmp_path / f"made/{tower}/{tower}_1.npy", np.ones((30, 8), np.float32))
    with pytest.raises(PoolError, match="vectors of clip must have one width in all shards"):
        done(job(tmp_path, tars(tmp_path), {"from": source, "key": "image_path"}))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"from": {"shards": "x/*.tar"}}, "from must be a pool of vectors beside parquet files, but format webdataset"),
        (
            {"from": {"shards": "x.parquet", "format": "datacomp"}},
            "vectors of one encoder, but it has b32, l14; name one",
        ),
        (
            {"from": {"shards": "x.parquet", "format": "vectors", "imge": "v"}},
            r"clip\.from has no key 'imge'.*did you mean image",
        ),
        ({"from": {"shards": "x.parquet", "format": "npy"}}, r"clip\.from\.format must be one of"),
        ({"from": {"format": "vectors"}}, r"clip\.from\.shards must be a pattern"),
        ({"from": {"shards": "x.parquet", "format": "vectors"}, "shard": "tar"}, "shard needs key"),
        ({"from": {"shards": "x.parquet", "format": "vectors"}, "key": "k", "url": "u"}, "one of uid, key and url"),
        ({"from": "x.parquet"}, r"embeddings\.clip\.from must be a mapping"),
    ],
)
def test_wrong_options_say_what_is_right(tmp_path: Path, clip: Mapping[str, object], message: str) -> None:
    with pytest.raises(JobError, match=message):
        job(tmp_path, "pool/*.tar", clip)
