"""winnow gc: what no record needs goes, what a run uses or refers to stays, and a kill half way harms nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.test_growing import job_of, ran
from tests.pools import Samples, write_vectors
from winnow.jobs.cli import main
from winnow.jobs.garbage.removal import remove_unneeded
from winnow.jobs.garbage.show import document
from winnow.jobs.garbage.survey import survey
from winnow.jobs.report.making import make_report
from winnow.jobs.verify.finished import RowSample
from winnow.jobs.verify.verify import verify_job
from winnow.pipeline import storage
from winnow.pipeline.artifact import is_artifact
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.store import in_use
from winnow.pipeline.store.in_use import REMOVES, Renewal, running

FRACTIONS = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6, "e": 0.5}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    write_vectors(str(tmp_path / "pool"), Samples.drawn(120, seed=2), 4)
    return tmp_path


def policy(fraction: float) -> list[dict[str, object]]:
    return [{"rules": {"min_words": 3}}, {"similarity": {"by": "clip", "fraction": fraction}}]


def artifacts(pool: Path) -> set[str]:
    return {name for name in storage.folders(str(pool / "store")) if is_artifact(name)}


def stages(names: set[str]) -> list[str]:
    return sorted(name.rpartition("-")[0] for name in names)


def holds(pool: Path, name: str) -> bool:
    checks = list(verify_job(str(pool / "store"), name, LocalExecutor(2), RowSample(None)))
    return all(line.holds for line in checks)


def test_of_five_jobs_one_is_deleted_and_its_own_artifacts_go(pool: Path) -> None:
    store = str(pool / "store")
    made = {name: ran(job_of(pool, name=name, policy=policy(f))) for name, f in FRACTIONS.items()}
    assert survey(store, 0).unneeded == ()
    os.remove(pool / "store/jobs/c.json")
    steps = dict(made["c"].steps)
    own = {steps[label].artifact.name for label in ("similarity", "manifest")}
    assert {one.name for one in survey(store, 0).unneeded} == own
    assert survey(store, 3600).unneeded == (), "both are new"
    before = artifacts(pool)
    found = remove_unneeded(store, 0)
    assert artifacts(pool) == before - own
    assert sum(one.size for one in found.unneeded) > 0
    assert all(holds(pool, name) for name in "abde")
    assert remove_unneeded(store, 0).unneeded == ()
    assert ran(job_of(pool, name="c", policy=policy(0.7))).counts == made["c"].counts


def test_files_that_a_grown_pool_refers_to_stay_by_name(pool: Path) -> None:
    store = str(pool / "store")
    first = ran(job_of(pool, name="first", policy=policy(0.5)))
    write_vectors(str(pool / "more"), Samples.drawn(30, seed=9))
    os.rename(pool / "more/00000.parquet", pool / "pool/z.parquet")
    os.remove(pool / "pool/00001.parquet")
    second = ran(job_of(pool, name="second", policy=policy(0.5)))
    os.remove(pool / "store/jobs/first.json")
    holder = dict(first.steps)["samples"].artifact.name
    found = remove_unneeded(store, 0)
    assert stages({one.name for one in found.unneeded}) == [
        "distinct",
        "manifest",
        "pool",
        "rules",
        "samples",
        "similarity",
        "vectors",
    ]
    [rump] = [one for one in found.unneeded if one.name == holder]
    assert sorted(rump.kept) == [f"{holder}/0000{n}.parquet" for n in (0, 2, 3)]
    assert set(rump.kept.values()) == {dict(second.steps)["samples"].artifact.name}
    assert sorted(path.name for path in (pool / "store" / holder).iterdir()) == [f"0000{n}.parquet" for n in (0, 2, 3)]
    assert not (pool / f"store/{holder}.meta").exists()
    assert holds(pool, "second")
    assert survey(store, 0).unneeded == ()
    write_vectors(str(pool / "yet"), Samples.drawn(30, seed=10))
    os.rename(pool / "yet/00000.parquet", pool / "pool/zz.parquet")
    third = ran(job_of(pool, name="third", policy=policy(0.5)))
    assert dict(third.steps)["samples"].report["adopted"] == 4, "what is left is still taken over"


def test_a_former_record_is_a_record(pool: Path) -> None:
    ran(job_of(pool, name="one", policy=policy(0.5)))
    ran(job_of(pool, name="one", policy=policy(0.6)))
    found = survey(str(pool / "store"), 0)
    assert len(found.records) == 2
    assert found.unneeded == ()
    os.remove(pool / f"store/jobs/{found.records[1]}.json")
    assert stages({one.name for one in survey(str(pool / "store"), 0).unneeded}) == ["manifest", "similarity"]


def test_a_report_stays_as_long_as_its_manifest(pool: Path) -> None:
    for name in "ab":
        ran(job_of(pool, name=name, policy=policy(FRACTIONS[name])))
        make_report(str(pool / "store"), name, LocalExecutor(2))
    assert survey(str(pool / "store"), 0).unneeded == ()
    os.remove(pool / "store/jobs/b.json")
    assert stages({one.name for one in survey(str(pool / "store"), 0).unneeded}) == ["manifest", "report", "similarity"]


def test_what_a_run_uses_stays_until_its_note_is_old(pool: Path) -> None:
    store = str(pool / "store")
    made = ran(job_of(pool, name="one", policy=policy(0.5)))
    os.remove(pool / "store/jobs/one.json")
    names = [step.artifact.name for _, step in made.steps]
    with running(store, "one", {"artifacts": names[:3]}):
        assert {one.name for one in survey(store, 0).unneeded} == set(names[3:])
        assert {one.name for one in survey(store, 0).unneeded} == set(names[3:])
    assert {one.name for one in survey(store, 0).unneeded} == set(names)
    with pytest.raises(DataError), running(store, "one", {"artifacts": names}):
        raise DataError("a run that fails")
    assert survey(store, 0).unneeded == (), "its run may go on within the hour"
    [note] = Path(store, "running").iterdir()
    note.write_text(json.dumps({**json.loads(note.read_text()), "seen": time.time() - 7200}))
    assert survey(store, 10800).unneeded == ()
    left = {one.name for one in survey(store, 0).unneeded}
    assert left == {*names, f"running/{note.name}"}


def test_a_run_that_starts_while_its_artifacts_are_removed_is_told(pool: Path) -> None:
    job = job_of(pool, name="one", policy=policy(0.5))
    made = ran(job)
    manifest = made.path.manifest.name
    note = Renewal(str(pool / "store"), REMOVES, {"artifacts": [manifest]})
    with pytest.raises(JobError, match=f"winnow gc is removing {manifest}.*run the same command again"):
        ran(job)
    note.close(remove=True)
    assert list(Path(pool, "store/running").iterdir()) == []
    assert ran(job).counts == made.counts


def test_a_new_pool_does_not_refer_to_files_that_are_being_removed(pool: Path) -> None:
    first = ran(job_of(pool, name="first", policy=policy(0.5)))
    holder = dict(first.steps)["samples"].artifact.name
    os.remove(pool / "pool/00000.parquet")
    note = Renewal(str(pool / "store"), REMOVES, {"artifacts": [holder]})
    second = ran(job_of(pool, name="second", policy=policy(0.5)))
    note.close(remove=True)
    assert dict(second.steps)["samples"].report["adopted"] == 0
    assert holds(pool, "second")


def test_a_run_that_begins_between_the_two_looks_keeps_what_it_uses(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(pool / "store")
    made = ran(job_of(pool, name="one", policy=policy(0.5)))
    os.remove(pool / "store/jobs/one.json")
    names = [step.artifact.name for _, step in made.steps]
    begun: list[Renewal] = []
    real: Callable[..., Renewal] = Renewal

    def begin(store: str, what: str, content: dict[str, object]) -> Renewal:
        begun.append(real(store, "another run", {"artifacts": names}))
        return real(store, what, content)

    monkeypatch.setattr("winnow.jobs.garbage.removal.Renewal", begin)
    assert remove_unneeded(store, 0).unneeded == ()
    begun[0].close(remove=True)
    assert set(names) <= artifacts(pool)


def test_the_note_is_renewed_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_use, "RENEW_S", 0.05)
    with running(str(tmp_path), "one", {"artifacts": []}):
        first = in_use.notes(str(tmp_path))[0].seen
        end = time.monotonic() + 60
        while in_use.notes(str(tmp_path))[0].seen == first and time.monotonic() < end:
            time.sleep(0.05)
        assert in_use.notes(str(tmp_path))[0].seen > first
    assert in_use.notes(str(tmp_path)) == []


KILLED = """
import os, signal, sys
from winnow.pipeline import storage
from winnow.jobs.garbage import removal

