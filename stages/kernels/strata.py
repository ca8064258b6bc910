"""Ranges of equal width over a score, and how many samples each of them keeps."""

from dataclasses import dataclass

import numpy as np

from winnow.pipeline.errors import DataError

Number = int | float


def stratum_of(value: np.ndarray, low: Number, high: Number, strata: int) -> np.ndarray:
    """Which of `strata` ranges of equal width over [low, high] each value is in: int32 (n,).

    value: (n,) of any dtype that is ordered, in [low, high]. A value on an edge is in the upper range, `high` in the
    last; low = high: all 0.
    """
    if not low < high:
        return np.zeros(len(value), np.int32)
    if value.dtype.kind == "f":
        above = value.astype(np.float64) - low
    else:  # whole numbers of any size: what is above the lowest is below 2^64, whatever their sign
        above = (value.view(np.uint64) - np.uint64(int(low) % (1 << 64))).astype(np.float64)
    at = above / float(high - low) * strata
    return np.minimum(at.astype(np.int32), strata - 1)


def edges_of(value: np.dtype, low: Number, high: Number, strata: int) -> np.ndarray:
    """(strata + 1,): where the ranges of `stratum_of` begin, and where the last one ends; the two ends are exact.

    value: dtype of the values. Of floats the edges are float64; of whole numbers their type, each the next one above
    the edge.
    """
    if value.kind == "f":
        return np.linspace(low, high, strata + 1)
    whole = [int(low) - int(low - high) * number // strata for number in range(strata + 1)]
    return np.array(whole, value)


def budgets(size: np.ndarray, total: int) -> np.ndarray:
    """Samples to keep of each stratum: smallest first, each min(size, remaining // strata that are left).

    size: int64 (s,). total: 0 to Σ size. Returns int64 (s,), Σ = total: small strata stay whole, the others share
    what is left evenly. Equal sizes: the lowest index first. Cost O(s log s).
    Raises DataError for a total that the strata cannot hold.
    """
    if not 0 <= total <= size.sum():
        raise DataError(f"the strata must hold the total, got {total} and they hold {size.sum()}; ask for less")
    budget = np.zeros(len(size), np.int64)
    remaining = total
    for done, stratum in enumerate(np.argsort(size, kind="stable")):
        budget[stratum] = min(int(size[stratum]), remaining // (len(size) - done))
        remaining -= int(budget[stratum])
    return budget


@dataclass(frozen=True)
class Extent:
    """How many values there are, and the lowest and highest in their own type: (2,), or (0,) where there are none."""

    rows: int
    ends: np.ndarray

    @classmethod
    def of(cls, value: np.ndarray) -> "Extent":
        """That of values (n,)."""
        return cls(len(value), _ends(value))

    def __add__(self, other: "Extent") -> "Extent":
        ends = np.concatenate([part.ends for part in (self, other) if len(part.ends)] or [self.ends])
        return Extent(self.rows + other.rows, _ends(ends))


def _ends(value: np.ndarray) -> np.ndarray:
    return np.array([value.min(), value.max()]) if len(value) else value
