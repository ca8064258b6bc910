"""What cuts share: many selections in shared passes, and the threshold that people read in a report."""

import itertools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import READER, Samples, filtered, opened, write_vectors
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.keep_top import Rows, keep_top, kept
from winnow.pipeline.stage import Run, ShardItem, execute
from winnow.pipeline.storage import Identity
from winnow.pipeline.uid import uids_from_pairs
from winnow.stages.cuts import keeping
from winnow.stages.cuts.keeping import select_each
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.score import Score
from winnow.stages.cuts.similarity import Similarity


@dataclass(frozen=True)
class Orders:
    """values: float32 (orders, n), cut into shards at `edges`; read: what was asked, (shard, orders)."""

    values: np.ndarray
    group: np.ndarray
    edges: tuple[int, ...]
    read: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def rows(self, item: ShardItem, wanted: Sequence[int]) -> Iterator[Rows]:
        self.read.append((item.index, tuple(wanted)))
        at = np.arange(self.edges[item.index], self.edges[item.index + 1])
        for number in wanted:
            uids = uids_from_pairs(at.astype(np.uint64) % 5, np.zeros(len(at), np.uint64))
            yield Rows(self.values[number, at], self.group[at], uids, item.index, at)

    def run(self) -> Run:
        shards = tuple(Identity(f"memory://pool/{i}", 1, "x") for i in range(len(self.edges) - 1))
        return Run(f"memory://{uuid.uuid4().hex}", LocalExecutor(1), shards)

    def parts(self, number: int) -> list[Rows]:
        return [next(self.rows(item, [number])) for item in self.run().items]


@st.composite
def orders(draw: st.DrawFn) -> Orders:
    """Up to 40 rows with many ties, in up to 3 orders, 2 groups and 4 shards."""
    n, shards = draw(st.integers(0, 40)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.choice([-1.5, 0.0, 0.25, 1.0, 3.0], (3, n)).astype(np.float32)
    edges = sorted([0, n, *draw(st.lists(st.integers(0, n), min_size=shards - 1, max_size=shards - 1))])
    return Orders(values, rng.integers(-1, 2, n).astype(np.int32), tuple(edges))


@settings(max_examples=40, deadline=None)
@given(
    found=orders(),
    asked=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 30)), max_size=9),
    together=st.integers(1, 4),
    candidates=st.sampled_from([1, 4, 1_000_000]),
)
def test_selections_side_by_side_are_those_one_by_one(
    found: Orders, asked: list[tuple[int, int, int]], together: int, candidates: int
) -> None:
    quotas = [(number, np.array(each)) for number, *each in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "_TOGETHER", together)
        patch.setattr(keeping, "_CANDIDATES", candidates)
        patch.setattr(keeping, "_CELLS", 4)
        thresholds = select_each(found.run(), found, quotas, "test")
    assert len(thresholds) == len(quotas)
    for (number, quota), bounds in zip(quotas, thresholds, strict=True):
        parts = found.parts(number)
        masks = [kept(rows, bounds) for rows in parts]
        for mask, expected in zip(masks, keep_top(parts, quota), strict=True):
            assert np.array_equal(mask, expected)


def test_each_shard_is_read_once_a_pass_for_all_selections() -> None:
    rng = np.random.default_rng(0)
    found = Orders(rng.random((2, 3000), np.float32), np.zeros(3000, np.int32), (0, 1000, 2000, 3000))
    select_each(found.run(), found, [(n % 2, np.array([100 * n])) for n in range(1, 20)], "test")
    assert sorted(found.read) == [(shard, (1, 0)) for shard in range(3) for _ in range(2)]


def test_a_selection_without_a_group_leaves_it_to_the_others() -> None:
    found = Orders(np.arange(20, dtype=np.float32).reshape(1, 20), np.arange(20, dtype=np.int32) % 2, (0, 20))
    for quotas in itertools.permutations(([5, 5], [0, 5], [5, 0])):
        thresholds = select_each(found.run(), found, [(0, np.array(quota)) for quota in quotas], "test")
        assert [bounds.count.tolist() for bounds in thresholds] == list(quotas)


@pytest.mark.parametrize("shards", [1, 3, 12])
def test_the_threshold_is_the_value_of_the_last_kept(shards: int) -> None:
    samples = Samples.drawn(40)
    cosine = np.sort(samples.cosine.astype(np.float32))[::-1]
    pool = filtered(samples, shards=shards)
    for count, expected in ((1, cosine[0]), (17, cosine[16]), (40, cosine[39]), (0, None)):
        report = pool.through(Similarity(by="clip", count=count)).step("similarity").report
        assert report["threshold"] == (None if expected is None else float(expected))
    half = pool.through(Random(fraction=0.5))
    hashes = [row["hash"] for row in half.rows if row["kept"]]
    assert half.step("random").report["threshold"] == min(hashes)
    above = pool.through(Similarity(by="clip", threshold=0.125)).step("similarity").report["threshold"]
    assert above == float(cosine[cosine > 0.125][-1])


@pytest.mark.parametrize(("keep", "expected"), [("highest", 30.0), ("lowest", 9.0)])
def test_the_threshold_has_the_sign_of_the_manifest(keep: str, expected: float, tmp_path: Path) -> None:
    samples = Samples.drawn(40, width=list(range(40)))
    urls = write_vectors(str(tmp_path / "pool"), samples, 3)
    score = Score(column="width", source=urls, count=10, keep=keep)
    found = opened(urls, READER, str(tmp_path / "store")).through(score)
    assert found.step("score").report["threshold"] == expected
    # what a run that was cut off had committed is read from the footers
    out = found.artifact("score")
    Path(out.meta("_done.json")).unlink()
    Path(out.shard(1)).unlink()
    [*_, last] = score.stages(replace(found.survivors, last=found.artifact("distinct")), found.run.store)
    again = execute(last, found.run)
    assert not again.reused
    assert again.artifact == out
    assert again.report["threshold"] == expected
