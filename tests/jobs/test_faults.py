"""Whole jobs through faults from outside: a storage that fails, torn files, two runs on one store, signals."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.faults import FaultyProxy
from tests.pools import Samples, members, normed, pair, tiny_clip, unit, write_tar, write_vectors
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import JobResult, run_job
from winnow.jobs.verify.verify import verify_job
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import FailedShards
from winnow.pipeline.executors.local import LocalExecutor
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.encoders import bank

ROOT = Path(__file__).parents[2]
POLICY: list[dict[str, Any]] = [
    {"rules": {"min_words": 3}},
    {"duplicates": {"by": "clip", "exact": False, "epsilon": 0.05, "clusters": 3}},
    {"similarity": {"by": "clip", "fraction": 0.6}},
    {"density": {"by": "clip", "count": 100, "clusters": 4}},
]


def samples() -> Samples:
    """600 pairs, of which a third repeat another one."""
    rng = np.random.default_rng(1)
    image = normed(np.concatenate([unit(400), unit(400)[:200]]) + 0.01 * rng.normal(size=(600, 16)))
    return Samples.drawn(600, image=image, text=normed(image + 0.3 * rng.normal(size=image.shape)))


def values(folder: str, shards: int = 12) -> dict[str, Any]:
    return {
        "name": "faults",
        "store": storage.join(folder, "store"),
        "pool": {
            "shards": list(write_vectors(storage.join(folder, "pool"), samples(), shards)),
            "format": "vectors",
            "text": "text",
            "encoder": "clip",
        },
        "policy": POLICY,
    }


def done(job: dict[str, Any]) -> JobResult:
    return run_job(parse(job), LocalExecutor(2), lambda _: None)


def digests(manifest: Artifact) -> dict[str, str]:
    """sha256 of every file of a manifest that says no times."""
    files = [file.url for folder in (manifest.folder, manifest.meta_folder) for file in storage.listing(folder)]
    found = {storage.name_of(url): storage.read_bytes(url) for url in files}
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items() if name != "_done.json"}


def test_a_job_on_s3_with_failing_requests_leaves_the_same_bytes(
    tmp_path: Path, s3_store: str, faulty: FaultyProxy
) -> None:
    """The same as on a local disk; only the column that names the shard tells where the pool lies."""
    local = done({**values(str(tmp_path), shards=2), "policy": POLICY[2:3]})
    job = {**values(storage.join(s3_store, "faults"), shards=2), "policy": POLICY[2:3]}
    undisturbed = done({**job, "store": str(tmp_path / "other")})
    faulty.share = 0.2  # of some 60 requests; `make test-chaos` has a larger pool and 0.05
    faulty.stall_s = 1.2
    found = done(job)
    faulty.share = 0.0
    assert digests(found.path.manifest) == digests(undisturbed.path.manifest)
    assert len(digests(found.path.manifest)) == 3
    assert found.counts == local.counts
    assert digests(found.path.manifest)["uids.npy"] == digests(local.path.manifest)["uids.npy"]
    assert faulty.injected.total() > 4
    wrong = [
        str(line) for line in verify_job(job["store"], "faults", LocalExecutor(2), RowSample(None)) if not line.holds
    ]
    assert not wrong


@pytest.mark.parametrize("finished", [True, False])
def test_whatever_another_program_tore_is_made_again(tmp_path: Path, finished: bool) -> None:
    """Every file of a store is cut in half at once: tables, rejects, centroids, and what says that all is done."""
    odd = samples()
    odd.image[::100] = 0
    odd.uid[50::100] = odd.uid[51::100]
    job = {**values(str(tmp_path)), "limits": {"max_reject_fraction": 0.1}}
    write_vectors(str(tmp_path / "pool"), odd, 12)
    first = done(job)
    assert first.counts["rejected"] == {"repeated-uid": 6, "vector-zero": 6}
    expected = digests(first.path.manifest)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.parent.name != "jobs"]
    assert {"centroids.npy", "uids.npy", "rejects", "density.parquet"} <= {path.name for path in files} | {
        path.parent.name for path in files
    }
    for path in files:
        if not finished or path.name != "_done.json":
            os.truncate(path, path.stat().st_size // 2)
    again = done(job)
    assert not any(step.reused for _, step in again.steps)
    assert digests(again.path.manifest) == expected
    assert all(step.reused for _, step in done(job).steps)


def test_a_shard_whose_decoder_never_ends_fails_by_name_within_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = {n: pair(n, f"a picture of thing {n}") for n in range(48)}
    for shard in range(6):
        found = [(f"{n:03d}", pairs[n]) for n in range(8 * shard, 8 * shard + 8)]
        write_tar(tmp_path / f"pool/{shard}.tar", members(found))
    clip, end, decode = tiny_clip(tmp_path), threading.Event(), bank.decode_all

    def hangs(files: Sequence[bytes], *more: Any, **options: Any) -> Any:
        if pairs[27]["jpg"] in files:
            end.wait(100)
        return decode(files, *more, **options)

    monkeypatch.setattr(bank, "decode_all", hangs)
    job = {
        "name": "stuck",
        "store": str(tmp_path / "store"),
        "pool": {"shards": f"{tmp_path}/pool/*.tar"},
        "embeddings": {"clip": {"model": clip.model, "pretrained": clip.pretrained}},
        "encoding": {"batch_size": 4},
        "policy": [{"random": {"fraction": 0.5}}],
        "resources": {"prefetch": False, "deadline_factor": 3, "deadline_floor_s": 4},
    }
    started = time.monotonic()
    with pytest.raises(
        FailedShards, match=r"1 of 6 failed:\n  \S+/pool/3\.tar: it must be done within [\d.]+ s \(others"
    ):
        done(job)
    end.set()
    assert time.monotonic() - started < 90
    assert len(list((tmp_path / "store").glob("samples-*/0*.parquet"))) == 5
    monkeypatch.undo()
    assert done(job).counts["pool"] == 48, "the same command goes on"


_FULL = """
set -e
mount -t tmpfs -o size={small} none "$1"
"{python}" -m jobs run "$2" --executor local && exit 9
test ! -e "$1"/store/jobs
mount -o remount,size=64m "$1"
"{python}" -m jobs run "$2" --executor local
cp -r "$1"/store "$3"
"""


def test_a_disk_that_is_full_ends_the_run_and_with_room_the_same_command_goes_on(tmp_path: Path) -> None:
    """A file system of its own, of 300 kB, in a mount namespace of its own; then the same one with room."""
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "mount", "-t", "tmpfs", "none", "/mnt"]).returncode:
        pytest.skip("this machine lets nobody mount a file system in a namespace of its own")
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    job = values(str(tmp_path), shards=6)
    expected = done(job)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**job, "store": str(disk / "store")}))
    script = _FULL.format(python=sys.executable, small="300k")
    found = subprocess.run(
        [*apart, "sh", "-c", script, "sh", str(disk), str(path), str(out)], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert "No space left on device; nothing was left under" in found.stderr
    assert "make room there, or raise the limit, and run the same command again" in found.stderr
    names = sorted(file.name for file in (out / expected.path.manifest.name).iterdir())
    assert digests(Artifact(str(out), *expected.path.manifest.name.rsplit("-", 1))) == digests(expected.path.manifest)
    assert not [name for name in names if name.endswith(".tmp")]


def command(job: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "winnow.jobs", "run", str(job), "--workers", "2", *words]


def test_two_runs_on_one_store_at_once_both_finish_with_the_same_result(tmp_path: Path) -> None:
    job = values(str(tmp_path), shards=8)
    expected = done({**job, "store": str(tmp_path / "alone")})
    other = {**job, "name": "other", "policy": [*POLICY[:3], {"random": {"count": 50}}]}
    expected_other = done({**other, "store": str(tmp_path / "alone")})
    processes = []
    for number, chosen in enumerate((job, job, other)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(chosen))
        processes.append(
            subprocess.Popen(
                command(path, "--executor", "local"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    said = [process.communicate(timeout=120)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    for result, name in ((expected, job), (expected_other, other)):
        again = done(name)
        assert all(step.reused for _, step in again.steps)
        assert digests(again.path.manifest) == digests(result.path.manifest)
    assert not list((tmp_path / "store").rglob(".*"))


@pytest.mark.parametrize(
    ("executor", "number", "code"),
    [("local", signal.SIGINT, 130), ("local", signal.SIGTERM, 143), ("ray", signal.SIGTERM, 143)],
)
def test_a_signal_stops_clean_and_the_same_command_resumes(
    tmp_path: Path, executor: str, number: signal.Signals, code: int
) -> None:
    job = values(str(tmp_path), shards=20)
    path, store = tmp_path / "job.yaml", tmp_path / "store"
    path.write_text(yaml.safe_dump(job))
    process = subprocess.Popen(
        command(path, "--executor", executor), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while len(list(store.glob("*/0*.parquet"))) < 5 and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    assert said.decode().splitlines()[-1] == "winnow: stopped; the same command resumes"
    made = {path: path.stat().st_ino for path in store.glob("samples-*/0*.parquet")}
    # a worker of Ray is ended where it is, so what it was writing may be left under a temporary name
    assert executor == "ray" or not list(store.rglob(".*"))
    done(job)
    assert made == {path: path.stat().st_ino for path in made}
