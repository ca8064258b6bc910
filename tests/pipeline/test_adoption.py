"""Shard files of earlier artifacts are referred to: what is not made again, what is copied, and what a loss costs."""

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.lengths import Pool, lengths
from winnow.pipeline import storage
from winnow.pipeline.adoption import PARTS, state_of
from winnow.pipeline.artifact import DONE, Artifact
from winnow.pipeline.stage import StepResult, artifact_of
from winnow.pipeline.store.shard_files import FILES, forget


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    pool = Pool(tmp_path)
    pool.put("a", "one three bad")
    pool.put("b", "")
    pool.put("c", "eleven")
    return pool


def test_a_changed_shard_is_the_only_one_done_again(pool):
    first = pool.execute()
    pool.worked()
    pool.put("c", "three four")
    second = pool.execute()
    assert second.artifact != first.artifact
    assert second.report["adopted"] == 2
    assert pool.worked() == ["c"]
    assert lengths(second) == [[3, 5], [], [5, 4]]
    assert lengths(first) == [[3, 5], [], [6]], "what was there stays"


def test_an_added_shard_moves_the_others_with_their_rejects(pool):
    first = pool.execute()
    pool.worked()
    pool.put("0", "zero")
    second = pool.execute()
    assert second.report["adopted"] == 3
    assert pool.worked() == ["0"]
    assert lengths(second) == [[4], [3, 5], [], [6]]
    moved = storage.read_bytes(second.artifact.rejects(1))
    assert moved == storage.read_bytes(first.artifact.rejects(0))
    assert not storage.exists(second.artifact.rejects(0))


def test_a_removed_shard_costs_nothing(pool):
    pool.execute()
    pool.worked()
    os.remove(pool.folder / "a")
    assert lengths(pool.execute()) == [[], [6]]
    assert pool.worked() == []


def test_nothing_is_adopted_from_another_recipe(pool):
    pool.execute(scale=1)
    pool.worked()
    second = pool.execute(scale=3)
    assert second.report["adopted"] == 0
    assert pool.worked() == ["a", "b", "c"]
    assert lengths(second) == [[9, 15], [], [18]]


def own_files(result: StepResult) -> list[str]:
    """Data files and rejects in the artifact's own folders."""
    folders = result.artifact.folder, result.artifact.meta("rejects")
    return [storage.name_of(found.url) for folder in folders for found in storage.listing(folder)]


def test_a_file_that_is_taken_over_lies_where_it_was(pool: Pool) -> None:
    first = pool.execute()
    times = {path: path.stat().st_mtime_ns for path in Path(first.artifact.folder).rglob("*.parquet")}
    pool.put("0", "zero")
    second = pool.execute()
    assert own_files(second) == ["00000.parquet"]
    assert [second.artifact.shard(index) for index in (1, 2, 3)] == [first.artifact.shard(index) for index in (0, 1, 2)]
    assert second.artifact.summary(1) == {"rows": 2, "rejects": {"bad": 1}}
    assert second.artifact.columns(3) == ["length"]
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_the_list_names_the_file_of_every_shard(pool: Pool) -> None:
    first = pool.execute().artifact
    assert pq.read_table(first.meta(FILES)).to_pylist() == [
        {"shard": index, "file": f"{first.name}/0000{index}.parquet"} for index in range(3)
    ]
    pool.put("b", "more")
    second = pool.execute().artifact
    files = pq.read_table(second.meta(FILES))["file"].to_pylist()
    assert files == [f"{first.name}/00000.parquet", f"{second.name}/00001.parquet", f"{first.name}/00002.parquet"]


def test_a_list_names_the_artifact_that_holds_the_file_and_no_other_in_between(pool: Pool) -> None:
    first = pool.execute().artifact
    pool.put("d", "four")
    second = pool.execute().artifact
    pool.put("e", "fifth")
    third = pool.execute()
    assert third.report["adopted"] == 4
    folders = [storage.parent_of(third.artifact.shard(index)) for index in range(5)]
    assert folders == [first.folder] * 3 + [second.folder, third.artifact.folder]
    shutil.rmtree(second.meta_folder)  # nobody needs it to find the files
    assert pool.execute().reused


def test_a_renamed_shard_is_known_by_inode_and_time(pool: Pool) -> None:
    first = pool.execute()
    pool.worked()
    os.rename(pool.folder / "a", pool.folder / "z")
    os.rename(pool.folder / "c", pool.folder / "a")
    second = pool.execute()
    assert pool.worked() == []
    assert second.report["adopted"] == 3
    assert lengths(second) == [[6], [], [3, 5]]
    assert second.artifact.shard(2) == first.artifact.shard(0)


