"""Stages run into the artifact that their fingerprint names, and do again only what is not there."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from tests.lengths import Lengths, Measure, Pool, lengths
from winnow.pipeline import storage
from winnow.pipeline.adoption import state_of
from winnow.pipeline.artifact import DONE, Artifact
from winnow.pipeline.errors import AccountingError, DataError, FailedShards
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import Summary, artifact_of, execute
from winnow.pipeline.totals import samples_of


@pytest.fixture
def pool(tmp_path) -> Pool:
    pool = Pool(tmp_path)
    pool.put("a", "one three bad")
    pool.put("b", "")
    pool.put("c", "eleven")
    return pool


def contents(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*.parquet")}


def test_a_stage_runs_once_and_is_then_reused(pool):
    first = pool.execute()
    assert lengths(first) == [[3, 5], [], [6]]
    assert not first.reused
    assert first.report["rows"] == 3
    assert pool.worked() == ["a", "b", "c"]
    again = pool.execute()
    assert again.reused
    assert again.artifact == first.artifact
    assert again.report == first.artifact.done()
    assert pool.worked() == []


class Slow(LocalExecutor):
    """Takes half a second to start, as a cluster takes some."""

    starts = 0

    def start(self) -> None:
        self.starts += 1
        time.sleep(0.5)


def test_a_cluster_starts_for_a_stage_that_is_not_done_and_is_no_part_of_its_seconds(pool):
    executor = Slow()
    for starts in (1, 1):
        run = replace(pool.run(), executor=executor)
        assert execute(pool.stage(run), run).seconds < 0.5
        assert executor.starts == starts


def test_done_says_what_was_made_of_what(pool):
    done = pool.execute(scale=2).artifact.done()
    assert done["stage"] == "lengths"
    assert done["version"] == 1
    assert done["rows"] == 3
    assert done["seconds"] >= 0
    assert done["config"]["scale"] == 2
    assert done["config"]["reads"].startswith("pool-")


def test_a_name_alone_is_not_believed(pool, monkeypatch):
    """Two configurations whose fingerprints are one: the second is told so, and does not take the first one's files."""
    monkeypatch.setattr("winnow.pipeline.stage.fingerprint", lambda made_of, digits=16: "0" * digits)
    pool.execute(scale=2)
    assert pool.execute(scale=2).reused
    with pytest.raises(
        DataError, match="but its scale is 2 and the job's is 3: two configurations have the same fingerprint"
    ):
        pool.execute(scale=3)


def test_an_interrupted_stage_does_only_what_is_not_there(pool):
    made = pool.execute().artifact
    before = contents(made.folder)
    pool.worked()
    for url in (made.meta(DONE), made.shard(0), made.shard(2)):
        os.remove(url)
    assert str(state_of(made, pool.run().shards)) == "1 of 3 shards"
    resumed = pool.execute()
    assert pool.worked() == ["a", "c"]
    assert not resumed.reused
    assert resumed.report["rows"] == 3
    assert contents(made.folder) == before


