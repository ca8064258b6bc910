"""Repeats in a cluster: plain loops as oracles, blocks crossed, ties, exact copies, chains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.near import Method, repeats
from tests.pools import normed, unit

METHODS = pytest.mark.parametrize("method", ["greedy", "semdedup"])


def oracle(vectors: np.ndarray, epsilon: float, method: Method) -> list[int]:
    """First earlier remover of each row, -1 where it stays: a double loop in float64."""
    x = vectors.astype(np.float32).astype(np.float64)
    leader: list[int] = []
    for j in range(len(x)):
        earlier = [i for i in range(j) if method == "semdedup" or leader[i] < 0]
        near = [i for i in earlier if x[i] @ x[j] > 1 - epsilon]
        leader.append(near[0] if near else -1)
    return leader


def groups(n: int, k: int, spread: float, seed: int = 0) -> np.ndarray:
    """n rows around k directions."""
    rng = np.random.default_rng(seed)
    return normed(unit(k, 24, seed)[rng.integers(0, k, n)] + spread * rng.normal(size=(n, 24)) / 5)


@METHODS
@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 60), k=st.integers(1, 8), spread=st.floats(0, 0.6), epsilon=st.floats(0.01, 0.4))
def test_equals_a_double_loop(method: Method, n: int, k: int, spread: float, epsilon: float) -> None:
    x = groups(n, k, spread) if n else np.empty((0, 24), np.float16)
    leader, cosine = repeats(x, epsilon, method)
    assert leader.tolist() == oracle(x, epsilon, method)
    lost = np.flatnonzero(leader >= 0)
    wide = x.astype(np.float64)
    assert cosine[lost].tolist() == pytest.approx((wide[lost] * wide[leader[lost]]).sum(axis=1), abs=1e-6)
    assert not cosine[leader < 0].any()


@METHODS
def test_blocks_are_crossed(method: Method) -> None:
    """2,500 rows are three blocks; leaders of the last lie in each of them."""
    x = groups(2500, 1300, 0.1)
    leader, _ = repeats(x, 0.05, method)
    wide = x.astype(np.float64)
    close = wide @ wide.T > 0.95
    found: list[int] = []
    for j in range(len(x)):
        earlier = np.flatnonzero(close[j, :j])
        if method == "greedy":
            earlier = earlier[[found[i] < 0 for i in earlier]] if len(earlier) else earlier
        found.append(int(earlier[0]) if len(earlier) else -1)
    assert leader.tolist() == found
    crossing = {int(i) // 1024 for i in leader[2048:] if i >= 0}
    assert crossing == {0, 1, 2}


@METHODS
def test_rows_that_repeat_exactly_leave_the_first(method: Method) -> None:
    x = np.repeat(unit(3, 32), 700, axis=0)
    leader, cosine = repeats(x, 0.01, method)  # float16 moves a norm by up to 0.001
    assert np.flatnonzero(leader < 0).tolist() == [0, 700, 1400]
    assert leader[1:700].tolist() == [0] * 699
    assert cosine[1] == pytest.approx(1, abs=2e-3)


def test_a_removed_sample_removes_only_by_the_papers_rule() -> None:
    """A chain: each 20 degrees from the last, the limit at 25 degrees."""
    angles = np.deg2rad(20.0 * np.arange(4))
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    epsilon = 1 - np.cos(np.deg2rad(25))
    assert repeats(chain, epsilon, "greedy")[0].tolist() == [-1, 0, -1, 2]
    assert repeats(chain, epsilon, "semdedup")[0].tolist() == [-1, 0, 1, 2]


@METHODS
def test_a_cosine_at_the_limit_does_not_remove(method: Method) -> None:
    """3-4-5 triangles in eighths: cosine 0.5 is exact in every type, and the limit is 0.5."""
    x = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], np.float32)
    assert repeats(x, 0.5, method)[0].tolist() == [-1, -1]
    assert repeats(x, 0.5 + 1e-9, method)[0].tolist() == [-1, 0]


@METHODS
@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 80), seed=st.integers(0, 9))
def test_nothing_that_stays_is_near_another_that_stays(method: Method, n: int, seed: int) -> None:
    x = groups(n, 6, 0.3, seed)
    leader, _ = repeats(x, 0.1, method)
    wide = x.astype(np.float64)
    stays = np.flatnonzero(leader < 0)
    near = wide[stays] @ wide[stays].T > 0.9
    assert not np.triu(near, 1).any()
    assert (leader < np.arange(n)).all()
