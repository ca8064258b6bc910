"""Exact nearest centroids of rows: the answer for a row depends only on that row and the centroids."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32, Int64

from winnow.pipeline.errors import DataError
from winnow.stages.kernels.float16 import widened

FloatVectors = Float[np.ndarray, "n d"]
Centroids = Float32[np.ndarray, "k d"]

_UNIT_TOLERANCE = 0.01  # float16 rounding moves a norm by less than 0.001
_NEAR = 1e-5  # two float32 sums of 1,024 products in different orders differ by less
_ROWS = 512  # rows of a block; their scores for a few hundred centroids stay in the processor's cache
_SCORES = 1 << 24  # limit on the float32 scores held at once: 64 MB for any number of centroids
_COSINE_ROWS = 256  # rows whose float64 copies stay in cache: four times the speed of whole blocks


def assign(
    vectors: FloatVectors, centroids: Centroids, *, block: int | None = None
) -> tuple[Int32[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """Each row's nearest centroid and its distance: `assign_near` without probes."""
    cluster, distance, _ = assign_near(vectors, centroids, 0, block=block)
    return cluster, distance


def assign_near(
    vectors: FloatVectors, centroids: Centroids, probes: int, *, block: int | None = None
) -> tuple[Int32[np.ndarray, "n"], Float32[np.ndarray, "n"], Int32[np.ndarray, "n p"]]:
    """Each row's nearest centroid, its distance, and the next nearest ones: one call of `Nearest`."""
    return Nearest(centroids, probes, block)(vectors)


class Nearest:
    """Each row's nearest centroid c = argmax_j ⟨x, mu_j⟩, its distance 1 − ⟨x, mu_c⟩, and the next nearest ones.

    centroids: float32 (k, d), unit norm, k >= 1. probes: how many of the next nearest, p >= 0; usual 0 to 8.
    block: rows of one matrix product. It bounds memory (4 k + 4 d bytes a row) and changes no bit of the result. None:
        512, or fewer if k > 32,768. Calls reuse this memory, so only one thread may use an instance.
    The last bits of a float32 matrix product depend on the block, so it only proposes candidates. If two of the p + 2
    best scores are closer than 1e-5, float64 products of single rows decide. Every distance comes from float64.
    Cost: O(n k (d + p)); without probes, about 1.2 times the matrix product and its argmax.
    Raises DataError if there are no centroids, or if they are not finite and of unit norm.
    """

    def __init__(self, centroids: Centroids, probes: int = 0, block: int | None = None) -> None:
        if not len(centroids):
            raise DataError("there must be at least 1 centroid, got 0; fit or import centroids first")
        check_unit(centroids, "centroid")
        self._centroids = centroids
        self._probes = probes
        self._block = block or max(_COSINE_ROWS, min(_ROWS, _SCORES // len(centroids)))
        self._room = _Room.of(self._block, *centroids.shape)

    def __call__(
        self, vectors: FloatVectors
    ) -> tuple[Int32[np.ndarray, "n"], Float32[np.ndarray, "n"], Int32[np.ndarray, "n p"]]:
        """Assign rows to centroids. vectors: float16 or float32 (n, d), unit norm.

        Returns cluster int32 (n,), distance float32 (n,) in [0, 2], and near int32 (n, p): the next nearest centroids,
        nearest first, and −1 where there are fewer than p others. Equal cosines: the lowest index first.
        Raises DataError for another d, or rows that are not finite and of unit norm.
        """
        centroids, room = self._centroids, self._room
        if centroids.shape[1] != vectors.shape[1]:
            raise DataError(
                f"rows and centroids must be equally wide, got rows of shape {vectors.shape} and centroids of shape "
                f"{centroids.shape}; use those of one encoder"
            )
        found = min(1 + self._probes, len(centroids))
        near = np.full((len(vectors), 1 + self._probes), -1, np.int32)
        distance = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), self._block):
            part = vectors[start : start + self._block]
            rows = part if part.dtype == np.float32 else widened(part, room.rows)
            check_unit(rows, "row", start)
            best = _nearest(rows, centroids, found, room)
            near[start : start + len(rows), :found] = best
            distance[start : start + len(rows)] = np.clip(1 - _cosines(rows, centroids, best[:, 0], room), 0, 2)
        return np.ascontiguousarray(near[:, 0]), distance, np.ascontiguousarray(near[:, 1:])


