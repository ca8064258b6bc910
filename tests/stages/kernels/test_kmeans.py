"""Spherical k-means: planted clusters, a plain argmax as oracle, one answer for any split or threads."""

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.pipeline.errors import DataError
from winnow.stages.kernels.kmeans import _unit, fit, imported, train
from winnow.stages.kernels.nearest import Nearest, assign, assign_near


def unit(x, dtype=np.float32):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def planted(n, d, k, seed=0, spread=0.2):
    """n unit rows around k far directions, and the direction of each."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    return unit(np.eye(d)[label] + spread * rng.normal(size=(n, d)) / np.sqrt(d)), label


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_planted_clusters_are_found(dtype):
    x, label = planted(3_000, 32, 4)
    centroids = fit(x.astype(dtype), 4, iterations=30, seed=1)
    cluster, distance = assign(x.astype(dtype), centroids)
    assert len({(a, b) for a, b in zip(cluster.tolist(), label.tolist(), strict=True)}) == 4
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(1, abs=1e-6)
    assert distance.max() < 0.2


def test_assign_equals_an_argmax():
    x, _ = planted(2_000, 24, 9, spread=3.0)
    mu = x[::17]
    cosine = x.astype(float) @ mu.astype(float).T
    cluster, distance = assign(x, mu, block=300)
    assert np.array_equal(cluster, cosine.argmax(axis=1))
    assert distance.tolist() == pytest.approx(1 - cosine.max(axis=1), abs=1e-6)
    assert distance.min() >= 0


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_assign_is_the_same_for_any_split(data):
    """With centroids that all but coincide, so that the last bits of a matrix product would decide."""
    n = 200
    x, _ = planted(n, 48, 3, seed=data.draw(st.integers(0, 5)), spread=2.0)
    mu = unit(np.repeat(x[:10], 6, axis=0) + np.float32(2e-7) * x[10:70])
    whole = assign(x, mu)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=5))), n]
    block = data.draw(st.integers(1, n))
    parts = [assign(x[a:b], mu, block=block) for a, b in pairwise(cuts)]
    for i in range(2):
        assert np.concatenate([p[i] for p in parts]).tobytes() == whole[i].tobytes()
    assert np.array_equal(whole[0], oracle_of_single_rows(x, mu))


def oracle_of_single_rows(x, mu):
    wide = mu.astype(np.float64)
    return np.array([np.vecdot(np.broadcast_to(row, wide.shape).astype(float), wide).argmax() for row in x])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_probes_are_the_next_nearest_for_any_block(data):
    """With twins among the centroids and others that all but coincide; a stable sort of float64 is the oracle."""
    n, probes = 60, data.draw(st.integers(0, 9))
    x, _ = planted(n, 24, 3, seed=data.draw(st.integers(0, 5)), spread=2.0)
    mu = unit(np.repeat(x[:4], 2, axis=0) + np.float32(2e-7) * x[4:12])
    mu = np.concatenate([mu, mu[: data.draw(st.integers(0, 3))]])
    cluster, distance, near = assign_near(x.astype(np.float16), mu, probes, block=data.draw(st.integers(1, n)))
    wide, rows = mu.astype(np.float64), x.astype(np.float16).astype(np.float64)
    order = np.array([np.argsort(-np.vecdot(row, wide), kind="stable") for row in rows])
    found = min(probes, len(mu) - 1)
    assert near.shape == (n, probes)
    assert near.dtype == cluster.dtype == np.int32
    assert np.array_equal(cluster, order[:, 0])
    assert np.array_equal(near[:, :found], order[:, 1 : 1 + found])
    assert (near[:, found:] == -1).all()
    assert distance.tobytes() == assign(x.astype(np.float16), mu)[1].tobytes()


def test_twins_behind_a_clear_nearest_are_in_the_order_of_their_index():
    """The nearest is far ahead; what is uncertain are the ranks after it, and the last against those left out."""
    x = unit(np.array([[5, 1, 1, 0]]) + 1e-3 * np.random.default_rng(0).normal(size=(40, 4)), np.float16)
    mu = unit(np.array([[0, 1, 1, 0], [0, 1, 1, 1e-7], [1, 0, 0, 0], [0, 1, 1, -1e-7], [0, 1, 1, 0], [0, 0, 0, 1]]))
    wide = mu.astype(np.float64)
    order = np.array([np.argsort(-np.vecdot(row.astype(np.float64), wide), kind="stable") for row in x])
    assert (order[:, 0] == 2).all()
    for probes in range(5):
        for block in (1, 7, 40):
            assert np.array_equal(assign_near(x, mu, probes, block=block)[2], order[:, 1 : 1 + probes])


def test_calls_one_after_the_other_are_apart():
    """The memory that is kept between calls carries nothing over, and no answer lies in it."""
    x, _ = planted(300, 16, 5, spread=2.0)
    nearest = Nearest(x[:20], 2, block=64)
    parts = [x[:100].astype(np.float16), x[:3], x[100:300].astype(np.float16), x[:0], x[40:200]]
    together = [nearest(part) for part in parts]
    for part, found in zip(parts, together, strict=True):
        alone = assign_near(part, x[:20], 2)
        assert all(one.tobytes() == other.tobytes() for one, other in zip(found, alone, strict=True))


def test_equal_centroids_go_to_the_lowest_index():
    x, _ = planted(500, 8, 3)
    cluster, _ = assign(x, np.concatenate([x[:5], x[:5], x[:5]]))
    assert cluster.max() < 5


def test_fit_does_not_depend_on_threads():
    x, _ = planted(5_003, 33, 12, spread=4.0)
    one, two = (fit(x, 17, iterations=15, seed=4, threads=t) for t in (1, 2))
    assert one.tobytes() == two.tobytes()
    assert fit(x, 17, iterations=15, seed=5).tobytes() != one.tobytes()


def rows_of(n, d, distinct, seed):
    """n unit rows of which so many are distinct; few of them leave clusters empty, which faiss fills by splits."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(distinct, d)))[rng.integers(0, distinct, n)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_fit_that_goes_on_ends_as_one_call_of_faiss(data):
    """Whole, and from the progress after any iteration: the bits of all iterations in one call, splits included."""
    n, d, seed = data.draw(st.integers(2, 120)), data.draw(st.integers(2, 12)), data.draw(st.integers(0, 9))
    x = rows_of(n, d, data.draw(st.integers(1, n)), seed)
    k, iterations = data.draw(st.integers(1, n)), data.draw(st.integers(1, 30))
    expected = _unit(train(x, k, iterations=iterations, seed=seed, threads=1), x[0]).tobytes()
    seen = []
    assert fit(x, k, iterations=iterations, seed=seed, after=seen.append).tobytes() == expected
    assert [progress.iterations for progress in seen] == list(range(1, len(seen) + 1))
    assert len(seen) < iterations
    if seen:
        begun = data.draw(st.sampled_from(seen))
        later = []
        assert fit(x, k, iterations=iterations, seed=seed, begun=begun, after=later.append).tobytes() == expected
        assert [one.centroids.tobytes() for one in later] == [
            one.centroids.tobytes() for one in seen[begun.iterations :]
        ]


