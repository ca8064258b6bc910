"""Sparse sums of integers by index: the report of a small shard on many groups is short, and adds up exactly."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64


def add_at(totals: np.ndarray, index: np.ndarray, weight: np.ndarray) -> None:
    """totals[index] += weight in place, int64 (n,) each; an index may repeat. Takes 3 to 15 ns per entry."""
    # an unpickled array has a dtype object of its own, with which np.add.at takes 100 ns; a view has the usual object
    np.add.at(totals, index.view(np.int64), weight.view(np.int64))


def sum_by(index: np.ndarray, weight: np.ndarray, length: int) -> np.ndarray:
    """int64 (length,): the sum of weight at each index. np.bincount would add in float64 and round above 2**53."""
    sums = np.zeros(length, np.int64)
    add_at(sums, index, weight)
    return sums


@dataclass(frozen=True)
class Sums:
    """Sums at the indices that occur. index (m,): ascending, unique. values: int64 (m,) each, in the same order.

    They are integers because sums of floats would depend on the order of the shards.
    """

    index: Int[np.ndarray, "m"]
    values: tuple[Int64[np.ndarray, "m"], ...]

    @classmethod
    def of(cls, index: np.ndarray, *weights: np.ndarray) -> "Sums":
        """Counts of each index (n,), then the sums of each of the weights int64 (n,) at it. Cost O(n log n)."""
        found, back, count = np.unique(index, return_inverse=True, return_counts=True)
        return cls(found, (count, *(sum_by(back, weight, len(found)) for weight in weights)))

    def add_to(self, totals: Sequence[np.ndarray]) -> None:
        """Add to dense sums int64 (k,), one for each of the values, in place."""
        for total, value in zip(totals, self.values, strict=True):
            total[self.index] += value


def merge_sums(parts: Sequence[Sums]) -> Sums:
    """The merged sums of several shards. parts: at least one. Cost O(k + entries) for indices below k."""
    first = parts[0]
    k = max(int(part.index[-1]) + 1 if len(part.index) else 0 for part in parts)
    totals = [np.zeros(k, np.int64) for _ in first.values]
    seen = np.zeros(k, bool)
    for part in parts:
        part.add_to(totals)
        seen[part.index] = True
    index = np.flatnonzero(seen).astype(first.index.dtype)
    return Sums(index, tuple(total[index] for total in totals))


def dense(parts: Iterable[Sums], k: int, values: int = 1) -> list[np.ndarray]:
    """Add parts into dense sums, int64 (k,) for each value. Memory: 8 k bytes each, for any number of parts."""
    totals = [np.zeros(k, np.int64) for _ in range(values)]
    for part in parts:
        part.add_to(totals)
    return totals
