"""Runs the quickstart's own path on a smaller world: every promise that does not need a well-trained network holds."""

from pathlib import Path

import pytest

from winnow.jobs.job_file.job import Job, load_job
from winnow.jobs.quickstart.quickstart import checks, copies_left, judged, run_quickstart, truth_table
from winnow.jobs.quickstart.world import World, planted_counts
from winnow.jobs.run import JobResult, laid_out, states_of

SIZE = World(clean_pairs=256, clean_shards=2, pool_samples=300, pool_shards=3)
EXACT = ("policy.1.duplicates={by: clip, exact: true}",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobResult, Path, list[str]]:
    # two steps of training tell no two pictures apart, so only bytes are compared
    folder = tmp_path_factory.mktemp("quickstart")
    said: list[str] = []
    return run_quickstart(folder, "local", 2, said.append, SIZE, 1, EXACT), folder, said


def test_every_planted_sample_has_a_verdict(finished: tuple[JobResult, Path, list[str]]) -> None:
    result, folder, _ = finished
    verdicts = judged(result, folder)
    assert verdicts.num_rows == SIZE.pool_samples == result.counts["pool"]
    whats = verdicts["what"].to_pylist()
    assert {what: whats.count(what) for what in set(whats)} == planted_counts(SIZE)


def test_what_needs_no_training_is_found(finished: tuple[JobResult, Path, list[str]]) -> None:
    result, folder, _ = finished
    verdicts = judged(result, folder)
    held = {check.promise: check.holds for check in checks(result, verdicts)}
    assert held["unreadable files rejected"]
    assert held["copies left of each exact duplicate"]
    assert held["kept as many as asked"]
    reasons = {row["what"]: row["reason"] for row in verdicts.to_pylist()}
    assert reasons["useless_caption"] == "rules"
    assert len(copies_left(verdicts, "exact_duplicate")) >= 2


def test_a_second_call_uses_what_is_there(finished: tuple[JobResult, Path, list[str]]) -> None:
    first, folder, _ = finished
    said: list[str] = []
    again = run_quickstart(folder, "local", 1, said.append, SIZE, 1, EXACT)
    assert again.counts == first.counts
    stages = [line for line in said if not line.startswith("uids ")]
    assert all(line.endswith("done before") for line in stages)
    assert len(stages) == len(again.steps)


def test_the_job_that_it_leaves_is_its_own_and_runs_from_any_folder(
    finished: tuple[JobResult, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder, _ = finished
    monkeypatch.chdir(tmp_path)
    left = load_job(str(folder / "quickstart.yaml"), EXACT)
    assert left.store == result.job.store
    assert states(left) == ["done"] * len(result.steps)
    (folder / "quickstart.yaml").write_text("changed")
    run_quickstart(folder, "local", 1, lambda _: None, SIZE, 1, EXACT)
    assert (folder / "quickstart.yaml").read_text() == "changed"


def states(job: Job) -> list[str]:
    return [str(state) for _, _, state in states_of(job, *laid_out(job))]


def test_the_table_has_a_row_per_kind_of_plant(finished: tuple[JobResult, Path, list[str]]) -> None:
    result, folder, _ = finished
    table = truth_table(judged(result, folder), [name for name, _ in result.path.cuts])
    assert table.row_count == len(planted_counts(SIZE))
