"""Spherical k-means on a sample of the pool, and centroids from a file; the only home of faiss."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import faiss
import numpy as np
from jaxtyping import Float32

from winnow.pipeline.errors import DataError
from winnow.stages.kernels.nearest import Centroids, FloatVectors, check_unit

_FLOAT32_UNIT = 1e-6  # rounding a unit row to float32 moves its norm by less


@dataclass(frozen=True)
class Progress:
    """Where k-means stands: what it needs to go on to the same centroids, bit for bit.

    iterations: how many are done, at least 1. objective: sum of the cosines in the last of them. centroids: float32
    (k, d), unit norm.
    """

    iterations: int
    objective: float
    centroids: np.ndarray


def _unwatched(progress: Progress) -> None:
    """Nobody keeps a checkpoint."""


def fit(
    vectors: FloatVectors,
    k: int,
    *,
    iterations: int = 100,
    seed: int = 0,
    threads: int = 1,
    gpu: bool = False,
    begun: Progress | None = None,
    after: Callable[[Progress], None] = _unwatched,
) -> Centroids:
    """k centroids of unit norm that make the sum of ⟨x, mu_c(x)⟩ large (Lloyd's iterations, spherical).

    vectors: float16 or float32 (n, d), unit norm, k <= n. All rows are used, so the caller draws the sample (faiss
        itself would draw 256 k).
    iterations: 100 in the published code of density-based pruning.
    threads: CPU threads. They change only the time: results from 1 to 8 threads were measured bit-identical.
    gpu: whether faiss may use a GPU, if it finds one; the centroids differ in the last bits from those of a CPU.
    begun: the progress of an earlier call with the same arguments; the fit goes on from there.
    after: is told the progress after each iteration that another one follows.
    Returns float32 (k, d). faiss splits a large cluster to fill an empty one, so all centroids are finite even if
    fewer than k rows are distinct. A centroid whose members cancel to 0 becomes row 0.
    Cost: O(iterations n k d) time, `fit_bytes` of memory, and 4 n d bytes more if the rows are float16.
    Raises DataError for k > n, k < 1, and for rows that are not finite and of unit norm.
    """
    if not 1 <= k <= len(vectors):
        raise DataError(
            f"k-means needs at least one cluster and one sample per cluster, got {k} clusters and {len(vectors)} "
            f"samples; ask for between 1 and {len(vectors)} clusters, or for more samples"
        )
    rows = np.ascontiguousarray(vectors, np.float32)
    check_unit(rows, "row")
    with _in_threads(threads):
        return _unit(_iterated(rows, k, iterations, seed, gpu, begun, after), rows[0])


@contextmanager
def _in_threads(count: int) -> Iterator[None]:
    """Inside the block, faiss and its BLAS use this many threads; overrides OMP_NUM_THREADS of a worker."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _iterated(
    rows: Float32[np.ndarray, "n d"],
    k: int,
    iterations: int,
    seed: int,
    gpu: bool,
    begun: Progress | None,
    after: Callable[[Progress], None],
) -> Centroids:
    """The centroids after all iterations, each a call of faiss: the same bits as one call for all of them."""
    faiss_kmeans = _faiss_kmeans(rows, k, 0, seed, gpu)
    centroids, objective, done = (
        (_drawn(faiss_kmeans, rows), None, 0) if begun is None else (begun.centroids, begun.objective, begun.iterations)
    )
    if k == len(rows):  # every row is a centroid
        return centroids
    # faiss scales given centroids to norm 1 before it iterates, and a second scaling changes last bits: so it must not
    # scale at all, and the same function of faiss does that after each iteration
    faiss_kmeans.cp.spherical, faiss_kmeans.cp.niter = False, 1
    while done < iterations:
        before, objective = objective, float(faiss_kmeans.train(rows, init_centroids=centroids))
        centroids, done = np.asarray(faiss_kmeans.centroids), done + 1
        faiss.normalize_L2(centroids)
        if objective == before:  # as faiss does: it stops where an iteration changes nothing
            break
        if done < iterations:
            after(Progress(done, objective, centroids))
    return centroids


def _drawn(faiss_kmeans: faiss.Kmeans, rows: Float32[np.ndarray, "n d"]) -> Centroids:
    faiss_kmeans.train(rows)
    return np.asarray(faiss_kmeans.centroids)


def _faiss_kmeans(
    rows: Float32[np.ndarray, "n d"], k: int, iterations: int, seed: int, gpu: bool = False
) -> faiss.Kmeans:
    return faiss.Kmeans(
        rows.shape[1],
        k,
        niter=iterations,
        seed=seed,
        spherical=True,
        gpu=gpu and faiss.get_num_gpus() > 0,
        max_points_per_centroid=len(rows),  # no sampling inside faiss
        min_points_per_centroid=1,  # no warning on stderr
        check_input_data_for_NaNs=False,  # `fit` has checked them; faiss would do so in each iteration
    )


def train(rows: Float32[np.ndarray, "n d"], k: int, *, iterations: int, seed: int, threads: int) -> Centroids:
    """The centroids by one call of faiss, without checks and without scaling to norm 1: what `fit` is compared with.

    Returns float32 (k, d).
    """
    with _in_threads(threads):
        return _drawn(_faiss_kmeans(rows, k, iterations, seed), rows)


def fit_bytes(n: int, d: int) -> int:
    """Peak memory of `fit` on float32 rows (n, d), rows included: per row 4 d bytes, and 12 for its cluster."""
    return n * (4 * d + 12)


def imported(content: bytes, name: str) -> Centroids:
    """Centroids of a .npy file's content: float32 (k, d), unit norm.

    content: floats of any precision (k, d), k >= 1. Rows are divided by their norm in float64. float32 rows of unit
    norm keep their bits, so importing exported centroids changes nothing.
    Raises DataError for anything else, and for rows that are zero or not finite.
    """
    try:
        rows = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"centroids must be a whole .npy file without objects, but {name} is not: {error}") from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f" or rows.ndim != 2 or not rows.size:
        came = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise DataError(f"centroids must be floats of shape (k, d), k and d >= 1, but {name} holds {came}")
    wide = rows.astype(np.float64)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(norm[:, 0]) & (norm[:, 0] > 0)))
    if len(wrong):
        raise DataError(
            f"every centroid must be finite and not zero, but {len(wrong)} of {len(rows)} in {name} are not, first "
            f"row {wrong[0]}; leave them out"
        )
    if rows.dtype == np.float32:
        norm[np.abs(norm - 1) < _FLOAT32_UNIT] = 1
    return np.ascontiguousarray(wide / norm, np.float32)


def _unit(centroids: Centroids, fallback: Float32[np.ndarray, "d"]) -> Centroids:
    wide = centroids.astype(np.float64)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    zero = norm[:, 0] == 0
    wide[zero], norm[zero] = fallback, np.linalg.norm(fallback.astype(np.float64))
    return np.asarray(wide / norm, np.float32)
