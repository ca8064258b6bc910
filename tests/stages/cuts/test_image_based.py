"""Image-based filtering against plain argmaxes: whole clusters stay, those that the target touches often enough."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Filtered, Samples, answers, filtered, normed, unit
from winnow.pipeline.artifact import read_table
from winnow.pipeline.errors import AccountingError, JobError
from winnow.pipeline.stage import artifact_of, execute
from winnow.stages.clusters.clusters import Members, read_centroids
from winnow.stages.cuts.density import Density
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.cuts.targets import votes
from winnow.stages.cuts.targets.image_based import AtLeast, ImageBased


def written(folder: Path, target: np.ndarray) -> str:
    np.save(folder / "target.npy", target)
    return str(folder / "target.npy")


def cut_of(folder: Path, target: np.ndarray, clusters: int | dict[str, str] = 6, **options: Any) -> ImageBased:
    return ImageBased(by="clip", target=written(folder, target), clusters=clusters, **options)  # type: ignore[arg-type]  # as a job says it


def polled(found: Filtered, target: np.ndarray) -> Counter[int]:
    """Votes of each cluster: nearest centroid of each target vector, in float64."""
    centroids = read_centroids(found.artifact("clusters")).astype(np.float64)
    return Counter((target.astype(np.float64) @ centroids.T).argmax(axis=1).tolist())


@pytest.fixture(scope="module")
def pool() -> Filtered:
    return filtered(Samples.drawn(90), shards=3)


@pytest.mark.parametrize("min_votes", [1, 2, 5])
def test_keeps_the_whole_of_each_cluster_with_votes(pool: Filtered, tmp_path: Path, min_votes: int) -> None:
    target = unit(8, seed=4)
    found = pool.through(cut_of(tmp_path, target, min_votes=min_votes))
    wanted = {cluster for cluster, count in polled(found, target).items() if count >= min_votes}
    assert {row["uid"] for row in found.rows if row["cluster"] in wanted} == set(found.kept)
    assert all(row["kept"] == (row["cluster"] in wanted) for row in found.rows)
    report = found.step("image_based").report
    assert (report["clusters"], report["clusters_kept"]) == (6, len(wanted))
    assert report["kept"] == len(found.kept)


def test_votes_of_every_cluster_are_on_record(pool: Filtered, tmp_path: Path) -> None:
    target = unit(40, seed=4)
    found = pool.through(cut_of(tmp_path, target, min_votes=7))
    table = read_table(found.artifact("image_based").meta("votes.parquet")).to_pydict()
    count = polled(found, target)
    size = Counter(row["cluster"] for row in found.rows)
    assert table == {
        "cluster": list(range(6)),
        "size": [size[i] for i in range(6)],
        "votes": [count[i] for i in range(6)],
        "kept": [count[i] >= 7 for i in range(6)],
    }
    assert sum(table["votes"]) == 40
    assert sum(table["size"]) == 90
    assert {True, False} == set(table["kept"])


def test_one_answer_for_any_shards_and_order(tmp_path: Path) -> None:
    samples = Samples.drawn(70)
    found = answers(samples, cut_of(tmp_path, unit(4, seed=4)))
    assert 0 < len(found[0]) < 70
    assert all(answer == found[0] for answer in found)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 99), times=st.integers(1, 3))
def test_order_and_repeats_of_the_target_change_nothing(
    pool: Filtered, tmp_path_factory: pytest.TempPathFactory, seed: int, times: int
) -> None:
    folder = tmp_path_factory.mktemp("target")
    target = unit(5, seed=seed)
    base = pool.through(cut_of(folder, target)).rows
    order = np.random.default_rng(seed).permutation(5 * times)
    assert pool.through(cut_of(folder, np.tile(target, (times, 1))[order])).rows == base


def test_more_votes_asked_keep_fewer(pool: Filtered, tmp_path: Path) -> None:
    target = unit(30, seed=4)
    kept = [set(pool.through(cut_of(tmp_path, target, min_votes=n)).kept) for n in range(1, 12)]
    assert all(b <= a for a, b in pairwise(kept))
    assert len({len(uids) for uids in kept}) > 2


def crowds(seed: int = 0) -> tuple[Samples, np.ndarray]:
    """90 samples around six far directions, and which."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat(np.arange(6), 15))
    image = normed(np.eye(16)[label] + 0.05 * rng.standard_normal((90, 16)))
    return Samples.drawn(90, image=image), label


