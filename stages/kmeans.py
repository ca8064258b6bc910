"""Spherical k-means and exact nearest centroids; refuses more clusters than samples, and rows not of norm 1.

The one home of faiss. `fit` sees a sample of the pool in one process; `assign` sees any block of any shard,
and gives each row an answer that depends on that row and the centroids alone.
"""

import faiss
import numpy as np
from jaxtyping import Float, Float32, Float64, Int32, Int64

from pipeline.errors import DataError

Vectors = Float[np.ndarray, "n d"]
Centroids = Float32[np.ndarray, "k d"]

_UNIT_TOLERANCE = 0.01  # float16 rounding moves a norm by less than 0.001
_NEAR = 1e-5  # two float32 sums of 1,024 products in different orders differ by less
_COSINE_ROWS = 256  # float64 copies that stay in cache: four times the speed of whole blocks


def fit(vectors: Vectors, k: int, *, iterations: int = 100, seed: int = 0, threads: int = 1) -> Centroids:
    """k centroids of unit norm that make the sum of ⟨x, mu_c(x)⟩ large (Lloyd's iterations, spherical).

    vectors: float16 or float32 (n, d), unit norm, k <= n; all are used: the caller takes the sample (faiss
        itself would take 256 k).
    iterations: 100 in the published code of density-based pruning.
    threads: CPU threads. They change the time only: measured bit-identical from 1 to 8 threads. A GPU is used
        where faiss finds one; its centroids differ in the last bits from those of a CPU.
    Returns float32 (k, d). An empty cluster is split off a large one, so all centroids are finite even where
    fewer than k rows are distinct; members that cancel to 0 are replaced by row 0.
    Cost O(iterations n k d), memory 4 n d bytes.
    Raises DataError for k > n, k < 1, and for rows that are not finite and of unit norm.
    """
    n, d = vectors.shape
    if not 1 <= k <= n:
        raise DataError(
            f"k-means needs at least one sample a cluster and one cluster, but {k} clusters and {n} samples "
            f"came; ask for between 1 and {n} clusters, or for more samples"
        )
    rows = np.ascontiguousarray(vectors, np.float32)
    _check_unit(rows, "row")
    kmeans = faiss.Kmeans(
        d,
        k,
        niter=iterations,
        seed=seed,
        spherical=True,
        gpu=faiss.get_num_gpus() > 0,
        max_points_per_centroid=n,  # no sampling inside faiss
        min_points_per_centroid=1,  # no warning on stderr
    )
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        kmeans.train(rows)
    finally:
        faiss.omp_set_num_threads(before)
    return _unit(np.asarray(kmeans.centroids), rows[0])


def assign(
    vectors: Vectors, centroids: Centroids, *, block: int = 2048
) -> tuple[Int32[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """Each row's nearest centroid c = argmax_j ⟨x, mu_j⟩ and its distance 1 − ⟨x, mu_c⟩.

    vectors: float16 or float32 (n, d), unit norm. centroids: float32 (k, d), unit norm, k >= 1.
    block: rows in work at once; it bounds memory (4 k + 4 d bytes a row) and changes no bit of the result.
    Returns cluster int32 (n,) and distance float32 (n,) in [0, 2]. Equal cosines: the lowest index.
    A float32 matrix product gives a row other last bits in another block, so it only proposes: where the two
    best are closer than 1e-5, float64 products of single rows decide, and they give every distance.
    Cost O(n k d), about 1.2 times the matrix product and its argmax.
    Raises DataError for no centroids, another d, or rows that are not finite and of unit norm.
    """
    if not len(centroids) or centroids.shape[1] != vectors.shape[1]:
        raise DataError(
            f"rows and centroids must have one width and there must be a centroid, but rows of shape "
            f"{vectors.shape} and centroids of shape {centroids.shape} came; use those of one encoder"
        )
    _check_unit(centroids, "centroid")
    exact = centroids.astype(np.float64)
    cluster = np.empty(len(vectors), np.int32)
    distance = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), block):
        rows = np.asarray(vectors[start : start + block], np.float32)
        _check_unit(rows, "row", start)
        best = _nearest(rows, centroids, exact)
        cluster[start : start + block] = best
        distance[start : start + block] = np.clip(1 - _cosines(rows, exact, best), 0, 2)
    return cluster, distance


def _nearest(
    rows: Float32[np.ndarray, "b d"], centroids: Centroids, exact: Float64[np.ndarray, "k d"]
) -> Int64[np.ndarray, "b"]:
    """argmax of the cosines of each row, the same in every block."""
    scores = rows @ centroids.T  # (b, d) @ (d, k)
    every = np.arange(len(rows))
    best: np.ndarray = scores.argmax(axis=1)
    top = scores[every, best]
    scores[every, best] = -np.inf
    close = np.flatnonzero(top - scores.max(axis=1) < _NEAR)
    scores[close, best[close]] = top[close]
    for i in close:
        # ascending candidates, so argmax gives the lowest index of equal cosines
        candidates = np.flatnonzero(scores[i] > top[i] - _NEAR)
        cosines = _cosines(np.broadcast_to(rows[i], (len(candidates), rows.shape[1])), exact, candidates)
        best[i] = candidates[cosines.argmax()]
    return best


def _cosines(
    rows: Float32[np.ndarray, "b d"], exact: Float64[np.ndarray, "k d"], cluster: Int64[np.ndarray, "b"]
) -> Float64[np.ndarray, "b"]:
    """⟨x_i, mu_cluster(i)⟩ in float64, each row by itself: no other row can change its bits."""
    cosine = np.empty(len(rows), np.float64)
    for start in range(0, len(rows), _COSINE_ROWS):
        part = slice(start, start + _COSINE_ROWS)
        cosine[part] = np.vecdot(rows[part].astype(np.float64), exact[cluster[part]])
    return cosine


def _check_unit(rows: Float32[np.ndarray, "b d"], what: str, start: int = 0) -> None:
    norm = np.sqrt(np.vecdot(rows, rows))
    wrong = np.flatnonzero(~(np.abs(norm - 1) < _UNIT_TOLERANCE))  # NaN is wrong too
    if len(wrong):
        raise DataError(
            f"every {what} must be finite and of unit norm, but {len(wrong)} of {len(rows)} are not, first "
            f"at {start + wrong[0]} with norm {norm[wrong[0]]}; normalise them, or reject those samples"
        )


def _unit(centroids: Centroids, fallback: Float32[np.ndarray, "d"]) -> Centroids:
    wide = centroids.astype(np.float64)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    zero = norm[:, 0] == 0
    wide[zero], norm[zero] = fallback, np.linalg.norm(fallback.astype(np.float64))
    return np.asarray(wide / norm, np.float32)
