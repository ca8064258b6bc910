"""`winnow status --watch`: what a run's event log comes to, while it runs, when it ended, and when it failed."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.jobs.test_cli import called, job_file
from winnow.jobs import watch as watching
from winnow.jobs.watch import RunState, recorded, watch
from winnow.pipeline.errors import JobError, StorageError
from winnow.pipeline.executors.watching import Done, Watcher
from winnow.pipeline.store.events import EventLog

__all__ = ["job_file"]  # a fixture

ITEM = Done("density (pass 1)", 0, "host:1", 0.5, 100, 3, 1000, 1)


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def shown(standing: RunState) -> list[list[str]]:
    to = console()
    to.print(standing.table())
    lines = to.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    store, looks = str(tmp_path), []
    log = EventLog.of(store, "job")

    def work(seconds: float) -> None:
        """What the run does between two looks."""
        looks.append(seconds)
        if len(looks) == 1:
            log.made("pool", "pool-0000000000000000", 0.25, True)
            log.begin("density (pass 1)", 6, 2)
            log.done(ITEM)
            log.done(ITEM)
        elif len(looks) == 2:
            log.end("density (pass 1)", 1.0)
            log.made("density", "density-0000000000000000", 12.5, False)
            log.close("finished")

    log.begin("pool", 1, 0)
    assert watch(store, console(), refreshes=1).state == "running"
    standing = watch(store, console(), wait=work)
    assert (looks, standing.state) == ([watching.EVERY_S] * 2, "finished")
    assert shown(standing) == [
        ["pool", "", "", "", "", "done before"],
        ["density", "", "", "", "", "12.5 s"],
    ]


def test_the_present_pass_has_rate_rejects_and_time_left() -> None:
    standing = RunState()
    for event in (
        {"event": "run", "t": 0.0, "job": "a", "start": "20260101T000000Z"},
        {"event": "pass", "t": 10.0, "stage": "embeddings", "shards": 10, "ready": 4},
        {"event": "shard", "t": 20.0, "stage": "embeddings", "rows": 600, "rejects": 2, "retries": 1},
        {"event": "shard", "t": 30.0, "stage": "embeddings", "rows": 400, "rejects": 1, "retries": 0},
        {"event": "of-a-later-version", "t": 30.5},
    ):
        standing.take(event)
    # 1,000 rows in 20 s, two shards of them; 4 of the 6 that were to do are left
    assert shown(standing) == [["embeddings", "6 of 10", "50", "3", "1", "40 s left"]]
    standing.take({"event": "run", "t": 0.0, "job": "b", "start": "20260102T000000Z"})
    assert (standing.job, shown(standing)) == ("b", [])


@pytest.mark.parametrize(("error", "state"), [(ValueError, "failed"), (KeyboardInterrupt, "stopped")])
def test_a_run_that_ends_early_says_so(tmp_path: Path, error: type[BaseException], state: str) -> None:
    def broken(watchers: tuple[Watcher, ...]) -> None:
        watchers[0].begin("pool", 1, 0)
        raise error

    with pytest.raises(error), recorded(str(tmp_path), "job", "local") as watchers:
        broken(watchers)
    assert watch(str(tmp_path), console()).state == state


def test_why_a_run_ended_is_told_though_its_log_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("of somebody else")

    def broken(watchers: tuple[Watcher, ...]) -> None:
        watchers[0].begin("pool", 1, 0)
        raise StorageError("no room")

    with pytest.raises(StorageError, match="no room"), recorded(str(tmp_path), "job", "local") as watchers:
        broken(watchers)


def test_a_store_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="must have an event log to be watched, but"):
        watch(str(tmp_path), console())


def test_the_command_follows_a_real_run(
    job_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert called(monkeypatch, "run", str(job_file), "--executor", "local") == 0
    capsys.readouterr()
    assert called(monkeypatch, "status", str(job_file.parent / "store"), "--watch") == 0
    out = capsys.readouterr().out
    assert "small, started 20" in out
    assert "finished after" in out
    stages = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert stages[:2] == ["pool", "samples"]
    assert stages[-3:] == ["similarity", "random", "manifest"]
