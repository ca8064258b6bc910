"""Whole jobs on planted pools: which samples survive, the ledger, equal bytes everywhere, and a kill in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests.pools import (
    Samples,
    jpeg,
    members,
    normed,
    pair,
    read_tar,
    tiny_clip,
    unit,
    write_clip_retrieval,
    write_datacomp,
    write_tar,
    write_vectors,
)
from winnow.jobs.job_file.job import Job, parse
from winnow.jobs.run import JobResult, laid_out, run_job, states_of
from winnow.jobs.verify.finished import RowSample
from winnow.jobs.verify.verify import verify_job
from winnow.pipeline.artifact import Artifact, is_artifact
from winnow.pipeline.errors import FailedShards, JobError, RejectsError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.uid import uids_from_hex
from winnow.stages.kernels.uid_hash import hash_values

ROOT = Path(__file__).parents[2]
USELESS, COPIES, BROKEN, ALL = range(12), range(12, 24), range(24, 30), 120


def planted(folder: Path, shards: int = 3) -> list[str]:
    """120 samples in another order: useless captions, copies of 30 to 41, unreadable files, and 90 sound ones."""
    samples = []
    for n in range(ALL):
        key = f"{n:04d}"
        members_of = pair(n, f"IMG_{n}" if n in USELESS else f"a picture of thing {n}")
        if n in COPIES:
            members_of["jpg"] = jpeg(n + 18)
        if n in BROKEN:
            members_of = {**members_of, "jpg": jpeg(n)[:150]} if n % 2 else {k: members_of[k] for k in ("jpg", "json")}
        samples.append((key, members_of))
    order = np.random.default_rng(5).permutation(ALL)
    parts = np.array_split(order, shards)
    return [write_tar(folder / f"{i:05d}.tar", members([samples[n] for n in part])) for i, part in enumerate(parts)]


def job_values(folder: Path, policy: list[dict[str, Any]], pool: str = "pool", **changes: Any) -> dict[str, Any]:
    clip = tiny_clip(folder)
    return {
        "name": "planted",
        "store": str(folder / "store"),
        "pool": {"shards": f"{folder}/{pool}/*.tar"},
        "embeddings": {"clip": {"model": clip.model, "pretrained": "random"}},
        "policy": policy,
        "shards": {"samples_per_shard": 20},
        **changes,
    }


PLANTED = [{"rules": {"min_words": 3}}, {"duplicates": {}}, {"random": {"fraction": 0.5, "seed": 1}}]
FULL = [
    {"rules": {"min_words": 3}},
    {"duplicates": {"by": "clip", "epsilon": 0.0005, "clusters": 3}},
    {"similarity": {"by": "clip", "fraction": 0.8}},
    {"similarity": {"by": "clip", "threshold": -2.0}},
    {"density": {"by": "clip", "fraction": 0.5, "clusters": 4}},
]


def done(job: Job, executor: Executor | None = None) -> tuple[JobResult, list[str]]:
    lines: list[str] = []
    return run_job(job, executor or LocalExecutor(2), lines.append), lines


def uids_of(result: JobResult) -> np.ndarray:
    found: np.ndarray = np.load(result.path.manifest.meta("uids.npy"), allow_pickle=False)
    return found


def manifest(result: JobResult) -> list[dict[str, Any]]:
    folder = Path(result.path.manifest.folder)
    return [row for path in sorted(folder.glob("0*.parquet")) for row in pq.read_table(path).to_pylist()]


def survivors() -> set[int]:
    """By the plan alone: sound, the first of its copies by uid, then the higher half of the hashes."""
    sound = [n for n in [*COPIES, *range(30, ALL)] if n not in range(30, 42)]
    uids = uids_from_hex([f"{n + 1:032x}" for n in sound])
    order = np.argsort(-hash_values(uids, 1), kind="stable")
    return {sound[i] for i in order[: len(sound) // 2]}


def test_the_planted_samples_survive_and_all_are_accounted_for(tmp_path: Path) -> None:
    planted(tmp_path / "pool")
    result, lines = done(parse(job_values(tmp_path, PLANTED)))
    rows = {int(row["key"]): row for row in manifest(result)}
    assert len(rows) == ALL
    assert {n for n, row in rows.items() if row["kept"]} == survivors()
    reasons = {n: row["reason"] for n, row in rows.items()}
    assert {n for n in reasons if reasons[n] == "rules"} == set(USELESS)
    assert {n for n in reasons if reasons[n] == "duplicates"} == set(range(30, 42))
    assert {n: rows[n]["duplicates.duplicate_of"] for n in range(30, 42)} == {
        n: f"{n - 18 + 1:032x}" for n in range(30, 42)
    }
    assert {n: reasons[n] for n in BROKEN} == {
        n: "reject:image-decode" if n % 2 else "reject:no-caption" for n in BROKEN
    }
    assert result.counts == {
        "pool": 120,
        "kept": 45,
        "dropped": {"rules": 12, "duplicates": 12, "random": 45},
        "rejected": {"image-decode": 3, "no-caption": 3},
    }
    assert [line.split()[0] for line in lines] == [
        "pool", "samples", "uids", "vectors.clip", "distinct", "rules", "duplicates", "random", "manifest", "shards",
    ]  # fmt: skip
    expected = np.sort(uids_from_hex([f"{n + 1:032x}" for n in survivors()]))
    assert uids_of(result).tobytes() == expected.tobytes()
    assert result.path.shards is not None
    tars = sorted(Path(result.path.shards.folder).glob("*.tar"))
    assert {int(name[:4]) for path in tars for name, _ in read_tar(path)} == survivors()
    assert [len(read_tar(path)) // 3 for path in tars] == [20, 20, 5]
    record = json.loads((tmp_path / "store/jobs/planted.json").read_text())
    assert record["counts"] == result.counts
    assert record["artifacts"]["manifest"] == result.path.manifest.name
    assert parse(record["job"]) == result.job
    assert {"torch", "ray", "numpy"} <= set(record["versions"])


def test_any_number_of_shards_keeps_the_same(tmp_path: Path) -> None:
    """With encoders in it: one batch size, so shards of other lengths still give each sample its own vector."""
    found = {}
    for shards in (1, 3, 7):
        planted(tmp_path / f"pool{shards}", shards)
        result, _ = done(parse(job_values(tmp_path, PLANTED, f"pool{shards}", shards=None)))
        found[shards] = uids_of(result).tobytes()
    assert found[1] == found[3] == found[7]


def test_both_executors_and_any_workers_give_equal_bytes(tmp_path: Path, ray_executor: Executor) -> None:
    planted(tmp_path / "pool")

    def files(name: str, executor: Executor) -> dict[str, bytes]:
        done(parse(job_values(tmp_path, FULL, store=str(tmp_path / name))), executor)
        return contents(tmp_path / name)

    first = files("thread", LocalExecutor(1))
    assert len(first) > 25
    assert files("threads", LocalExecutor(3)) == first
    assert files("actors", ray_executor) == first


def contents(store: Path) -> dict[str, bytes]:
    """Every file of the store that says no times."""
    files = {str(path.relative_to(store)): path for path in store.rglob("*") if path.is_file()}
    times = ("_done.json", "planted.json", ".jsonl")
    return {n: p.read_bytes() for n, p in sorted(files.items()) if not n.endswith(times)}


def test_another_density_uses_all_that_is_there(tmp_path: Path) -> None:
    planted(tmp_path / "pool")
    values = job_values(tmp_path, FULL)
    first, _ = done(parse(values))
    values["policy"][-1]["density"]["fraction"] = 0.25
    second, lines = done(parse({**values, "name": "second"}))
    reused = {label for label, step in second.steps if step.reused}
    assert {label for label, _ in second.steps} - reused == {"density", "manifest", "shards"}
    assert sum(line.endswith("done before") for line in lines) == len(reused)
    assert set(uids_of(second).tolist()) < set(uids_of(first).tolist())
    again, _ = done(parse(values))
    assert all(step.reused for _, step in again.steps)
    assert again.counts == second.counts
    values["policy"][-1]["density"]["fraction"] = 0.5
    assert done(parse(values))[0].counts == first.counts


def test_a_changed_input_shard_redoes_only_that_shard(tmp_path: Path) -> None:
    urls = planted(tmp_path / "pool")
    job = parse(job_values(tmp_path, PLANTED, limits={"max_reject_fraction": 0.06}))
    first, _ = done(job)
    entries = read_tar(urls[1])
    write_tar(Path(urls[1]), [entry for entry in entries if entry[0][:4] != entries[0][0][:4]])
    second, _ = done(job)
    assert dict(second.steps)["vectors.clip"].report["adopted"] == 2
    assert second.counts["pool"] == 119
    old, new = (dict(result.steps)["samples"].artifact for result in (first, second))
    for index in (0, 2):
        assert Path(old.shard(index)).read_bytes() == Path(new.shard(index)).read_bytes()


def test_a_broken_shard_fails_alone_and_the_mended_pool_resumes(tmp_path: Path) -> None:
    urls = planted(tmp_path / "pool")
    good = Path(urls[1]).read_bytes()
    Path(urls[1]).write_bytes(b"<html>503</html>" * 99)
    job = parse(job_values(tmp_path, PLANTED))
    with pytest.raises(FailedShards, match=r"samples: every shard must finish, but 1 of 3 failed") as error:
        done(job)
    assert [Path(url).name for url, _ in error.value.failures] == ["00001.tar"]
    assert {label: str(state) for label, _, state in states_of(job, *laid_out(job))}["samples"] == "2 of 3 shards"
    assert not (tmp_path / "store/jobs").exists()
    Path(urls[1]).write_bytes(good)
    result, _ = done(job)
    assert dict(result.steps)["samples"].report["adopted"] == 2
    assert {int(row["key"]) for row in manifest(result) if row["kept"]} == survivors()


def test_plan_says_what_is_there_and_runs_nothing(tmp_path: Path) -> None:
    planted(tmp_path / "pool")
    job = parse(job_values(tmp_path, PLANTED))
    assert {str(state) for _, _, state in states_of(job, *laid_out(job))} == {"to do"}
    assert not (tmp_path / "store").exists()
    done(job)
    assert {str(state) for _, _, state in states_of(job, *laid_out(job))} == {"done"}


def test_a_store_that_one_process_sees_goes_with_the_local_executor(tmp_path: Path, ray_executor: Executor) -> None:
    planted(tmp_path / "pool", 1)
    job = parse(job_values(tmp_path, PLANTED, store=f"memory://{tmp_path.name}"))
    with pytest.raises(JobError, match="is visible to one process only; use --executor local"):
        done(job, ray_executor)
    assert done(job)[0].counts["kept"] == 45


def true_and_mismatched() -> Samples:
    """60 pairs in 20 near sets of three; every third pair has another's text; the first of each set is the best."""
    rng = np.random.default_rng(0)
    centre = unit(20, 16, 3).repeat(3, axis=0)
    image = normed(centre + 0.01 * rng.normal(size=centre.shape))
    noise = np.tile([0.05, 0.2, 0.0], 20)[:, None] * rng.normal(size=image.shape)
    text = normed(image + noise)
    text[2::3] = -image[2::3]
    return Samples.drawn(60, image=image, text=text)