def test_the_crowds_that_the_target_shows_stay(tmp_path: Path) -> None:
    samples, label = crowds()
    shown = [1, 4, 4]
    target = normed(np.eye(16)[shown] + 0.1 * unit(3, seed=1).astype(float))
    np.save(tmp_path / "axes.npy", np.eye(16, dtype=np.float32))  # a fit may split one crowd and join two
    known = {"from": str(tmp_path / "axes.npy")}
    near = {uid for uid, n in zip(samples.uid, label, strict=True) if n in shown}
    assert set(filtered(samples, cut_of(tmp_path, target, known), shards=4).kept) == near
    twice = {uid for uid, n in zip(samples.uid, label, strict=True) if n == 4}
    assert set(filtered(samples, cut_of(tmp_path, target, known, min_votes=2), shards=4).kept) == twice


@pytest.mark.parametrize("block", [1, 7])
def test_votes_add_up_over_blocks_of_the_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, block: int) -> None:
    samples, target = Samples.drawn(40), unit(23, seed=4)
    whole = filtered(samples, cut_of(tmp_path, target, min_votes=4))
    monkeypatch.setattr(votes, "_TARGETS", block)
    parts = filtered(samples, cut_of(tmp_path, target, min_votes=4))
    one, two = (read_table(found.artifact("image_based").meta("votes.parquet")) for found in (whole, parts))
    assert one.equals(two)
    assert whole.kept == parts.kept


def test_only_what_is_left_is_clustered_and_has_a_cluster(tmp_path: Path) -> None:
    samples = Samples.drawn(60, caption=["one"] * 20 + ["two words"] * 40)
    found = filtered(samples, Rules(min_words=2), cut_of(tmp_path, unit(3, seed=4)), shards=5)
    assert 0 < len(found.kept) < 40
    assert [row["cluster"] is None for row in found.rows] == [True] * 20 + [False] * 40
    assert [row["distance"] is None for row in found.rows] == [True] * 20 + [False] * 40
    for index in range(5):
        distance = Members.read(found.artifact("clusters"), index).distance
        table = found.artifact("image_based").read(index)["distance"]
        assert table.drop_null().to_pylist() == distance.tolist()


def test_no_survivors_but_known_centroids_keep_none(tmp_path: Path) -> None:
    np.save(tmp_path / "axes.npy", np.eye(16, dtype=np.float32)[:4])
    cut = cut_of(tmp_path, unit(3, seed=4), clusters={"from": str(tmp_path / "axes.npy")})
    found = filtered(Samples.drawn(10), Random(count=0), cut, shards=2)
    assert found.kept == []
    assert found.step("image_based").report["clusters_kept"] > 0


def test_density_of_the_same_clusters_shares_them(pool: Filtered, tmp_path: Path) -> None:
    pool.through(Density(by="clip", clusters=5, fraction=0.5))
    assert pool.through(cut_of(tmp_path, unit(3, seed=4), clusters=5)).step("clusters").reused


def test_known_centroids(pool: Filtered, tmp_path: Path) -> None:
    np.save(tmp_path / "axes.npy", np.eye(16, dtype=np.float32)[:4])
    target = np.eye(16, dtype=np.float16)[1:2]
    found = pool.through(cut_of(tmp_path, target, clusters={"from": str(tmp_path / "axes.npy")}))
    nearest = np.concatenate(
        [pool.survivors.vectors(item.index, item.url, "clip", "image", np.arange(30))[:, :4] for item in pool.run.items]
    ).argmax(axis=1)
    assert found.kept == [row["uid"] for row, cluster in zip(pool.rows, nearest, strict=True) if cluster == 1]


def test_a_target_of_another_encoder_is_refused(pool: Filtered, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="its vectors have 8 numbers and those of clip have 16; make it with the same"):
        pool.through(cut_of(tmp_path, unit(5, 8)))


def test_rows_that_were_lost_are_missed(tmp_path: Path) -> None:
    """A file of the artifact that an older run left with other verdicts."""
    pool = filtered(Samples.drawn(40), shards=2)
    *before, last = cut_of(tmp_path, unit(30, seed=4)).stages(pool.survivors, pool.run.store)
    for stage in before:
        execute(stage, pool.run)
    lost = pa.table({"kept": [False] * 20})
    artifact_of(last, pool.run.store).write(0, lost, {"rows": 20, "in": 20, "kept": 0})
    with pytest.raises(AccountingError, match="all 40 samples of the clusters that stay must be kept, but 20 were;"):
        execute(last, pool.run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_votes": 0}, "greater than or equal to 1"),
        ({"clusters": 0}, "greater than or equal to 1"),
        ({"top": 3}, "Unexpected keyword argument"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageBased(**{"by": "clip", "target": "t.npy", "clusters": 3, **options})


@given(votes=st.lists(st.integers(0, 9), min_size=1, max_size=30), least=st.integers(1, 9))
def test_at_least(votes: list[int], least: int) -> None:
    assert AtLeast(least).kept(np.array(votes)).tolist() == [count >= least for count in votes]
