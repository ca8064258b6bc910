"""Finds all pairs of unit vectors whose cosine is above a limit: blocked matrix products, exact near the limit.

Rows are sorted best first. Each row is compared with better rows only, the best of them first, so it can stop as soon
as it has found as many as it may keep.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64, Shaped

_BLOCK = 1024  # rows of a product: (1024, d) @ (d, 1024) is 4 MB of float32, which a cache holds
_TOLERANCE = 1e-5  # float32 products of unit vectors in different orders differ by less
_PAIRS = 1 << 13  # pairs whose float32 products are held at once: 16 MB at d = 512


@dataclass(frozen=True)
class ClosePairs:
    """Close pairs: row `worse` comes after row `better` in the order, and their cosine is above the limit.

    worse, better: int64 (m,), by worse and then by better. cosine: float32 (m,).
    """

    worse: Int64[np.ndarray, "m"]
    better: Int64[np.ndarray, "m"]
    cosine: Float32[np.ndarray, "m"]


def close_pairs(
    rows: Float32[np.ndarray, "n d"],
    home: Bool[np.ndarray, "n"],
    side: Int8[np.ndarray, "n"],
    asks: Bool[np.ndarray, "n"],
    across: bool,
    epsilon: float,
    most: int,
) -> ClosePairs:
    """For each row that asks, the best `most` of the rows before it with ⟨x, y⟩ > 1 - epsilon (strict).

    Two rows are compared only if at least one of them is at home. Two visitors of a cell meet in another cell or never.

    rows: float32 (n, d), unit norm, best first. home, asks: bool (n,).
    side: int8 (n,), 0 or 1. across: if true, the rows come from two blocks of a giant cell, `side` says which, and only
        rows of different sides are compared; if false, every side is 0.
    epsilon: in (0, 1). most: at least 1; a row with `most` pairs may have more close rows than these.
    float32 products only propose pairs. Within 1e-5 of the limit, a float64 product of the two rows decides, so blocks
    and threads change no bit. Cost: at most O(n² d) time; a row that has found `most` is not compared again.
    """
    found = []
    for mine, other in ((0, 1), (1, 0)) if across else ((0, 0),):
        here, there = side == mine, side == other
        # Two visitors must not meet, so there are two calls: all rows that ask against rows at home, then rows at home
        # that ask against visitors. One product with a mask would compute pairs only to throw them away.
        found.append(_before(rows, here & asks, there & home, epsilon, most))
        found.append(_before(rows, here & asks & home, there & ~home, epsilon, most))
    worse = np.concatenate([np.empty(0, np.int64), *[w for w, _ in found]])
    better = np.concatenate([np.empty(0, np.int64), *[b for _, b in found]])
    worse, better = first_of_each(worse, better, most)  # each of the two calls found up to `most` for a row
    return ClosePairs(worse, better, cosines(rows, worse, better).astype(np.float32))


def first_of_each(
    worse: Int64[np.ndarray, "m"], better: Int64[np.ndarray, "m"], most: int
) -> tuple[Int64[np.ndarray, "l"], Int64[np.ndarray, "l"]]:
    """For every `worse`, its `most` smallest `better`, in order."""
    order = np.lexsort((better, worse))
    worse, better = worse[order], better[order]
    keep = place_in_run(worse) < most
    return worse[keep], better[keep]


def cosines(
    rows: Float32[np.ndarray, "n d"], left: Int64[np.ndarray, "m"], right: Int64[np.ndarray, "m"]
) -> Float64[np.ndarray, "m"]:
    """Cosine of each pair in float64; the rows beside it in memory do not change its bits."""
    cosine = np.empty(len(left))
    for start in range(0, len(left), _PAIRS):
        part = slice(start, start + _PAIRS)
        cosine[part] = (rows[left[part]] * rows[right[part]]).sum(axis=1, dtype=np.float64)
    return cosine


def place_in_run(sorted_: Shaped[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """How many equal entries stand before each entry of a sorted array: int64 (n,)."""
    if not len(sorted_):
        return np.empty(0, np.int64)
    starts = np.flatnonzero(np.r_[True, sorted_[1:] != sorted_[:-1]])
    return np.arange(len(sorted_)) - np.repeat(starts, np.diff(np.r_[starts, len(sorted_)]))


def _before(
    rows: np.ndarray, later: np.ndarray, earlier: np.ndarray, epsilon: float, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (row of `later`, row of `earlier` before it) above the limit, the first `most` of each; masks (n,)."""
    xs, ys = np.flatnonzero(later), np.flatnonzero(earlier)  # ascending, so best first
    side_by_side = rows[ys]  # (len(ys), d), copied once because a matrix product needs contiguous rows
    worse, better = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(xs), _BLOCK):
        waiting = xs[start : start + _BLOCK]  # (b,): rows that have not found `most` yet
        count = np.zeros(len(waiting), np.int64)
        stop = int(np.searchsorted(ys, waiting[-1]))  # from here on, nothing is better than any row of the block
        for low in range(0, stop, _BLOCK):
            against = ys[low : min(low + _BLOCK, stop)]
            products = rows[waiting] @ side_by_side[low : low + len(against)].T  # (b, d) @ (d, p) = (b, p)
            close = _decided(products, rows, waiting, against, 1.0 - epsilon)
            if against[-1] >= waiting[0]:  # the blocks overlap: a row's own place and later ones are not better
                close &= against < waiting[:, None]
            i, j = np.nonzero(close)  # by row, then best first
            first = count[i] + place_in_run(i) < most
            worse.append(waiting[i[first]])
            better.append(against[j[first]])
            count += np.bincount(i[first], minlength=len(waiting))
            # A full row leaves the product: among n equal pictures the cost is most · n, not n².
            waiting, count = waiting[count < most], count[count < most]
            if not len(waiting):
                break
    return np.concatenate(worse), np.concatenate(better)


def _decided(
    products: np.ndarray, rows: np.ndarray, left: np.ndarray, right: np.ndarray, limit: float
) -> Bool[np.ndarray, "b p"]:
    """Which pairs of rows have a cosine above the limit, given products (b, p) of float32."""
    close: np.ndarray = products > limit + _TOLERANCE
    i, j = np.nonzero((products > limit - _TOLERANCE) & ~close)  # few pairs, so float64 of single rows is cheap
    close[i, j] = cosines(rows, left[i], right[j]) > limit
    return close