calls, remove = [], storage.remove

def some(urls):
    remove(urls[: len(urls) // 2])
    calls.append(urls)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    remove(urls)

removal.storage.remove = some
removal.remove_unneeded(sys.argv[1], 0)
"""


def test_killed_half_way_the_rest_still_runs_and_verifies(pool: Path) -> None:
    store = str(pool / "store")
    made = {name: ran(job_of(pool, name=name, policy=policy(FRACTIONS[name]))) for name in "abc"}
    os.remove(pool / "store/jobs/b.json")
    before = artifacts(pool)
    ended = subprocess.run([sys.executable, "-c", KILLED, store], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert all(holds(pool, name) for name in "ac")
    assert ran(job_of(pool, name="a", policy=policy(FRACTIONS["a"]))).counts == made["a"].counts
    found = remove_unneeded(store, 0)
    assert found.unneeded
    assert artifacts(pool) == before - {
        step.artifact.name for label, step in made["b"].steps if label in ("similarity", "manifest")
    }
    [note] = Path(store, "running").iterdir()  # of the one that was killed; it stays for an hour
    note.unlink()
    assert ran(job_of(pool, name="b", policy=policy(FRACTIONS["b"]))).counts == made["b"].counts


def test_two_runs_and_a_removal_at_once_harm_nothing(pool: Path) -> None:
    store = str(pool / "store")
    ran(job_of(pool, name="old", policy=policy(0.95)))
    ran(job_of(pool, name="older", policy=policy(0.97)))
    ran(job_of(pool, name="kept", policy=policy(0.99)))
    os.remove(pool / "store/jobs/old.json")
    os.remove(pool / "store/jobs/older.json")
    results: dict[str, object] = {}
    told: list[str] = []

    def run(name: str) -> None:
        while True:
            try:
                results[name] = ran(job_of(pool, name=name, policy=policy(FRACTIONS[name]))).counts
                return
            except JobError as error:  # told to come again
                told.append(str(error))

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        remove_unneeded(store, 0)
    for thread in threads:
        thread.join()
    assert set(results) == {"a", "b"}
    assert all("winnow gc is removing" in text for text in told)
    assert all(holds(pool, name) for name in ("a", "b", "kept"))


def test_leftovers_of_killed_runs_go_when_they_are_old(pool: Path) -> None:
    store = str(pool / "store")
    ran(job_of(pool, name="one", policy=policy(0.5)))
    left = [
        pool / "store/scratch/0123/sent-0.rows",
        pool / f"store/{next(iter(artifacts(pool)))}.meta/exchange/x/sent-0.rows",
    ]
    for path in left:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"rows")
    assert survey(store, 0).unneeded == (), "a run may be writing them"
    for path in left:
        os.utime(path, (1, 1))
    assert len(remove_unneeded(store, 0).unneeded) == 2
    assert not any(path.exists() for path in left)
    assert holds(pool, "one")


def test_a_damaged_record_ends_it_and_a_store_without_artifacts_is_none(pool: Path) -> None:
    ran(job_of(pool, name="one", policy=policy(0.5)))
    (pool / "store/jobs/one.json").write_text('{"name": "on')
    with pytest.raises(DataError, match=r"one\.json must be the record of a job, but is damaged"):
        remove_unneeded(str(pool / "store"), 0)
    with pytest.raises(JobError, match="a store must have artifacts"):
        survey(str(pool / "pool"), 0)


def test_the_document_names_what_stays_and_what_goes(pool: Path) -> None:
    ran(job_of(pool, name="one", policy=policy(0.5)))
    os.remove(pool / "store/jobs/one.json")
    ran(job_of(pool, name="two", policy=policy(0.6)))
    told = document("s", survey(str(pool / "store"), 0), False)
    assert told["records"] == ["two"]
    assert stages({one["name"] for one in told["unneeded"]}) == ["manifest", "similarity"]
    assert len(told["needed"]) == 7


def test_the_commands_list_and_remove(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(pool / "store")

    def winnow(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["winnow", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return capsys.readouterr().out

    made = ran(job_of(pool, name="one", policy=policy(0.5)))
    ran(job_of(pool, name="two", policy=policy(0.6)))
    capsys.readouterr()
    samples = dict(made.steps)["samples"].artifact
    assert winnow("files", store, "one").split() == [samples.shard(index) for index in range(4)]
    os.remove(pool / "store/jobs/one.json")
    assert "2 more artifacts are new (--hours)" in winnow("gc", store)
    told = winnow("gc", store, "--hours", "0")
    assert made.path.manifest.name in told
    assert f"can be removed: winnow gc {store} --remove" in told
    assert made.path.manifest.name in artifacts(pool)
    assert json.loads(winnow("gc", store, "--hours", "0", "--json"))["removed"] is False
    assert "removed 1" in winnow("gc", store, "--hours", "0", "--remove")
    assert made.path.manifest.name not in artifacts(pool)
    assert "the store has no other artifacts" in winnow("gc", store, "--hours", "0")
