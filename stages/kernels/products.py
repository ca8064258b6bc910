"""Products of vectors with those of a target set: the largest, the nearest row, and their norm, exact in float64."""

from collections.abc import Iterator

import numpy as np

from winnow.stages.kernels.float16 import widened

_ROWS = 1024
_TARGETS = 8192  # rows of the target at once: with _ROWS, 32 MB of products
_NEAR = 1e-5  # float32 products of unit vectors in different orders differ by less
_PAIRS = 256  # pairs whose float64 copies stay in cache
_EXACT_ROWS = 16  # the sum of this many products, each up to 1 and a multiple of 2^-48, fits into 53 bits
_GRAM_ROWS = 32  # rows that share one reading of the Gram matrix, which is larger than the cache


def largest(vectors: np.ndarray, target: np.ndarray) -> np.ndarray:
    """NormSim_inf of each row: max_j |⟨z_j, f_i⟩|, float32 (n,) in [0, 1].

    vectors: float16 (n, d), or float32 of the same numbers. target: float16 (m, d), m >= 1. Both of unit norm.
    float32 products only propose candidates. Those within 1e-5 of the largest are computed again in float64, where they
    are exact: products of float16 are multiples of 2^-48, and their sums over unit vectors stay below 2, so 53 bits
    hold them. No block, BLAS or number of threads can change a bit. Cost: O(n m d); 40 MB beside the arguments.
    """
    values = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _ROWS):
        values[start : start + _ROWS] = _largest(vectors[start : start + _ROWS], target)
    return values


def _largest(vectors: np.ndarray, target: np.ndarray) -> np.ndarray:
    exact = np.zeros(len(vectors))
    for a, _, value in _close(vectors, target):
        np.maximum.at(exact, a, value)
    return exact.astype(np.float32)


def nearest(vectors: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`largest` of each row, and the row of the target that has it: float32 (n,) and int64 (n,).

    Of equally near rows the first. Arguments, exactness and cost as `largest`.
    """
    exact, where = np.zeros(len(vectors)), np.zeros(len(vectors), np.int64)
    for start in range(0, len(vectors), _ROWS):
        for a, j, value in _close(vectors[start : start + _ROWS], target):
            order = np.lexsort((j, -value, a))  # of each row the largest first, and of equal ones the first
            order = order[np.r_[True, a[order][1:] != a[order][:-1]][: len(order)]]
            order = order[value[order] > exact[start + a[order]]]
            exact[start + a[order]], where[start + a[order]] = value[order], j[order]
    return exact.astype(np.float32), where


def nearest_above(vectors: np.ndarray, target: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """The largest product of each row with the target that is above the limit, and its row: float64, int64 (n,).

    Where none is above it, 0 and -1. Of equally large ones the first. limit: 0 or more. Arguments, exactness and cost
    as `largest`, but products count with their sign.
    """
    exact, where = np.zeros(len(vectors)), np.full(len(vectors), -1, np.int64)
    for first in range(0, len(vectors), _ROWS):
        rows = widened(vectors[first : first + _ROWS])
        for start in range(0, len(target), _TARGETS):
            part = widened(target[start : start + _TARGETS])
            products = rows @ part.T  # (b, d) @ (d, t)
            least = np.maximum(products.max(axis=1), np.float32(limit))
            i, j = np.nonzero(products > least[:, None] - np.float32(_NEAR))
            for low in range(0, len(i), _PAIRS):
                a, b = i[low : low + _PAIRS], j[low : low + _PAIRS]
                value = np.vecdot(rows[a].astype(np.float64), part[b].astype(np.float64))
                order = np.lexsort((b, -value, a))  # of each row the largest first, and of equal ones the first
                order = order[np.r_[True, a[order][1:] != a[order][:-1]][: len(order)]]
                order = order[value[order] > np.maximum(exact[first + a[order]], limit)]
                exact[first + a[order]], where[first + a[order]] = value[order], start + b[order]
    return exact, where


def _close(vectors: np.ndarray, target: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(row, row of the target, |product| in float64) of pairs that may be the largest of a row, the target in order."""
    rows = widened(vectors)
    proposed = np.zeros(len(rows), np.float32)
    for start in range(0, len(target), _TARGETS):
        part = widened(target[start : start + _TARGETS])
        products = rows @ part.T  # (b, d) @ (d, t)
        np.abs(products, out=products)
        proposed = np.maximum(proposed, products.max(axis=1))
        i, j = np.nonzero(products > proposed[:, None] - np.float32(_NEAR))
        for low in range(0, len(i), _PAIRS):
            a, b = i[low : low + _PAIRS], j[low : low + _PAIRS]
            yield a, start + b, np.abs(np.vecdot(rows[a].astype(np.float64), part[b].astype(np.float64)))


def gram(target: np.ndarray) -> np.ndarray:
    """ZᵀZ of float16 (m, d) of unit norm: float64 (d, d).

    Products of 16 rows are exact in float64, and they are added in order, so every BLAS gives the same bits.
    Cost: O(m d²), 0.12 s per 1,000 rows at d = 768 on one core.
    """
    product = np.zeros((target.shape[1], target.shape[1]))
    for start in range(0, len(target), _EXACT_ROWS):
        rows = target[start : start + _EXACT_ROWS].astype(np.float64)
        product += rows.T @ rows  # (d, 16) @ (16, d) = (d, d)
    return product


def lengths(vectors: np.ndarray, product: np.ndarray) -> np.ndarray:
    """NormSim_2 of each row: ‖Z f_i‖ = sqrt(f_iᵀ G f_i), float64 (n,) from 0 to sqrt(m).

    vectors: float16 (n, d), or float32 of the same numbers, of unit norm. product: G = ZᵀZ, float64 (d, d).
    Each number of G f_i is computed as a separate dot product, because the last bits of a matrix product depend on the
    other rows. Cost: O(n d²) for any m, 60 to 80 µs a row at d = 768 on one core, 2.7 times the matrix product.
    """
    values = np.empty(len(vectors))
    for start in range(0, len(vectors), _GRAM_ROWS):
        rows = vectors[start : start + _GRAM_ROWS].astype(np.float64)
        images = np.vecdot(rows[:, None, :], product)  # (b, 1, d) · (d, d) -> (b, d)
        values[start : start + _GRAM_ROWS] = np.sqrt(np.maximum(np.vecdot(rows, images), 0))
    return values


def in_byte_order(vectors: np.ndarray) -> np.ndarray:
    """Rows of float16 (m, d) sorted by their bytes, so that the result does not depend on their order."""
    ordered: np.ndarray = vectors[byte_order(vectors)]
    return ordered


def byte_order(vectors: np.ndarray) -> np.ndarray:
    """The row numbers of float16 (m, d) in the order of their bytes: int64 (m,)."""
    m, d = vectors.shape
    return np.argsort(np.ascontiguousarray(vectors).view(f"S{2 * d}").reshape(m), kind="stable")
