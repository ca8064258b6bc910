"""Density pruning against the paper's formulas in float64: the table, the quotas, and who stays in each cluster."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Filtered, Samples, answers, filtered, normed, unit
from winnow.pipeline.artifact import read_table
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.uid import uids_from_hex
from winnow.stages.clusters.clusters import read_centroids
from winnow.stages.cuts.density import Density, cluster_moments, sum_moments
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.kernels.uid_hash import hash_values


def concepts(n: int = 120, k: int = 5, seed: int = 0) -> Samples:
    """Samples around k directions, of very different spread and number."""
    rng = np.random.default_rng(seed)
    label = rng.choice(k, n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    spread = np.linspace(0.05, 0.9, k)[label]
    image = normed(unit(k, 16, seed)[label] + spread[:, None] * rng.normal(size=(n, 16)) / 4)
    return Samples.drawn(n, seed=seed, image=image)


def member_groups(found: Filtered) -> dict[int, list[dict[str, object]]]:
    """Rows of each cluster, those that this cut dropped as well."""
    groups = defaultdict(list)
    for row in found.rows:
        if row["cluster"] is not None:
            groups[row["cluster"]].append(row)
    return groups


def projected(target: np.ndarray, lower: np.ndarray, upper: np.ndarray, total: float) -> np.ndarray:
    """Bisection on the multiplier, a hundred halvings."""
    low, high = (target - upper).min() - 1, (target - lower).max() + 1
    for _ in range(100):
        nu = (low + high) / 2
        low, high = (nu, high) if np.clip(target - nu, lower, upper).sum() > total else (low, nu)
    return np.clip(target - (low + high) / 2, lower, upper)


@pytest.mark.parametrize("neighbours", [2, 20])
@pytest.mark.parametrize("balance", [0.0, 0.8])
def test_the_table_is_the_papers(neighbours: int, balance: float) -> None:
    samples = concepts()
    options = {"neighbours": neighbours, "balance": balance, "temperature": 0.2}
    found = filtered(samples, Density(by="clip", clusters=5, fraction=0.4, **options), shards=3)
    table = read_table(found.artifact("density").meta("density.parquet"))
    assert table.column_names == ["cluster", "size", "d_intra", "d_inter", "complexity", "share", "quota"]
    columns = {name: np.asarray(table[name]) for name in table.column_names}
    mu = read_centroids(found.artifact("clusters")).astype(np.float64)
    x = samples.image.astype(np.float64)
    own = (x @ mu.T).argmax(axis=1)
    size = np.bincount(own, minlength=5)
    d_intra = np.array([(1 - x[own == j] @ mu[j]).mean() for j in range(5)])
    others = np.sort(1 - mu @ mu.T, axis=1)[:, 1 : 1 + min(neighbours, 4)]
    d_inter = others.mean(axis=1)
    c = d_inter * d_intra
    share = np.exp(c / 0.2) / np.exp(c / 0.2).sum()
    floor = int(48 / 5 * balance) if balance else 1
    x_star = projected(share * 48, np.maximum(np.minimum(floor, size - 1), 0).astype(float), size.astype(float), 48)
    assert columns["cluster"].tolist() == [0, 1, 2, 3, 4]
    assert columns["size"].tolist() == size.tolist()
    for name, expected in (("d_intra", d_intra), ("d_inter", d_inter), ("complexity", c), ("share", share)):
        assert columns[name].tolist() == pytest.approx(expected.tolist(), abs=1e-6), name
    assert columns["quota"].sum() == 48
    assert np.abs(columns["quota"] - x_star).max() < 1 + 1e-4
    assert found.step("density").report["asked"] == 48
    assert found.step("density").report["saturated"] == (columns["quota"] == size).sum()


@pytest.mark.parametrize("keep", ["hard", "easy", "random"])
def test_each_cluster_keeps_its_quota_of_the_right_ones(keep: str) -> None:
    found = filtered(concepts(), Density(by="clip", clusters=5, fraction=0.5, keep=keep, seed=3), shards=4)
    quota = read_table(found.artifact("density").meta("density.parquet"))["quota"].to_pylist()
    for cluster, rows in member_groups(found).items():
        hashed = hash_values(uids_from_hex([row["uid"] for row in rows]), 3)
        value = {
            "hard": [row["distance"] for row in rows],
            "easy": [-row["distance"] for row in rows],
            "random": hashed.tolist(),
        }[keep]
        order = sorted(range(len(rows)), key=lambda i: (-value[i], rows[i]["uid"]))
        expected = {rows[i]["uid"] for i in order[: quota[cluster]]}
        assert {row["uid"] for row in rows if row["kept"]} == expected
        assert len(expected) == quota[cluster]
    assert len(found.kept) == 60


@pytest.mark.parametrize("keep", ["hard", "random"])
def test_one_answer_for_any_shards_and_order(keep: str) -> None:
    found = answers(concepts(seed=2), Density(by="clip", clusters=6, count=41, keep=keep))
    assert len(found[0]) == 41
    assert all(answer == found[0] for answer in found)


def test_clusters_are_those_of_what_is_left() -> None:
    samples = concepts()
    found = filtered(samples, Random(count=70), Density(by="clip", clusters=4, fraction=0.5), shards=3)
    assert found.step("clusters").report["rows"] == 70
    assert len(found.kept) == 35
    whole = filtered(samples, Random(count=70), Density(by="clip", clusters=4, fraction=0.5, of="pool"), shards=3)
    assert len(whole.kept) == 60


def test_another_fraction_uses_the_same_clusters() -> None:
    pool = filtered(concepts(), shards=3)
    first = pool.through(Density(by="clip", clusters=4, fraction=0.5))
    second = pool.through(Density(by="clip", clusters=4, fraction=0.25, temperature=0.3))
    assert not first.step("clusters").reused
    assert second.step("clusters").reused
    assert not second.step("density").reused
    assert len(second.kept) == 30


def test_shards_without_members_and_one_cluster() -> None:
    samples = concepts(30)
    samples.caption[:20] = ["x"] * 20
    found = filtered(samples, Rules(min_words=2), Density(by="clip", clusters=1, fraction=0.5), shards=3)
    assert len(found.kept) == 5
    assert set(found.kept) < set(samples.uid[20:])


def test_everything_or_nothing_can_be_kept() -> None:
    pool = filtered(concepts(40), shards=2)
    assert len(pool.through(Density(by="clip", clusters=5, fraction=1.0)).kept) == 40
    assert pool.through(Density(by="clip", clusters=5, fraction=0.0)).kept == []


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 99), n=st.integers(0, 60), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_moments_of_parts_are_those_of_the_whole(seed: int, n: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 7, n).astype(np.int32)
    distance = rng.random(n).astype(np.float32) * 2
    edges = [0, *sorted(min(cut, n) for cut in cuts), n]
    parts = [cluster_moments(cluster[a:b], distance[a:b]) for a, b in itertools.pairwise(edges)]
    size, spread = sum_moments(reversed(parts), 7)
    whole = sum_moments([cluster_moments(cluster, distance)], 7)
    assert size.tolist() == whole[0].tolist() == np.bincount(cluster, minlength=7).tolist()
    assert spread.tolist() == whole[1].tolist()
    assert spread.tolist() == pytest.approx([distance[cluster == j].sum(dtype=float) for j in range(7)], abs=1e-7)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"neighbours": 0}, {"balance": 1.5}, {"balance": -0.1}])
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(JobError, match="density needs temperature > 0, neighbours >= 1 and balance"):
        Density(**{"by": "clip", "clusters": 5, "fraction": 0.5, **options})  # type: ignore[arg-type]  # wrong on purpose


def test_more_clusters_than_samples_are_refused() -> None:
    with pytest.raises(DataError, match="the job asks for 31 clusters of the 30 samples"):
        filtered(concepts(30), Density(by="clip", clusters=31, fraction=0.5))