@pytest.mark.parametrize("layout", ["datacomp", "clip-retrieval", "vectors"])
def test_precomputed_pools_from_end_to_end(tmp_path: Path, layout: str) -> None:
    samples = true_and_mismatched()
    write: dict[str, Callable[[], tuple[str, ...]]] = {
        "datacomp": lambda: write_datacomp(tmp_path / "pool", samples, 4),
        "clip-retrieval": lambda: write_clip_retrieval(tmp_path / "pool", samples, 4),
        "vectors": lambda: write_vectors(str(tmp_path / "pool"), samples, 4),
    }
    options = {
        "datacomp": {"use": ["l14"]},
        "clip-retrieval": {"encoder": "l14"},
        "vectors": {"encoder": "l14", "text": "text"},
    }[layout]
    values = {
        "name": layout,
        "store": str(tmp_path / "store"),
        "pool": {"shards": list(write[layout]()), "format": layout, **options},
        "policy": [
            {"similarity": {"by": "l14", "threshold": 0.0}},
            {"duplicates": {"by": "l14", "exact": False, "epsilon": 0.05, "clusters": 3}},
            {"density": {"by": "l14", "count": 12, "clusters": 4}},
            {"random": {"count": 7}},
        ],
    }
    result, _ = done(parse(values))
    rows = manifest(result)
    assert [row["uid"] for row in rows] == samples.uid
    reasons = [row["reason"] for row in rows]
    cosine = samples.cosine
    for n in range(0, 60, 3):
        assert reasons[n + 2] == "similarity"
        best, other = (n, n + 1) if cosine[n] > cosine[n + 1] else (n + 1, n)
        assert reasons[other] == "duplicates"
        assert rows[other]["duplicates.duplicate_of"] == samples.uid[best]
    assert result.counts == {
        "pool": 60,
        "kept": 7,
        "dropped": {"similarity": 20, "duplicates": 20, "density": 8, "random": 5},
        "rejected": {},
    }
    assert result.path.shards is None
    assert len(uids_of(result)) == 7


