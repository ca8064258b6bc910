"""Exact sums of floats and of their squares, as whole numbers: free of the order of rows, shards and workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_DIGITS = 53  # of a float64
_SHIFT = 1074 + _DIGITS  # every float64 is a whole multiple of 2^-1127
_HALF = 27
_PIECE = 26


@dataclass(frozen=True)
class Moments:
    """Of some finite float64: their number, sum, sum of squares, least and greatest.

    total: the sum in units of 2^-1127. squares: that of the squares in units of 2^-2254. low, high: inf and -inf if
    there are none.
    """

    count: int = 0
    total: int = 0
    squares: int = 0
    low: float = float("inf")
    high: float = float("-inf")

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Those of float64 (n,), finite, n below 2^34. Cost: O(n) for each exponent that occurs."""
        if not len(values):
            return cls()
        fraction, exponent = np.frexp(values)
        whole = np.ldexp(fraction, _DIGITS).astype(np.int64)  # value = whole · 2^(exponent − 53)
        total = squares = 0
        for power in np.unique(exponent).tolist():
            part = whole[exponent == power]
            high, low = part >> _HALF, part & ((1 << _HALF) - 1)  # part = high · 2^27 + low; each product fits int64
            shift = power - _DIGITS + _SHIFT
            total += _sum(part) << shift
            square = (_sum(high * high) << 2 * _HALF) + (_sum(high * low) << _HALF + 1) + _sum(low * low)
            squares += square << 2 * shift
        return cls(len(values), total, squares, float(values.min()), float(values.max()))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    @property
    def mean(self) -> float:
        """The float64 nearest to the mean; 0 if there are none."""
        return float(self._mean) if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation of the values themselves (not of a sample): the root of the exact variance."""
        if not self.count:
            return 0.0
        variance = Fraction(self.squares, self.count << 2 * _SHIFT) - self._mean**2
        return float(np.sqrt(float(variance)))

    @property
    def _mean(self) -> Fraction:
        return Fraction(self.total, self.count << _SHIFT)


def merge_moments(parts: Sequence[tuple[Moments, ...]]) -> tuple[Moments, ...]:
    """Those of several shards as one, column by column."""
    return tuple(sum(column, Moments()) for column in zip(*parts, strict=True))


def _sum(values: np.ndarray) -> int:
    """The sum of int64 (n,), which int64 may not hold."""
    return (int((values >> _PIECE).sum()) << _PIECE) + int((values & ((1 << _PIECE) - 1)).sum())