def test_a_copy_and_a_file_whose_time_is_in_whole_seconds_are_not(pool: Pool) -> None:
    """Another file could get this inode, size and time: archives set such times, and inodes are given again."""
    os.utime(pool.folder / "a", (1_700_000_000, 1_700_000_000))
    pool.execute()
    pool.worked()
    os.rename(pool.folder / "a", pool.folder / "z")
    shutil.copy2(pool.folder / "c", pool.folder / "copy")
    os.remove(pool.folder / "c")
    pool.execute()
    assert pool.worked() == ["copy", "z"]


def test_a_shard_that_comes_through_a_linked_folder_is_the_same(pool: Pool) -> None:
    pool.execute()
    pool.worked()
    os.rename(pool.folder, pool.folder.with_name("elsewhere"))
    os.symlink(pool.folder.with_name("elsewhere"), pool.folder.with_name("linked"))
    pool.folder = pool.folder.with_name("linked")
    assert lengths(pool.execute()) == [[3, 5], [], [6]]
    assert pool.worked() == []


def test_a_shard_with_the_old_name_and_other_content_is_read_anew(pool: Pool) -> None:
    """As `mv b a` does: the name is known, and so is the content, but not together."""
    pool.execute()
    pool.worked()
    os.replace(pool.folder / "c", pool.folder / "a")
    pool.put("c", "new one")
    assert lengths(pool.execute()) == [[6], [], [3, 3]]
    assert pool.worked() == ["c"]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("damage", ["lost", "half"])
def test_a_file_of_another_artifact_that_is_lost_or_torn_is_made_again(pool: Pool, damage: str, finished: bool) -> None:
    first = pool.execute().artifact
    pool.put("d", "four")
    second = pool.execute()
    pool.worked()
    url = first.shard(0)
    whole = storage.read_bytes(url)
    os.remove(url) if damage == "lost" else storage.write_bytes(url, whole[: len(whole) // 2])
    if not finished:
        os.remove(second.artifact.meta(DONE))
    again = pool.execute()
    assert not again.reused
    assert pool.worked() == ["a"]
    assert lengths(again) == [[3, 5], [], [6], [4]]
    assert storage.read_bytes(again.artifact.shard(0)) == whole
    assert pool.execute().reused


def test_lost_rejects_of_another_artifact_are_seen(pool: Pool) -> None:
    first = pool.execute().artifact
    pool.put("d", "four")
    second = pool.execute().artifact
    pool.worked()
    os.remove(first.rejects(0))
    assert not pool.execute().reused
    assert pool.worked() == ["a"]
    assert storage.exists(second.rejects(0))


def test_a_torn_list_of_files_is_made_again(pool: Pool) -> None:
    pool.execute()
    pool.put("d", "four")
    second = pool.execute().artifact
    pool.worked()
    storage.write_bytes(second.meta(FILES), b"PAR1 and no more")
    forget()  # as a new process
    run = pool.run()
    again = pool.execute()
    assert lengths(again) == [[3, 5], [], [6], [4]]
    assert pool.worked() == []
    storage.write_bytes(second.meta(FILES), b"PAR1 and no more")
    forget()  # as a new process
    os.remove(second.meta(DONE))
    stage = pool.stage(run)
    assert str(state_of(second, run.shards, stage.recipe)) == "3 of 4 shards taken over"


def test_the_state_tells_own_files_from_those_of_others(pool: Pool) -> None:
    pool.execute()
    pool.put("d", "four")
    pool.put("e", "fifth")
    run = pool.run()
    stage = pool.stage(run)
    made = artifact_of(stage, run.store)
    assert str(state_of(made, run.shards, stage.recipe)) == "3 of 5 shards taken over"
    pool.execute()
    os.remove(made.meta(DONE))
    os.remove(made.shard(4))
    assert str(state_of(made, run.shards, stage.recipe)) == "1 of 5 shards, 3 of 5 shards taken over"


def test_an_artifact_of_an_earlier_version_has_no_list_and_is_taken_over(pool: Pool) -> None:
    first = pool.execute().artifact
    os.remove(first.meta(FILES))
    parts = first.meta(PARTS)
    Path(parts).write_text(Path(parts).read_text().replace('"contents"', '"unknown"'))
    pool.worked()
    pool.put("d", "four")
    second = pool.execute()
    assert second.report["adopted"] == 3
    assert pool.worked() == ["d"]
    assert Artifact.named(first.store, first.name).present() == {0, 1, 2}
