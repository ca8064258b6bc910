"""Prototypes against a sort: the farthest or the nearest of all clusters, above the floor of each, exactly N."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Filtered, Samples, answers, filtered, normed, unit
from winnow.pipeline.errors import JobError
from winnow.stages.cuts.density import Density
from winnow.stages.cuts.prototypes import Prototypes, floors
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules


def crowds(n: int = 90, seed: int = 0) -> Samples:
    """Tight and wide crowds around four directions: without a floor, the tight ones would vanish."""
    rng = np.random.default_rng(seed)
    label = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    spread = np.array([0.05, 0.1, 0.5, 0.9])[label]
    image = normed(unit(4, 16, seed)[label] + spread[:, None] * rng.normal(size=(n, 16)) / 4)
    return Samples.drawn(n, seed=seed, image=image)


def expected(found: Filtered, n: int, balance: float, sign: int) -> set[str]:
    """Floors first, each cluster by itself; then the best of all others, by one sort."""
    rows = [row for row in found.rows if row["cluster"] is not None]
    rows.sort(key=lambda row: (-sign * row["distance"], row["uid"]))
    groups = defaultdict(list)
    for row in rows:
        groups[row["cluster"]].append(row["uid"])
    keep = {u for uids in groups.values() for u in uids[: int(balance * (n * len(uids) // len(rows)))]}
    rest = [row["uid"] for row in rows if row["uid"] not in keep]
    return keep | set(rest[: n - len(keep)])


@pytest.fixture(scope="module")
def pool() -> Filtered:
    """Crowds, before any cut; the clusters of the first test serve the others."""
    return filtered(crowds(), shards=3)


@pytest.mark.parametrize("keep", ["hard", "easy"])
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_keeps_the_extremes_of_all_clusters_above_their_floors(pool: Filtered, keep: str, balance: float) -> None:
    found = pool.through(Prototypes(by="clip", clusters=4, fraction=0.4, keep=keep, balance=balance))
    assert set(found.kept) == expected(found, 36, balance, 1 if keep == "hard" else -1)
    assert len(found.kept) == 36
    assert found.step("prototypes").report["kept"] == found.step("prototypes").report["asked"] == 36


def test_a_floor_saves_the_tight_crowds(pool: Filtered) -> None:
    def least(balance: float) -> int:
        found = pool.through(Prototypes(by="clip", clusters=4, fraction=0.4, balance=balance))
        kept = [row["cluster"] for row in found.rows if row["kept"]]
        return int(np.bincount(kept, minlength=4).min())

    assert least(0.0) == 0
    assert least(0.5) > 0


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_one_answer_for_any_shards_and_order(balance: float) -> None:
    samples = crowds()
    tied = samples.take([*range(90), *range(20)])
    tied.uid[90:] = Samples.drawn(20, seed=9).uid
    found = answers(tied, Prototypes(by="clip", clusters=4, count=37, balance=balance))
    assert len(found[0]) == 37
    assert all(answer == found[0] for answer in found)


@settings(max_examples=6, deadline=None)
@given(n=st.integers(3, 50), count=st.integers(0, 60), balance=st.floats(0, 1), shards=st.integers(1, 4))
def test_keeps_exactly_as_many_as_asked(n: int, count: int, balance: float, shards: int) -> None:
    cut = Prototypes(by="clip", clusters=3, count=count, balance=balance)
    found = filtered(Samples.drawn(n), cut, shards=shards)
    assert len(found.kept) == min(count, n)
    assert set(found.kept) == expected(found, min(count, n), balance, 1)


@given(
    size=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=30).filter(any),
    share=st.floats(0, 1),
    balance=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_floors_fit_and_move_with_their_clusters(size: list[int], share: float, balance: float, seed: int) -> None:
    sizes, total = np.array(size), min(int(share * sum(size)), sum(size))
    least = floors(sizes, total, balance)
    assert least.sum() <= total
    assert (least >= 0).all()
    assert (least <= sizes).all()
    order = np.random.default_rng(seed).permutation(len(size))
    assert floors(sizes[order], total, balance).tolist() == least[order].tolist()
    assert floors(sizes, sum(size), 1.0).tolist() == size


def test_floors_are_half_of_what_one_fraction_leaves() -> None:
    assert floors(np.array([100, 10, 3, 0]), 50, 0.5).tolist() == [22, 2, 0, 0]
    assert floors(np.array([0, 0]), 0, 0.5).tolist() == [0, 0]


def test_only_what_is_left_counts() -> None:
    samples = crowds()
    samples.caption[:30] = ["x"] * 30
    cuts = (Rules(min_words=2), Prototypes(by="clip", clusters=4, fraction=0.5, balance=0.5))
    found = filtered(samples, *cuts, shards=7)
    assert len(found.kept) == 30
    assert set(found.kept) < set(samples.uid[30:])
    whole = filtered(samples, Random(count=50), Prototypes(by="clip", clusters=4, fraction=0.5, of="pool"), shards=2)
    assert len(whole.kept) == 45


def test_density_of_the_same_clusters_shares_them(pool: Filtered) -> None:
    pool.through(Density(by="clip", clusters=4, fraction=0.5))
    assert pool.through(Prototypes(by="clip", clusters=4, fraction=0.5)).step("clusters").reused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": 1.5, "count": 1}, r"balance must be between 0 and 1, got 1\.5"),
        ({}, "must have one of fraction, count and threshold, got none"),
        ({"count": 1, "clusters": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises((JobError, ValueError), match=message):
        Prototypes(**{"by": "clip", "clusters": 4, **options})