def test_a_folder_of_images_as_target(tmp_path: Path) -> None:
    """It is embedded once, by the job's own encoder, for three cuts; what looks like it stays to the end."""
    planted(tmp_path / "pool")
    like = range(50, 60)
    for n in like:
        path = tmp_path / f"target/{n % 2}/{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(n))
    wanted = {"by": "clip", "target": str(tmp_path / "target")}
    policy = [
        {"image_based": {**wanted, "clusters": 6}},
        {"feature_mapping": {**wanted, "clusters": 4, "top": 3}},
        {"normsim": {**wanted, "fraction": 0.1, "of": "pool"}},
    ]
    result, _ = done(parse(job_values(tmp_path, policy)))
    assert [label for label, _ in result.steps][4:-2] == [
        "image_based.target", "image_based.clusters", "image_based",
        "feature_mapping.target", "feature_mapping.clusters", "feature_mapping",
        "normsim.target", "normsim.norms", "normsim",
    ]  # fmt: skip
    targets = [step for label, step in result.steps if label.endswith(".target")]
    assert len({step.artifact for step in targets}) == 1
    assert [step.reused for step in targets] == [False, True, True]
    assert targets[0].report["vectors"] == 10
    rows = {int(row["key"]): row for row in manifest(result)}
    assert sum(row["kept"] for row in rows.values()) == 12
    assert all(rows[n]["normsim.value"] == pytest.approx(1, abs=2e-3) for n in like if rows[n]["kept"])
    assert sum(rows[n]["kept"] for n in like) == 10
    assert result.counts["pool"] == ALL
    assert {row["image_based.cluster"] for row in rows.values()} == {None, *range(6)}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each file that is committed."""
    files = [path for path in folder.rglob("*.parquet") if not path.name.startswith(".")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def embedded(files: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Those of the samples, one a shard."""
    return {name: stat for name, stat in files.items() if is_artifact(Path(name).parent.name) and "samples-" in name}


