"""Feature mapping: the clusters of most votes stay whole, ties by the lowest index, none without a vote."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pools import Filtered, Samples, answers, filtered, normed, unit
from winnow.pipeline.artifact import read_table
from winnow.stages.cuts.targets.feature_mapping import FeatureMapping, Top
from winnow.stages.cuts.targets.image_based import ImageBased


def written(folder: Path, target: np.ndarray) -> str:
    np.save(folder / "target.npy", target)
    return str(folder / "target.npy")


def cut_of(folder: Path, target: np.ndarray, top: int, clusters: int | dict[str, str] = 6) -> FeatureMapping:
    return FeatureMapping(by="clip", target=written(folder, target), clusters=clusters, top=top)  # type: ignore[arg-type]  # as a job says it


@pytest.fixture(scope="module")
def pool() -> Filtered:
    return filtered(Samples.drawn(90), shards=3)


def test_keeps_the_clusters_of_most_votes(pool: Filtered, tmp_path: Path) -> None:
    target = unit(50, seed=4)
    inside: set[str] = set()
    for top in range(1, 7):
        found = pool.through(cut_of(tmp_path, target, top))
        table = read_table(found.artifact("feature_mapping").meta("votes.parquet")).to_pylist()
        order = sorted((row for row in table if row["votes"]), key=lambda row: (-row["votes"], row["cluster"]))
        wanted = {row["cluster"] for row in order[:top]}
        assert {row["cluster"] for row in table if row["kept"]} == wanted
        assert found.kept == [row["uid"] for row in found.rows if row["cluster"] in wanted]
        assert found.step("feature_mapping").report["clusters_kept"] == len(wanted)
        assert inside <= set(found.kept)
        inside = set(found.kept)
    assert inside == set(pool.kept)


def test_one_answer_for_any_shards_and_order(tmp_path: Path) -> None:
    found = answers(Samples.drawn(70), cut_of(tmp_path, unit(9, seed=4), top=2))
    assert 0 < len(found[0]) < 70
    assert all(answer == found[0] for answer in found)


def test_the_crowds_that_most_of_the_target_is_in_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.permutation(np.repeat(np.arange(6), 15))
    samples = Samples.drawn(90, image=normed(np.eye(16)[label] + 0.05 * rng.standard_normal((90, 16))))
    target = normed(np.eye(16)[[5, 5, 5, 2, 2, 0]] + 0.05 * rng.standard_normal((6, 16)))

    np.save(tmp_path / "axes.npy", np.eye(16, dtype=np.float32))  # a fit may split one crowd and join two

    def kept(top: int) -> set[str]:
        cut = cut_of(tmp_path, target, top, {"from": str(tmp_path / "axes.npy")})
        return set(filtered(samples, cut, shards=4).kept)

    def of(*labels: int) -> set[str]:
        return {uid for uid, n in zip(samples.uid, label, strict=True) if n in labels}

    assert kept(1) == of(5)
    assert kept(2) == of(5, 2)
    assert kept(3) == kept(6) == of(5, 2, 0)


def test_all_but_the_last_stage_is_shared_with_image_based(pool: Filtered, tmp_path: Path) -> None:
    cut = cut_of(tmp_path, unit(9, seed=4), top=2)
    pool.through(ImageBased(by="clip", target=cut.target, clusters=6))
    assert [step.reused for step in pool.through(cut).steps[3:]] == [True, True, False]


@given(votes=st.lists(st.integers(0, 4), min_size=1, max_size=30), top=st.integers(1, 40))
def test_top_is_a_sort(votes: list[int], top: int) -> None:
    order = sorted((i for i in range(len(votes)) if votes[i]), key=lambda i: (-votes[i], i))
    stays = Top(top).kept(np.array(votes, np.int64))
    assert sorted(order[:top]) == np.flatnonzero(stays).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "top\n  Field required|Missing required argument"),
        ({"top": 0}, "greater than or equal to 1"),
        ({"top": 1, "min_votes": 1}, "Unexpected keyword argument"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureMapping(**{"by": "clip", "target": "t.npy", "clusters": 3, **options})