@dataclass(frozen=True)
class _Room:
    """Buffers for one block, reused by all blocks: allocating them anew can cost more than computing what they hold.

    rows: float32 (b, d). scores: float32 (b, k). own: float32 (c, d). left, right: float64 (c, d).
    """

    rows: np.ndarray
    scores: np.ndarray
    own: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, block: int, k: int, d: int) -> "_Room":
        # np.empty is enough: pages that are never written take no memory
        rows, scores = np.empty((block, d), np.float32), np.empty((block, k), np.float32)
        own = np.empty((_COSINE_ROWS, d), np.float32)
        return cls(rows, scores, own, np.empty(own.shape, np.float64), np.empty(own.shape, np.float64))


def _nearest(
    rows: Float32[np.ndarray, "b d"], centroids: Centroids, found: int, room: _Room
) -> Int64[np.ndarray, "b m"]:
    """The `found` centroids of highest cosine of each row, in order, independent of the block; found <= k."""
    scores = np.matmul(rows, centroids.T, out=room.scores[: len(rows)])  # (b, d) @ (d, k) = (b, k)
    every = np.arange(len(rows))
    best = np.empty((len(rows), found), np.int64)
    top = np.empty((len(rows), found + 1), np.float32)  # one more than is returned: the last place can be a tie too
    for rank in range(found):
        best[:, rank] = scores.argmax(axis=1)
        top[:, rank] = scores[every, best[:, rank]]
        scores[every, best[:, rank]] = -np.inf
    top[:, found] = scores.max(axis=1)  # -inf if found = k
    close = np.flatnonzero((top[:, :-1] - top[:, 1:] < _NEAR).any(axis=1))  # rows whose order float32 cannot settle
    scores[close[:, None], best[close]] = top[close, :found]  # put back what the search for the best overwrote
    for i in close:
        # candidates ascend and the sort is stable, so of equal cosines the lowest index comes first
        candidates = np.flatnonzero(scores[i] > top[i, found - 1] - _NEAR)
        cosines = _cosines(np.broadcast_to(rows[i], (len(candidates), rows.shape[1])), centroids, candidates, room)
        best[i] = candidates[np.argsort(-cosines, kind="stable")[:found]]
    return best


def _cosines(
    rows: Float32[np.ndarray, "b d"], centroids: Centroids, cluster: Int64[np.ndarray, "b"], room: _Room
) -> Float64[np.ndarray, "b"]:
    """⟨x_i, mu_cluster(i)⟩ in float64. Each row is computed by itself, so other rows cannot change its bits."""
    cosine = np.empty(len(rows), np.float64)
    for start in range(0, len(rows), _COSINE_ROWS):
        part = rows[start : start + _COSINE_ROWS]
        own, left, right = room.own[: len(part)], room.left[: len(part)], room.right[: len(part)]
        np.take(centroids, cluster[start : start + len(part)], axis=0, out=own, mode="clip")  # "raise" would buffer out
        left[...], right[...] = part, own
        np.vecdot(left, right, out=cosine[start : start + len(part)])
    return cosine


def check_unit(rows: Float[np.ndarray, "b d"], what: str, start: int = 0) -> None:
    """Raises DataError unless every row is finite and of unit norm. start: number of the first row, for the message."""
    norm = np.sqrt(np.vecdot(rows, rows))
    wrong = np.flatnonzero(~(np.abs(norm - 1) < _UNIT_TOLERANCE))  # NaN is wrong too
    if len(wrong):
        raise DataError(
            f"every {what} must be finite and of unit norm, but {len(wrong)} of {len(rows)} are not, first "
            f"at {start + wrong[0]} with norm {norm[wrong[0]]}; normalise them, or reject those samples"
        )