def test_a_fit_ends_where_an_iteration_changes_nothing():
    x, _ = planted(300, 16, 3)
    seen = []
    fit(x, 3, iterations=1000, seed=1, after=seen.append)
    assert 1 <= len(seen) < 100


def test_few_distinct_rows_give_finite_centroids(capfd):
    x = np.repeat(np.eye(6, dtype=np.float32)[:3], 20, axis=0)
    centroids = fit(x, 10, iterations=20)
    cluster, distance = assign(x, centroids)
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(1, abs=1e-6)
    assert distance.max() < 1e-3
    assert len(set(cluster.tolist())) >= 3
    assert capfd.readouterr() == ("", "")


def test_rows_that_cancel_still_give_a_unit_centroid():
    x = np.array([[1, 0], [-1, 0]], np.float32)
    centroids = fit(x, 1)
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(1)
    assert assign(x, centroids)[1].tolist() == [0, 2]


def test_as_many_clusters_as_samples_and_no_rows():
    x = np.eye(4, dtype=np.float32)
    assert sorted(assign(x, fit(x, 4))[0].tolist()) == [0, 1, 2, 3]
    cluster, distance = assign(x[:0], x)
    assert (cluster.dtype, distance.dtype, len(cluster)) == (np.int32, np.float32, 0)
    assert assign(x, x[:1])[0].tolist() == [0, 0, 0, 0]


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_imported_centroids_are_of_unit_norm(dtype):
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(dtype)
    found = imported(saved(x), "a.npy")
    assert found.dtype == np.float32
    wide = x.astype(np.float64)
    assert found.tolist() == (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32).tolist()


def test_importing_what_was_exported_changes_no_bit():
    x, _ = planted(400, 33, 3, spread=3.0)
    assert imported(saved(fit(x, 40)), "a.npy").tobytes() == fit(x, 40).tobytes()
    assert imported(saved(np.asfortranarray(x)), "a.npy").tobytes() == x.tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no npy", "a.npy is not: "),
        (saved(np.eye(3))[:-9], "must be a whole .npy file"),
        (saved(np.array([{}]), allow_pickle=True), "without objects, but a.npy is not: "),
        (saved(np.eye(3, dtype=np.int64)), r"a.npy holds int64 of shape \(3, 3\)"),
        (saved(np.ones(3)), r"holds float64 of shape \(3,\)"),
        (saved(np.ones((0, 3))), r"holds float64 of shape \(0, 3\)"),
        (saved(np.array([[1.0, 0], [0, 0], [0, 0]])), "2 of 3 in a.npy are not, first row 1"),
        (saved(np.array([[1, np.nan]])), "1 of 1 in a.npy are not, first row 0"),
        (saved(np.array([[1, np.inf]])), "1 of 1 in a.npy are not, first row 0"),
    ],
)
def test_what_is_no_centroids_is_refused(content, message):
    with pytest.raises(DataError, match=message):
        imported(content, "a.npy")


def test_broken_questions_are_refused():
    x = np.eye(4, dtype=np.float32)
    with pytest.raises(DataError, match="5 clusters and 4 samples; ask for between 1 and 4 clusters"):
        fit(x, 5)
    with pytest.raises(DataError, match="0 clusters"):
        fit(x, 0)
    broken = x.copy()
    broken[2] = np.nan
    with pytest.raises(DataError, match="1 of 4 are not, first at 2 with norm nan"):
        fit(broken, 2)
    with pytest.raises(DataError, match=r"first at 3 with norm 0\.0"):
        assign(np.concatenate([x[:3], x[:1] * 0]), x, block=2)
    with pytest.raises(DataError, match="there must be at least 1 centroid, got 0"):
        assign(x, x[:0])
    with pytest.raises(DataError, match=r"rows of shape \(4, 3\) and centroids of shape \(4, 4\); use those of one"):
        Nearest(x)(x[:, :3])
