"""One pass of keep_top over one shard, and the merging of what the shards answer: counts of digits, or candidates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from winnow.pipeline.errors import DataError
from winnow.pipeline.keep_top.rows import Rows, check_groups, keys_of
from winnow.pipeline.order import KEY, inverted

DIGITS = KEY.itemsize // 2
"""Digits of 16 bits that a key of a 32-bit value has."""

_MERGE_CELLS = 500_000  # counts held unmerged: 8 MB, and merging takes a few times that


@dataclass(frozen=True)
class Counts:
    """Rows by next digit: cell int64 (m,) = group * 65536 + digit, ascending; count int64 (m,).

    digits: how many a key of these rows has.
    """

    cell: Int64[np.ndarray, "m"]
    count: Int64[np.ndarray, "m"]
    digits: int = DIGITS


@dataclass(frozen=True)
class Candidates:
    """Rows that share their group's boundary prefix, in any order: group int64 (m,), key (m,) of order_keys."""

    group: Int64[np.ndarray, "m"]
    key: Shaped[np.ndarray, "m"]

    @property
    def digits(self) -> int:
        """How many a key has."""
        return self.key.dtype.itemsize // 2


Partial = Counts | Candidates


@dataclass(frozen=True)
class Pass:
    """One reading of all shards, picklable: count the next digit, or gather the candidates.

    live: bool (groups,), groups that are not settled.
    prefix: uint16 (groups, depth), digits of the key that every row at the boundary of a live group has.
    gather: False for Counts, True for Candidates.
    """

    live: Bool[np.ndarray, "groups"]
    prefix: Shaped[np.ndarray, "groups depth"]
    gather: bool

    def scan(self, rows: Rows) -> Partial:
        """What one shard adds to this pass, O(n log n). Raises DataError for a group without a quota."""
        check_groups(rows, len(self.live))
        depth = self.prefix.shape[1]
        at = np.flatnonzero(rows.group >= 0)
        at = at[self.live[rows.group[at]]]
        if depth:
            # values alone rule out nearly every row, so whole keys, 36 bytes each, are made for few
            first = inverted(rows.value[at]) >> (8 * rows.value.itemsize - 16)  # (m,): first digit, largest value first
            at = at[first == self.prefix[rows.group[at], 0]]
        keys = keys_of(rows, at)
        group = rows.group[at].astype(np.int64)
        digits = keys.view(">u2").reshape(-1, keys.itemsize // 2)  # (m, 18), or (m, 20) of 64-bit values
        # (m, depth) == (m, depth): rows in their group's boundary bin
        inside = (digits[:, :depth] == self.prefix[group]).all(axis=1)
        if self.gather:
            return Candidates(group[inside], keys[inside])
        # group and digit in one integer, so that one sort counts all groups; an array (groups, 65536) would be 26 GB
        # for 50,000 groups, and nearly empty
        cell = (group[inside] << 16) | digits[inside, depth]
        return Counts(*np.unique(cell, return_counts=True), digits.shape[1])


def merge(partials: Sequence[Partial]) -> Partial:
    """The results of several shards as one; associative and commutative up to the order of candidates.

    partials: at least one, all of one pass.
    """
    counts = [p for p in partials if isinstance(p, Counts)]
    found = [p for p in partials if isinstance(p, Candidates)]
    if bool(counts) == bool(found):
        raise DataError(
            f"merge takes results of one pass, got {len(counts)} Counts and {len(found)} Candidates; "
            f"merge each pass by itself"
        )
    [digits, *others] = {partial.digits for partial in partials}
    if others:
        raise DataError(
            f"values of every shard must be of one type, got keys of {2 * digits} and of {2 * others[0]} bytes; "
            f"cast all to the wider one"
        )
    if found:
        return Candidates(np.concatenate([p.group for p in found]), np.concatenate([p.key for p in found]))
    cell, back = np.unique(np.concatenate([p.cell for p in counts]), return_inverse=True)
    return Counts(cell, sum_by(back, np.concatenate([p.count for p in counts]), len(cell)), digits)


class Merging:
    """The results of one pass, merged as they come in any order.

    Holds the merged result and as many counts more, `cells` at least: merging that often, m counts that come take
    O(m log m) in all, where merging each few of them into the whole would take O(m²).
    """

    def __init__(self, cells: int | None = None) -> None:
        self._cells = _MERGE_CELLS if cells is None else cells
        self._merged: Partial | None = None
        self._waiting: list[Partial] = []
        self._held = 0

    def add(self, partial: Partial) -> None:
        """One more result of the pass, merged beforehand or not."""
        self._waiting.append(partial)
        if isinstance(partial, Counts):  # candidates are few by the limit, and merging them shrinks nothing
            self._held += len(partial.cell)
        merged = len(self._merged.cell) if isinstance(self._merged, Counts) else 0
        if self._held > max(self._cells, merged):
            self._merged = self.merged()
            self._waiting, self._held = [], 0

    def merged(self) -> Partial | None:
        """All results so far as one; None when none came."""
        found = self._waiting if self._merged is None else [self._merged, *self._waiting]
        return merge(found) if found else None


def sum_by(index: np.ndarray, weight: np.ndarray, length: int) -> np.ndarray:
    """int64 (length,) sums of weight; np.bincount would add in float64."""
    sums = np.zeros(length, np.int64)
    np.add.at(sums, index, weight)
    return sums
