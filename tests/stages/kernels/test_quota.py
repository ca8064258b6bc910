"""Quotas against general solvers and a plain bisection, and the laws: exact sums, bounds, order, symmetry."""

import tracemalloc

import clarabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import minimize

from winnow.pipeline.errors import DataError
from winnow.stages.kernels.quota import complexity, inter_distance, project, quotas, round_to_total, share


def clusters(k, seed):
    rng = np.random.default_rng(seed)
    size = rng.lognormal(6, 1.2, k).astype(np.int64)
    size[rng.random(k) < 0.1] = rng.integers(0, 3)
    return size, rng.gamma(2.0, 0.1, k)


def bounds(size, total, balance):
    floor = int(total / len(size) * balance) if balance else 1
    return np.maximum(np.minimum(floor, size - 1), 0)


def bisection(target, lower, upper, total):
    """The projection found by halving an interval of nu two hundred times."""
    left, right = (target - upper).min() - 1, (target - lower).max() + 1
    for _ in range(200):
        nu = (left + right) / 2
        if np.clip(target - nu, lower, upper).sum() > total:
            left = nu
        else:
            right = nu
    return np.clip(target - nu, lower, upper)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("balance", [0.0, 0.5])
@pytest.mark.parametrize("k", [1, 7, 500, 2_000])
def test_projection_equals_bisection(temperature, balance, k):
    size, c = clusters(k, k)
    total = int(0.4 * size.sum())
    lower = bounds(size, total, balance)
    x = project(share(c, temperature) * total, lower.astype(float), size.astype(float), float(total))
    y = bisection(share(c, temperature) * total, lower, size, total)
    assert np.abs(x - y).max() <= 1e-4 * total / k
    assert abs(x.sum() - total) < 1e-6 * total
    _, quota = quotas(size, c, total, temperature, balance)
    assert quota.sum() == total
    assert (lower <= quota).all()
    assert (quota <= size).all()
    assert np.abs(quota - x).max() < 1 + 1e-6


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_projection_equals_scipy(temperature, balance):
    size, c = np.array([90, 5, 40, 1, 0, 300, 12], np.int64), np.array([0.3, 0.9, 0.25, 0.4, 0.4, 0.1, 0.6])
    total = 200
    lower, target = bounds(size, total, balance), share(c, temperature) * total
    x = project(target, lower.astype(float), size.astype(float), float(total))
    found = minimize(
        lambda y: ((y - target) ** 2).sum() / total,
        np.clip(target, lower, size),
        jac=lambda y: 2 * (y - target) / total,
        bounds=list(zip(lower, size, strict=True)),
        constraints={"type": "eq", "fun": lambda y: y.sum() - total, "jac": lambda y: np.ones_like(y)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    assert np.abs(x - found.x).max() <= 1e-4 * total / len(size)


def drawn(seed):
    """A quota problem of 2 to 2,000 clusters; those of the largest shares are far smaller than these, or very large."""
    rng = np.random.default_rng(seed)
    k = (2, 2_000)[seed] if seed < 2 else int(np.exp(rng.uniform(np.log(2), np.log(2_001))))
    size = rng.lognormal(6, 1.2, k).astype(np.int64)
    c = rng.gamma(2.0, rng.choice([0.1, 0.4]), k)
    largest = np.argsort(-c)[: max(1, k // 10)]
    size[largest] = size[largest] // 20 if seed % 4 < 2 else size[largest] * 20
    total = int(rng.uniform(0.02, 0.95) * size.sum())
    temperature = float(np.exp(rng.uniform(np.log(0.02), 0)))
    return size, c, total, temperature, float(rng.uniform()) if seed % 2 else 0.0


def interior_point(target, lower, upper, total):
    """The same question to a general conic solver, which knows nothing of its shape; in units of total / k."""
    k, unit = len(target), total / len(target)
    eye = sparse.identity(k, format="csc")
    rows = sparse.vstack([np.ones((1, k)), eye, -eye], format="csc")
    right = np.concatenate([[total], upper, -lower]) / unit
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(2 * k)]
    found = clarabel.DefaultSolver(sparse.triu(eye, format="csc"), -target / unit, rows, right, cones, settings).solve()
    assert found.status == clarabel.SolverStatus.Solved
    return np.array(found.x) * unit


def test_projection_equals_a_general_solver():
    at_upper, at_lower, within = 0, 0, 0
    for seed in range(50):
        size, c, total, temperature, balance = drawn(seed)
        lower = bounds(size, total, balance)
        lower = lower if lower.sum() <= total else 0 * size
        target = share(c, temperature) * total
        x = project(target, lower.astype(float), size.astype(float), float(total))
        apart = np.abs(x - interior_point(target, lower, size, total)).max()
        assert apart <= 1e-5 * total / len(size), f"seed {seed}"
        _, quota = quotas(size, c, total, temperature, balance)
        assert quota.sum() == total
        assert (lower <= quota).all()
        assert (quota <= size).all()
        assert np.abs(quota - x).max() < 1 + 1e-6
        at_upper, at_lower = at_upper + (x == size).sum(), at_lower + ((x == lower) & (lower < size)).sum()
        within += ((lower < x) & (x < size)).sum()
    assert min(at_upper, at_lower, within) > 200  # no side of the box is left untried


def test_overflow_of_full_clusters_spreads_additively():
    x = project(np.array([60.0, 30.0, 10.0]), np.zeros(3), np.array([40.0, 100.0, 100.0]), 100.0)
    assert x.tolist() == pytest.approx([40, 40, 20])


@st.composite
def problems(draw):
    """Sizes, complexities, a total that they can hold, a temperature and a balance."""
    k = draw(st.integers(1, 12))
    size = np.array(draw(st.lists(st.integers(0, 50), min_size=k, max_size=k)), np.int64)
    c = np.array(draw(st.lists(st.floats(0, 2, width=16), min_size=k, max_size=k)))
    total = draw(st.integers(0, int(size.sum())))
    return size, c, total, draw(st.floats(0.02, 1)), draw(st.sampled_from([0.0, 0.3, 1.0]))


@settings(deadline=None)
@given(problems())
def test_quotas_are_exact_within_bounds_and_in_order(problem):
    size, c, total, temperature, balance = problem
    p, quota = quotas(size, c, total, temperature, balance)
    lower = bounds(size, total, balance)
    assert quota.sum() == total
    assert (quota <= size).all()
    assert (quota >= (lower if lower.sum() <= total else 0)).all()
    assert p.sum() == pytest.approx(1)
    lower = lower if lower.sum() <= total else 0 * size
    x = project(p * total, lower.astype(float), size.astype(float), float(total))
    assert (np.abs(quota - x) < 1 + 1e-9).all()
    assert (np.diff(quota[np.lexsort((quota, x))]) >= 0).all()  # a larger x never gets less


@settings(deadline=None)
@given(problems(), st.randoms())
def test_permuted_clusters_have_permuted_quotas(problem, random):
    size, c, total, temperature, balance = problem
    order = np.array(random.sample(range(len(size)), len(size)))
    p, quota = quotas(size, c, total, temperature, balance)
    permuted_p, permuted = quotas(size[order], c[order], total, temperature, balance)
    assert permuted_p == pytest.approx(p[order])
    assert np.abs(permuted - quota[order]).max() <= 1  # equal fractions go by index
    zero, upper = np.zeros(len(size)), size.astype(float)
    x, y = (project(t, zero, u, float(total)) for t, u in ((p * total, upper), (p[order] * total, upper[order])))
    assert y == pytest.approx(x[order], abs=1e-9)


@settings(deadline=None)
@given(problems(), st.integers(0, 11), st.floats(0.1, 30))
def test_projection_is_monotone_in_the_target(problem, j, more):
    size, c, total, temperature, _ = problem
    j %= len(size)
    target, upper = share(c, temperature) * total, size.astype(float)
    raised = target.copy()
    raised[j] += more
    x, y = (project(t, np.zeros(len(size)), upper, float(total)) for t in (target, raised))
    assert y[j] >= x[j] - 1e-9
    assert (np.delete(y, j) <= np.delete(x, j) + 1e-9).all()


@settings(deadline=None)
@given(problems())
def test_keeping_everything_or_nothing(problem):
    size, c, _, temperature, balance = problem
    assert quotas(size, c, int(size.sum()), temperature, balance)[1].tolist() == size.tolist()
    assert not quotas(size, c, 0, temperature, balance)[1].any()


def test_more_clusters_than_samples_goes_to_the_largest_shares():
    _, quota = quotas(np.full(6, 9), np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.0]), 2)
    assert quota.tolist() == [0, 1, 0, 1, 0, 0]


def test_a_billion_samples_are_exact():
    rng = np.random.default_rng(0)
    size = rng.integers(1, 200_000, 20_000)
    total = int(size.sum()) // 2
    _, quota = quotas(size, rng.gamma(2.0, 0.1, 20_000), total)
    assert quota.sum() == total


def test_rounding_gives_the_largest_fractions_and_ties_to_the_lowest_index():
    lower, upper = np.zeros(4, np.int64), np.full(4, 9)
    assert round_to_total(np.array([1.5, 2.5, 0.25, 0.75]), lower, upper, 5).tolist() == [2, 2, 0, 1]
    assert round_to_total(np.array([1.0, 2.0, 0.5, 0.5]), lower, upper, 4).tolist() == [1, 2, 1, 0]
    with pytest.raises(DataError, match="sum to 9, but clipped to them it sums to 4"):
        round_to_total(np.array([1.0, 2.0, 0.5, 0.5]), lower, upper, 9)


def test_share_is_stable():
    assert share(np.array([1e4, 1e4, 0.0]), 0.02).tolist() == [0.5, 0.5, 0.0]
    assert share(np.array([0.2, 0.1]), 0.1)[0] == pytest.approx(1 / (1 + np.exp(-1)))


def test_complexity_of_clusters_without_spread_is_the_mean():
    c = complexity(np.array([0.2, np.nan, 0.4, 0.0]), np.array([0.5, 0.5, 0.5, 0.5]), np.array([2, 0, 9, 1]))
    assert c.tolist() == pytest.approx([0.1, 0.15, 0.2, 0.15])
    assert complexity(np.full(2, np.nan), np.zeros(2), np.array([0, 1])).tolist() == [1, 1]
    with pytest.raises(DataError, match="cluster 1 has d_intra nan"):
        complexity(np.array([0.1, np.nan]), np.ones(2), np.array([5, 5]))


@pytest.mark.parametrize(("k", "neighbours"), [(1, 20), (2, 20), (9, 3), (600, 20)])
def test_inter_distance_equals_a_sort(k, neighbours):
    rng = np.random.default_rng(k)
    mu = rng.normal(size=(k, 16)).astype(np.float32)
    mu /= np.linalg.norm(mu, axis=1, keepdims=True)
    far = 1 - mu.astype(float) @ mu.astype(float).T
    truth = [np.sort(np.delete(far[j], j))[:neighbours].mean() if k > 1 else 0.0 for j in range(k)]
    assert inter_distance(mu, neighbours).tolist() == pytest.approx(truth, abs=1e-6)


def test_inter_distance_holds_a_block_of_the_cosines_and_never_all():
    mu = np.random.default_rng(0).normal(size=(8_000, 4)).astype(np.float32)
    mu /= np.linalg.norm(mu, axis=1, keepdims=True)
    tracemalloc.start()
    inter_distance(mu)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # 256 rows of 8,000 cosines and indices: 25 MB; all of them would be 256 MB of cosines alone


def test_impossible_questions_are_refused():
    size, c = np.array([3, 4]), np.array([0.1, 0.2])
    with pytest.raises(DataError, match="got 8, but the bounds of 2 clusters sum to 2 and 7"):
        quotas(size, c, 8)
    with pytest.raises(DataError, match="got -1"):
        quotas(size, c, -1)
    with pytest.raises(DataError, match="temperature must be > 0, got 0"):
        quotas(size, c, 2, temperature=0.0)
    with pytest.raises(DataError, match=r"balance must be from 0 to 1, got 1\.5"):
        quotas(size, c, 2, balance=1.5)
    with pytest.raises(DataError, match="cluster 1 has 5"):
        project(np.ones(2), np.array([0.0, 5.0]), np.array([1.0, 1.0]), 1.0)
    with pytest.raises(DataError, match="targets must be finite"):
        quotas(size, np.array([0.1, np.nan]), 2)
    with pytest.raises(DataError, match="at least 1, got 0"):
        inter_distance(np.eye(2, dtype=np.float32), 0)
