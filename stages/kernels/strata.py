"""Strata: ranges of equal width over a score, and how many samples each of them keeps."""

from dataclasses import dataclass

import numpy as np

from winnow.pipeline.errors import DataError

Number = int | float


def stratum_of(value: np.ndarray, low: Number, high: Number, strata: int) -> np.ndarray:
    """Which of `strata` ranges of equal width over [low, high] each value is in: int32 (n,).

    value: (n,) floats or integers, in [low, high]. A value on an edge belongs to the upper range, and `high` to the
    last range. If low = high, all values are in range 0.
    """
    if not low < high:
        return np.zeros(len(value), np.int32)
    if value.dtype.kind == "f":
        above = value.astype(np.float64) - low
    else:  # value − low is below 2^64 for any integers, so subtraction modulo 2^64 is exact where int64 would overflow
        above = (value.view(np.uint64) - np.uint64(int(low) % (1 << 64))).astype(np.float64)
    at = above / float(high - low) * strata
    return np.minimum(at.astype(np.int32), strata - 1)  # `high` itself would begin one range more


def edges_of(value: np.dtype, low: Number, high: Number, strata: int) -> np.ndarray:
    """(strata + 1,): where the ranges of `stratum_of` begin, and where the last one ends; the two ends are exact.

    value: dtype of the values. For floats the edges are float64. For integers the edges have the same dtype, and each
    is the edge rounded up.
    """
    if value.kind == "f":
        return np.linspace(low, high, strata + 1)
    # Python integers do not overflow, and the negative quotient rounds down, so each edge rounds up.
    whole = [int(low) - int(low - high) * number // strata for number in range(strata + 1)]
    return np.array(whole, value)


def budgets(size: np.ndarray, total: int) -> np.ndarray:
    """Samples to keep of each stratum: smallest first, each min(size, remaining // strata that are left).

    size: int64 (s,). total: 0 to Σ size. Returns int64 (s,), Σ = total. Small strata stay whole, and the others share
    the rest evenly. Equal sizes: the lowest index first. Cost: O(s log s).
    Raises DataError for a total that the strata cannot hold.
    """
    if not 0 <= total <= size.sum():
        raise DataError(f"total must be from 0 to the {size.sum()} samples in the strata, got {total}; ask for fewer")
    budget = np.zeros(len(size), np.int64)
    remaining = total
    # Smallest first, so that what a small stratum cannot fill is shared by all larger ones.
    for done, stratum in enumerate(np.argsort(size, kind="stable")):
        budget[stratum] = min(int(size[stratum]), remaining // (len(size) - done))
        remaining -= int(budget[stratum])
    return budget


@dataclass(frozen=True)
class Extent:
    """How many values there are, and the lowest and highest of them in their own dtype: (2,), or (0,) if none."""

    rows: int
    ends: np.ndarray

    @classmethod
    def of(cls, value: np.ndarray) -> "Extent":
        """The extent of values (n,)."""
        return cls(len(value), _ends(value))

    def __add__(self, other: "Extent") -> "Extent":
        # a part without values may have another dtype and must not widen that of the others
        ends = np.concatenate([part.ends for part in (self, other) if len(part.ends)] or [self.ends])
        return Extent(self.rows + other.rows, _ends(ends))


def _ends(value: np.ndarray) -> np.ndarray:
    return np.array([value.min(), value.max()]) if len(value) else value
