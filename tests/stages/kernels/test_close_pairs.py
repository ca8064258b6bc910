"""Close pairs against a plain double loop: blocks crossed, ties, exact copies, who may be compared with whom."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import normed, unit
from winnow.stages.kernels.close_pairs import ClosePairs, close_pairs, place_in_run


def groups(n: int, k: int, spread: float, seed: int = 0) -> np.ndarray:
    """n rows around k directions, float32."""
    rng = np.random.default_rng(seed)
    return normed(unit(k, 24, seed)[rng.integers(0, k, n)] + spread * rng.normal(size=(n, 24)) / 5).astype(np.float32)


def all_home(x: np.ndarray, epsilon: float, most: int = 1 << 30) -> ClosePairs:
    """One cell without visitors."""
    every = np.ones(len(x), bool)
    return close_pairs(x, every, np.zeros(len(x), np.int8), every, False, epsilon, most)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 50),
    k=st.integers(1, 8),
    spread=st.floats(0, 0.6),
    epsilon=st.floats(0.01, 0.4),
    most=st.sampled_from([1, 2, 5, 1000]),
    across=st.booleans(),
    seed=st.integers(0, 5),
)
def test_equals_a_double_loop(
    n: int, k: int, spread: float, epsilon: float, most: int, across: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = groups(n, k, spread, seed) if n else np.empty((0, 24), np.float32)
    home, asks = rng.random(n) < 0.6, rng.random(n) < 0.8
    side = rng.integers(0, 2, n).astype(np.int8) if across else np.zeros(n, np.int8)
    wide = x.astype(np.float64)
    expected = []
    for j in np.flatnonzero(asks):
        meets = [i for i in range(j) if (home[i] or home[j]) and (side[i] != side[j] or not across)]
        expected += [(int(j), i) for i in meets if wide[i] @ wide[j] > 1 - epsilon][:most]
    pairs = close_pairs(x, home, side, asks, across, epsilon, most)
    assert list(zip(pairs.worse.tolist(), pairs.better.tolist(), strict=True)) == expected
    assert pairs.cosine.tolist() == pytest.approx([wide[i] @ wide[j] for j, i in expected], abs=1e-6)


@pytest.mark.parametrize("most", [1, 3])
def test_blocks_are_crossed(most: int) -> None:
    """2,500 rows are three blocks; the better ones of the last lie in each of them."""
    x = groups(2500, 1300, 0.1)
    pairs = all_home(x, 0.05, most)
    wide = x.astype(np.float64)
    close = np.tril(wide @ wide.T > 0.95, -1)
    expected = [(j, int(i)) for j in range(2500) for i in np.flatnonzero(close[j])[:most]]
    assert list(zip(pairs.worse.tolist(), pairs.better.tolist(), strict=True)) == expected
    last = pairs.better[pairs.worse >= 2048]
    assert {int(i) // 1024 for i in last} == {0, 1, 2}


def test_rows_that_are_equal_all_name_the_first() -> None:
    pairs = all_home(np.repeat(unit(3, 32), 700, axis=0).astype(np.float32), 0.01, 1)
    assert pairs.worse.tolist() == [i for i in range(2100) if i % 700]
    assert set(pairs.better.tolist()) == {0, 700, 1400}
    assert pairs.cosine == pytest.approx(1, abs=2e-3)  # float16 moves a norm by up to 0.001


def test_a_cosine_at_the_limit_is_not_close() -> None:
    """3-4-5 triangles in eighths: cosine 0.5 is exact in every type, and the limit is 0.5."""
    x = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], np.float32)
    assert len(all_home(x, 0.5).worse) == 0
    assert all_home(x, 0.5 + 1e-9).worse.tolist() == [1]


@given(st.lists(st.integers(0, 4), max_size=30))
def test_places_in_runs(values: list[int]) -> None:
    ordered = np.sort(np.array(values, np.int64))
    assert place_in_run(ordered).tolist() == [i - ordered.tolist().index(v) for i, v in enumerate(ordered.tolist())]