SHARDS = 16


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], JobResult]:
    """A job over pictures that take their time, and what it comes to where nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for shard in range(SHARDS):
        samples = [(f"{n:04d}", pair(100 * shard + n, f"a picture of thing {n}")) for n in range(12)]
        for n, (_, parts) in enumerate(samples):
            parts["jpg"] = jpeg(100 * shard + n, side=700)
        write_tar(folder / f"pool/{shard:05d}.tar", members(samples))
    values = job_values(folder, FULL)
    return values, done(parse(values))[0]


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_killed_in_the_middle_and_run_again_gives_equal_bytes(
    tmp_path: Path, undisturbed: tuple[dict[str, Any], JobResult], executor: str
) -> None:
    values = {**undisturbed[0], "store": str(tmp_path / "store")}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    command = [
        sys.executable,
        "-m",
        "winnow.jobs",
        "run",
        str(tmp_path / "job.yaml"),
        "--executor",
        executor,
        "--workers",
        "2",
    ]
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        wait_for_some(tmp_path / "store", SHARDS, first)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait(10)
    before = settled(tmp_path / "store")
    assert 0 < len(before) < SHARDS
    assert not list((tmp_path / "store").glob("samples-*.meta/_done.json"))
    resumed, _ = done(parse(values))
    after = snapshot(tmp_path / "store")
    assert {name: after[name] for name in before} == before
    assert resumed.counts == undisturbed[1].counts
    clean = contents(Path(undisturbed[0]["store"]))
    found = contents(tmp_path / "store")
    # what the killed process was writing lies under a temporary name and is no file of the artifact; its note stays
    left = {name: data for name, data in found.items() if not name.startswith("running/")}
    assert len(found) == len(left) + 1
    assert {name: data for name, data in left.items() if not Path(name).name.startswith(".")} == clean


def wait_for_some(store: Path, shards: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        found = snapshot(store) if store.exists() else {}
        made = embedded(found)
        if len(made) >= 2:
            return
        time.sleep(0.002)
    log = (store.parent / "log").read_text()
    raise TimeoutError(f"some but not all of {shards} shards must be embedded, but {process.poll()}:\n{log}")


def settled(store: Path) -> dict[str, tuple[int, int]]:
    """The samples files once orphaned workers are gone too."""
    last: dict[str, tuple[int, int]] | None = None
    while True:
        made = embedded(snapshot(store))
        if made == last:
            return made
        last = made
        time.sleep(1.0)


def test_a_store_may_be_shared_by_jobs(tmp_path: Path) -> None:
    planted(tmp_path / "pool", 1)
    values = job_values(tmp_path, PLANTED, shards=None)
    done(parse(values))
    done(parse({**values, "name": "two", "policy": PLANTED[:1]}))
    assert sorted(path.name for path in (tmp_path / "store/jobs").iterdir()) == ["planted.json", "two.json"]
    names = [path.name for path in (tmp_path / "store").iterdir() if path.name.startswith("samples-")]
    [samples] = [name for name in names if is_artifact(name)]
    assert Artifact.named(str(tmp_path / "store"), samples).done() is not None


def test_a_jobs_gpus_reach_the_fit(tmp_path: Path) -> None:
    """k-means on a GPU needs a worker that asked for one, and only the job knows whether there are any."""
    write_vectors(str(tmp_path / "pool"), Samples.drawn(40), shards=2)
    asked: dict[str, float] = {}

    class Asked(LocalExecutor):
        def map(self, task: Any, items: Any, label: str, needs: Any) -> Any:
            asked[label] = needs.gpus
            return super().map(task, items, label, needs)

    values = {
        "name": "gpus",
        "store": str(tmp_path / "store"),
        "pool": {"shards": f"{tmp_path}/pool/*.parquet", "format": "vectors", "encoder": "clip", "image": "image"},
        "policy": [{"density": {"by": "clip", "fraction": 0.5, "clusters": 4}}],
        "resources": {"gpus": 0.5},
    }
    run_job(parse(values), Asked(1), lambda line: None)
    assert asked["clusters: k-means, k = 4"] == 1.0
    assert asked["clusters: assign"] == 0.0


def test_too_many_rejects_end_the_run_and_the_raised_limit_goes_on_from_there(tmp_path: Path) -> None:
    planted(tmp_path / "pool")
    job = job_values(tmp_path, PLANTED, limits={"max_reject_fraction": 0.04})
    with pytest.raises(RejectsError, match=r"6 of 120 samples are rejected, 5.00%, but") as error:
        done(parse(job))
    assert {line.split()[0] for line in str(error.value).splitlines()[1:3]} == {"image-decode", "no-caption"}
    assert not (tmp_path / "store/jobs").exists()
    with pytest.raises(RejectsError):  # what is done already is judged too
        done(parse(job))
    result, _ = done(parse({**job, "limits": {"max_reject_fraction": 0.05}}))
    assert dict(result.steps)["samples"].reused
    assert {int(row["key"]) for row in manifest(result) if row["kept"]} == survivors()


def test_a_record_of_other_options_keeps_a_name(tmp_path: Path) -> None:
    """A result is not lost to a run of the same name with another policy; the same job renews its own record."""
    write_vectors(tmp_path / "pool", Samples.drawn(60), 2)
    options = {"format": "vectors", "text": "text", "encoder": "clip"}
    pool = {"shards": str(tmp_path / "pool"), **options}
    values: dict[str, Any] = {"name": "v", "store": str(tmp_path / "s"), "pool": pool}
    said: list[str] = []

    def ran(fraction: float, **more: Any) -> dict[str, Any]:
        policy = [{"similarity": {"by": "clip", "fraction": fraction}}]
        run_job(parse({**values, "policy": policy, **more}), LocalExecutor(1), said.append)
        found: dict[str, Any] = json.loads((tmp_path / "s/jobs/v.json").read_text())
        return found

    first = ran(0.5)
    assert ran(0.5, resources={"workers": 3})["artifacts"] == first["artifacts"]
    assert [path.name for path in (tmp_path / "s/jobs").iterdir()] == ["v.json"]
    assert not [line for line in said if line.startswith("record")]
    second = ran(0.25)
    [former] = [path for path in (tmp_path / "s/jobs").iterdir() if path.name != "v.json"]
    assert said[-1].endswith(f"the earlier result of v, which had other options, is now called {former.stem}")
    kept = json.loads(former.read_text())
    assert kept["name"] == former.stem
    assert {**kept, "name": "v", "job": first["job"], "seconds_now": {}} == {**first, "seconds_now": {}}
    assert all(line.holds for line in verify_job(str(tmp_path / "s"), former.stem, LocalExecutor(1), RowSample(None)))
    assert ran(0.5)["artifacts"] == first["artifacts"]  # both have a name, whichever ran last
    records = [json.loads(path.read_text()) for path in (tmp_path / "s/jobs").iterdir()]
    assert {record["counts"]["kept"] for record in records} == {30, 15}
    assert second["counts"]["kept"] == 15
