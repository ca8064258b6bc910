"""One pass of keep_top over one shard (a histogram of digits, or candidates), and the merge of the shards' results."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from winnow.pipeline.errors import DataError
from winnow.pipeline.keep_top.rows import Rows, check_groups, keys_of
from winnow.pipeline.order import KEY, inverted

DIGITS = KEY.itemsize // 2
"""Number of 16-bit digits in the key of a 32-bit value."""

_MERGE_CELLS = 500_000  # counts held unmerged: 8 MB; a merge takes a few times that


@dataclass(frozen=True)
class Counts:
    """Sparse histogram of the next digit: cell int64 (m,) = group * 65536 + digit, ascending; count int64 (m,).

    digits: number of digits in a key of these rows.
    """

    cell: Int64[np.ndarray, "m"]
    count: Int64[np.ndarray, "m"]
    digits: int = DIGITS


@dataclass(frozen=True)
class Candidates:
    """Rows whose key has their group's boundary prefix, in any order: group int64 (m,), key (m,) of order_keys."""

    group: Int64[np.ndarray, "m"]
    key: Shaped[np.ndarray, "m"]

    @property
    def digits(self) -> int:
        """Number of digits in a key."""
        return self.key.dtype.itemsize // 2


Partial = Counts | Candidates


@dataclass(frozen=True)
class Pass:
    """One reading of all shards: counts the next digit, or gathers the candidates. Picklable.

    live: bool (groups,), the groups whose bound is not known yet.
    prefix: uint16 (groups, depth), the first digits of a live group's bound, known from earlier passes.
    gather: False to make Counts, True to make Candidates.
    """

    live: Bool[np.ndarray, "groups"]
    prefix: Shaped[np.ndarray, "groups depth"]
    gather: bool

    def scan(self, rows: Rows) -> Partial:
        """One shard's part of this pass, O(n log n). Raises DataError for a group without a quota."""
        check_groups(rows, len(self.live))
        depth = self.prefix.shape[1]
        # (m,) entries of groups that are still searched
        at = np.flatnonzero(rows.group >= 0)
        at = at[self.live[rows.group[at]]]
        if depth:
            # the first digit comes from the value alone and excludes nearly every row: only the rest need keys of 36
            # bytes. (m,): inverted values, shifted to their upper 16 bits
            first = inverted(rows.value[at]) >> (8 * rows.value.itemsize - 16)
            at = at[first == self.prefix[rows.group[at], 0]]
        keys = keys_of(rows, at)
        group = rows.group[at].astype(np.int64)
        digits = keys.view(">u2").reshape(-1, keys.itemsize // 2)  # (m, 18), or (m, 20) for 64-bit values
        # (m, depth) == (m, depth): rows in their group's boundary bin; at depth 0 all rows
        inside = (digits[:, :depth] == self.prefix[group]).all(axis=1)
        if self.gather:
            return Candidates(group[inside], keys[inside])
        # group and digit in one integer: one sort counts all groups. A dense array (groups, 65536) would take 26 GB for
        # 50,000 groups and be nearly empty
        cell = (group[inside] << 16) | digits[inside, depth]
        return Counts(*np.unique(cell, return_counts=True), digits.shape[1])


def merge(partials: Sequence[Partial]) -> Partial:
    """The results of several shards as one. Associative and commutative, except for the order of candidates.

    partials: at least one, all of the same pass.
    """
    counts = [p for p in partials if isinstance(p, Counts)]
    found = [p for p in partials if isinstance(p, Candidates)]
    if bool(counts) == bool(found):
        raise DataError(
            f"merge takes results of one pass, got {len(counts)} Counts and {len(found)} Candidates; "
            f"merge each pass separately"
        )
    [digits, *others] = {partial.digits for partial in partials}
    if others:
        raise DataError(
            f"values must have the same dtype in every shard, got keys of {2 * digits} and of {2 * others[0]} bytes; "
            f"cast all values to the wider dtype"
        )
    if found:
        return Candidates(np.concatenate([p.group for p in found]), np.concatenate([p.key for p in found]))
    # back (sum of all m,): each count's cell in the merged histogram
    cell, back = np.unique(np.concatenate([p.cell for p in counts]), return_inverse=True)
    return Counts(cell, sum_by(back, np.concatenate([p.count for p in counts]), len(cell)), digits)


class Merging:
    """Merges the results of one pass as they arrive, in any order.

    New counts wait until there are as many as merged ones, and at least `cells`. So m counts cost O(m log m) in all;
    a merge of every few counts into the whole would cost O(m²).
    """

    def __init__(self, cells: int | None = None) -> None:
        self._cells = _MERGE_CELLS if cells is None else cells
        self._merged: Partial | None = None
        self._waiting: list[Partial] = []
        self._held = 0

    def add(self, partial: Partial) -> None:
        """Add one result of the pass, of one shard or already merged from several."""
        self._waiting.append(partial)
        if isinstance(partial, Counts):  # the limit keeps candidates few, and a merge does not make them fewer
            self._held += len(partial.cell)
        merged = len(self._merged.cell) if isinstance(self._merged, Counts) else 0
        if self._held > max(self._cells, merged):
            self._merged = self.merged()
            self._waiting, self._held = [], 0

    def merged(self) -> Partial | None:
        """All results so far as one; None if there are none."""
        found = self._waiting if self._merged is None else [self._merged, *self._waiting]
        return merge(found) if found else None


def sum_by(index: np.ndarray, weight: np.ndarray, length: int) -> np.ndarray:
    """int64 (length,): the sum of weight at each index. np.bincount would add in float64 and round above 2**53."""
    sums = np.zeros(length, np.int64)
    np.add.at(sums, index, weight)
    return sums
