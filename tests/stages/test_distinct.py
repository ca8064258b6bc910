"""A uid names one sample: the first in the order of the pool stays, and every other is a reject that says so."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import (
    Filtered,
    Samples,
    embedded,
    filtered,
    members,
    opened,
    pair,
    tiny_clip,
    write_tar,
    write_vectors,
)
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import RejectsError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.stage import Limits, Run, execute
from winnow.pipeline.uid import uids_from_hex
from winnow.stages import distinct
from winnow.stages.budget import Rejecting, check_rejects
from winnow.stages.cuts.random import Random
from winnow.stages.distinct import Distinct, _perhaps_repeated
from winnow.stages.rejects import REPEATED, read_rejects
from winnow.stages.results.manifest import Manifest


def named(numbers: list[int]) -> Samples:
    """A sample for each number, whose uid it is."""
    return Samples.drawn(len(numbers), uid=[f"{n:032x}" for n in numbers])


def told(pool: Filtered) -> list[tuple[int, int, str]]:
    """(shard, position, kind) of every reject of the stage."""
    out = pool.artifact("distinct")
    rows = [(item.index, row) for item in pool.run.items for row in read_rejects(out, item.index).to_pylist()]
    return [(index, row["position"], row["kind"]) for index, row in rows]


@settings(max_examples=40)
@given(numbers=st.lists(st.integers(0, 12), max_size=30), shards=st.integers(1, 5))
def test_the_first_of_each_uid_stays(numbers: list[int], shards: int) -> None:
    samples = named(numbers)
    pool = filtered(samples, shards=shards)
    assert pool.kept == list(dict.fromkeys(samples.uid))
    again = len(numbers) - len(set(numbers))
    assert len(told(pool)) == again
    assert pool.step("distinct").report["rejects"] == ({REPEATED: again} if again else {})
    assert pool.survivors.count() == len(set(numbers))
    assert pool.survivors.pool_count() == len(numbers)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_parts_of_any_size_give_one_answer(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = named(np.random.default_rng(3).integers(0, 60, 200).tolist())
    expected = told(filtered(samples, shards=7))
    monkeypatch.setattr(distinct, "_PART_ROWS", rows)
    assert told(filtered(samples, shards=7)) == expected


def test_who_comes_again_and_whom_it_repeats_is_said_in_the_order_of_the_pool() -> None:
    pool = filtered(named([5, 6, 7, 6, 8, 6]), shards=3)
    out = pool.artifact("distinct")
    assert told(pool) == [(1, 1, REPEATED), (2, 1, REPEATED)]
    [row] = read_rejects(out, 2).to_pylist()
    assert row["message"] == (
        f"a uid names one sample, but {6:032x} is that of sample 1 of shard 0 of the pool too, which is before this "
        f"one and stays"
    )
    assert out.read(2).to_pydict() == {"kept": [True, False]}


def test_a_job_counts_it_as_a_reject_and_names_the_uid_once(tmp_path: Path, executor: Executor) -> None:
    samples = named([1, 2, 3, 2, 4, 4, 5, 6])
    urls = write_vectors(str(tmp_path / "pool"), samples, 3)
    pool = opened(urls, store=str(tmp_path / "store"))
    run = Run(pool.run.store, executor, pool.run.shards)
    half = Filtered(run, pool.survivors, pool.steps).through(Random(count=6))
    cuts = (("random", half.artifact("random")),)
    made = execute(Manifest(half.survivors.samples, half.artifact("distinct"), cuts), run)
    rows = [row for index in range(3) for row in made.artifact.read(index).to_pylist()]
    assert [row["reason"] for row in rows] == [f"reject:{REPEATED}" if n in (3, 5) else None for n in range(8)]
    assert [row["uid"] for row in rows] == [None if n in (3, 5) else samples.uid[n] for n in range(8)]
    assert made.report["rejected"] == {REPEATED: 2}
    assert made.report["kept"] == 6
    uids = np.load(made.artifact.meta("uids.npy"))
    assert uids.tobytes() == np.sort(uids_from_hex(sorted(set(samples.uid)))).tobytes()


def test_the_same_pair_twice_is_one_sample_where_the_uid_is_its_hash(tmp_path: Path) -> None:
    same = {name: content for name, content in pair(1, "a red square").items() if name != "json"}
    other = {**same, "txt": b"another caption"}
    url = write_tar(tmp_path / "0.tar", members([("a", same), ("b", other), ("c", same)]))
    pool = embedded([url], str(tmp_path / "store"), {"clip": tiny_clip(tmp_path)})
    out = pool.artifact("distinct")
    [row] = read_rejects(out, 0).to_pylist()
    place = pool.survivors.samples.read(0, ["key", "offset"]).to_pylist()[2]
    assert (row["key"], row["position"], row["kind"], row["offset"]) == ("c", 2, REPEATED, place["offset"])


def test_a_pool_of_which_much_repeats_is_beyond_the_budget(tmp_path: Path) -> None:
    samples = named([1, 2, 3, 4, 4, 4, 4, 4, 9, 10])
    samples.image[0] = 0
    pool = opened(write_vectors(str(tmp_path / "pool"), samples, 2), store=str(tmp_path / "store"))
    limited = Run(pool.run.store, pool.run.executor, pool.run.shards, limits=Limits(0.4))
    check_rejects(limited, pool.survivors.samples)
    with pytest.raises(RejectsError) as error:
        check_rejects(limited, pool.survivors.samples, pool.artifact("distinct"))
    lines = str(error.value).splitlines()
    assert "5 of 10 samples are rejected, 50.00%, but limits.max_reject_fraction is 0.4:" in lines[0]
    assert lines[1].split()[:3] == [REPEATED, "4", "40.00%"]
    assert f"00000.parquet, {samples.uid[4]}: a uid names one sample" in lines[1]
    assert lines[2].split()[:3] == ["vector-zero", "1", "10.00%"]
    check_rejects(Run(pool.run.store, pool.run.executor, pool.run.shards, limits=Limits(0.5)), *_both(pool))


def _both(pool: Filtered) -> tuple[Artifact, ...]:
    """What the last stage that rejects says that counts."""
    stage = Distinct(pool.survivors.samples, (pool.artifact("vectors"),))
    assert isinstance(stage, Rejecting)
    return stage.rejecting(pool.artifact("distinct"))


def test_only_what_may_come_again_is_sorted_by_its_uid() -> None:
    uid = uids_from_hex([f"{n:032x}" for n in (4, 9, 4, 2, 9, 1)])
    assert _perhaps_repeated(uid).tolist() == [0, 1, 2, 4]
    assert _perhaps_repeated(uid[:2]).tolist() == []
