"""One pass of keep_top over one shard: a histogram of digits, or candidates."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from winnow.pipeline.keep_top.rows import Rows, check_groups, keys_of
from winnow.pipeline.order import KEY, inverted

NARROW_BITS, WIDE_BITS = 8, 16
"""Bits of a digit: more make fewer passes, fewer make smaller histograms."""

_WIDE_GROUPS = 512


@dataclass(frozen=True)
class Counts:
    """Sparse histogram of the next digit: cell int64 (m,) = group * 2^bits + digit, ascending; count int64 (m,).

    key_bytes: length of a key of these rows. bits: of a digit.
    """

    cell: Int64[np.ndarray, "m"]
    count: Int64[np.ndarray, "m"]
    key_bytes: int = KEY.itemsize
    bits: int = WIDE_BITS

    @property
    def group(self) -> Int64[np.ndarray, "m"]:
        """Group of each cell."""
        return self.cell >> self.bits


@dataclass(frozen=True)
class Candidates:
    """Rows whose key has their group's boundary prefix, in any order: group int64 (m,), key (m,) of order_keys."""

    group: Int64[np.ndarray, "m"]
    key: Shaped[np.ndarray, "m"]

    @property
    def key_bytes(self) -> int:
        """Length of a key."""
        return self.key.dtype.itemsize


Partial = Counts | Candidates


def digit_type(groups: int) -> np.dtype:
    """dtype of the digits of a descent: uint16, or uint8 for more than 512 groups.

    A histogram has at most groups * 65536 or groups * 256 cells. 50,000 groups of 16-bit digits could fill 26 GB.
    """
    return np.dtype(np.uint16 if groups <= _WIDE_GROUPS else np.uint8)


@dataclass(frozen=True)
class Pass:
    """One reading of all shards: counts the next digit, or gathers the candidates. Picklable.

    live: bool (groups,), the groups whose bound is not known yet.
    prefix: uint16 or uint8 (groups, depth), the first digits of a live group's bound, known from earlier passes.
    gather: False to make Counts, True to make Candidates.
    """

    live: Bool[np.ndarray, "groups"]
    prefix: Shaped[np.ndarray, "groups depth"]
    gather: bool

    def scan(self, rows: Rows) -> Partial:
        """One shard's part of this pass, O(n log n). Raises DataError for a group without a quota."""
        check_groups(rows, len(self.live))
        depth, bits = self.prefix.shape[1], 8 * self.prefix.itemsize
        # (m,) entries of groups that are still searched
        at = np.flatnonzero(rows.group >= 0)
        at = at[self.live[rows.group[at]]]
        if depth:
            # the first digit comes from the value alone and excludes nearly every row: only the rest need keys of 36
            # bytes. (m,): inverted values, shifted to their upper 16 or 8 bits
            first = inverted(rows.value[at]) >> (8 * rows.value.itemsize - bits)
            at = at[first == self.prefix[rows.group[at], 0]]
        keys = keys_of(rows, at)
        group = rows.group[at].astype(np.int64)
        digits = as_digits(keys, self.prefix.dtype)
        # (m, depth) == (m, depth): rows in their group's boundary bin; at depth 0 all rows
        inside = (digits[:, :depth] == self.prefix[group]).all(axis=1)
        if self.gather:
            return Candidates(group[inside], keys[inside])
        # group and digit in one integer: one sort counts all groups
        cell = (group[inside] << bits) | digits[inside, depth]
        return Counts(*np.unique(cell, return_counts=True), keys.itemsize, bits)


def as_digits(keys: Shaped[np.ndarray, "m"], kind: np.dtype) -> np.ndarray:
    """Keys (m,) of 36 or 40 bytes as digits of a dtype: (m, 18 or 20) of uint16, (m, 36 or 40) of uint8."""
    digits: np.ndarray = keys.view(kind.newbyteorder(">")).reshape(len(keys), keys.itemsize // kind.itemsize)
    return digits