@pytest.mark.parametrize("damage", ["lost", "empty", "half"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_file_that_another_program_tore_is_made_again(pool, damage, finished):
    made = pool.execute().artifact
    before = contents(made.folder)
    pool.worked()
    whole = storage.read_bytes(made.shard(0))
    if damage == "lost":
        os.remove(made.shard(0))
    else:
        storage.write_bytes(made.shard(0), whole[: len(whole) // 2] if damage == "half" else b"")
    if not finished:
        os.remove(made.meta(DONE))
    again = pool.execute()
    assert not again.reused
    assert pool.worked() == ["a"]
    assert contents(made.folder) == before
    assert pool.execute().reused


def test_a_torn_done_or_list_of_parts_is_made_again(pool):
    made = pool.execute().artifact
    for name in (DONE, "_parts.json"):
        storage.write_bytes(made.meta(name), b'{"rec')
    pool.put("c", "twelve letters")
    other = pool.execute()
    assert other.report["adopted"] == 0  # whose parts those are is not known
    assert lengths(other) == [[3, 5], [], [6, 7]]


def test_what_killed_writers_left_long_ago_is_removed_when_the_stage_starts(pool):
    made = pool.execute().artifact
    left = [Path(folder, f".00000.parquet.{'a' * 32}.tmp") for folder in (made.folder, made.meta_folder)]
    for path in left:
        path.touch()
    os.remove(made.meta(DONE))
    pool.execute()
    assert all(path.exists() for path in left)  # another run may be writing them
    for path in left:
        os.utime(path, (1, 1))
    os.remove(made.meta(DONE))
    pool.execute()
    assert not any(path.exists() for path in left)


def test_a_stage_that_failed_keeps_the_others_and_resumes(pool):
    pool.put("b", "torn")
    with pytest.raises(FailedShards, match=r"1 of 2|1 of 3"):
        pool.execute()
    tries = 1 + Needs().retries
    assert pool.worked() == sorted(["a", "c", *["b"] * tries])
    run = pool.run()
    made = artifact_of(pool.stage(run), run.store)
    assert str(state_of(made, run.shards)) == "2 of 3 shards"
    assert made.done() is None
    pool.put("b", "mended")
    assert lengths(pool.execute()) == [[3, 5], [6], [6]]
    assert pool.worked() == ["b"], "the others are adopted from the attempt that failed"


def test_the_state_of_a_stage_for_people(pool):
    run = pool.run()
    made = artifact_of(pool.stage(run), run.store)
    assert str(state_of(made, run.shards)) == "to do"
    pool.execute()
    assert str(state_of(made, run.shards)) == "done"


def test_the_name_follows_from_config_version_and_inputs_alone(pool, monkeypatch):
    run = pool.run()
    stage = pool.stage(run)
    made = artifact_of(stage, run.store)
    assert made.stage == "lengths"
    assert artifact_of(replace(stage, calls="elsewhere"), run.store) == made
    others = [replace(stage, scale=2), replace(stage, reads=Artifact(run.store, "pool", "00000000"))]
    names = {made.name, *(artifact_of(other, run.store).name for other in others)}
    monkeypatch.setattr(Lengths, "version", 2)
    assert len({*names, artifact_of(stage, run.store).name}) == 4


def test_the_shards_are_listed_once(pool):
    run = pool.run()
    assert run.items is run.items


def test_summaries_come_from_the_footers(pool):
    made = pool.execute().artifact
    assert dict(pool.run().summaries(made)) == {0: {"rows": 2, "rejects": {"bad": 1}}, 1: {"rows": 0}, 2: {"rows": 1}}


@dataclass
class Forgetful:
    """An executor that loses the item at `lost`, against the contract."""

    lost: int
    workers: int = 1
    failed: ClassVar[dict[int, int]] = {}
    avoided: ClassVar[dict[str, str]] = {}

    def start(self) -> None:
        pass

    def map(self, task, items, label, needs):
        for index, item in enumerate(items):
            if index != self.lost:
                yield index, task.open()(item)


def test_an_item_that_does_not_come_back_is_an_error(pool):
    run = replace(pool.run(), executor=Forgetful(lost=1))
    with pytest.raises(AccountingError, match="lengths: 3 items must return exactly once each, got 2"):
        execute(pool.stage(run), run)
    made = artifact_of(pool.stage(run), run.store)
    assert made.done() is None
    with pytest.raises(AccountingError, match="3 items must return exactly once each, got 2"):
        list(run.each(Measure(pool.stage(run), made), run.items, "each"))


def test_an_executor_that_returns_an_item_twice_is_an_error(pool):
    class Doubling(Forgetful):
        def map(self, task, items, label, needs):
            for pair in super().map(task, items, label, needs):
                yield from (pair, pair)

    run = replace(pool.run(), executor=Doubling(lost=-1))
    stage = pool.stage(run)
    with pytest.raises(AccountingError, match="3 items must return exactly once each, got 6"):
        list(run.each(Measure(stage, artifact_of(stage, run.store)), run.items, "each"))


def test_each_gives_what_the_executor_gives(pool):
    run = pool.run()
    stage = pool.stage(run)
    found = run.each(Measure(stage, artifact_of(stage, run.store)), run.items, "each", Needs(retries=0))
    assert sorted(found) == [(0, {"rows": 2, "rejects": {"bad": 1}}), (1, {"rows": 0}), (2, {"rows": 1})]


def test_both_executors_leave_the_same_bytes(pool, executor, tmp_path):
    """Compared through the local one, which every other test here uses."""
    run = pool.run()
    here = execute(pool.stage(run), run).artifact
    there = replace(run, store=str(tmp_path / "other"), executor=executor)
    made = execute(pool.stage(there), there).artifact
    names = [path.name for path in Path(here.folder).rglob("*.parquet")]
    assert [path.name for path in Path(made.folder).rglob("*.parquet")] == names
    assert list(contents(made.folder).values()) == list(contents(here.folder).values())


@pytest.mark.parametrize(
    ("report", "samples"),
    [
        ({"in": 9, "kept": 4, "dropped": 5}, 9),
        ({"rows": 8}, 8),
        ({"samples": 7, "shards": 2}, 7),
        ({"pool": 9, "kept": 6, "rejected": {"no-image": 3}}, 9),
        ({"kept": 6, "rejected": 3}, 9),
        ({"shards": 2, "bytes": 10}, None),
    ],
)
def test_a_report_says_how_many_samples_a_stage_saw(report: Summary, samples: int | None) -> None:
    assert samples_of(report) == samples
