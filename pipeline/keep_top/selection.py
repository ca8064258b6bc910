"""Finds the key of the last row that each group keeps, by a radix descent: pass after pass over all shards."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from winnow.pipeline.errors import DataError
from winnow.pipeline.keep_top.rows import Rows, check_groups, keys_of
from winnow.pipeline.keep_top.scan import DIGITS, Candidates, Counts, Merging, Partial, Pass, sum_by
from winnow.pipeline.order import inverted


@dataclass(frozen=True)
class Thresholds:
    """Which keys each group keeps.

    bound: (groups,) keys, the largest one that is kept (or all ones: keep all).
    count: int64 (groups,), rows that will be kept, min(quota, size).
    size: int64 (groups,), rows that take part; not counted, 0, where the quota is 0.
    """

    bound: Shaped[np.ndarray, "groups"]
    count: Int64[np.ndarray, "groups"]
    size: Int64[np.ndarray, "groups"]


class Selection:
    """Finds the exact thresholds of one cut by asking for passes until every group is settled.

    quota: int64 (groups,), rows to keep in each group, >= 0; more than a group has means all of it.
    candidate_limit: rows that may be gathered into this process at once (52 bytes each).
    Raises DataError for a negative quota, and while passes run for rows that change or share a place.
    """

    def __init__(self, quota: Int64[np.ndarray, "groups"], candidate_limit: int = 1_000_000) -> None:
        if len(quota) and quota.min() < 0:
            raise DataError(f"quotas must be >= 0, got {quota.min()} for group {quota.argmin()}")
        self._quota = quota
        self._left = quota.copy()  # rows still to keep inside the boundary bin
        self._inside = np.zeros(len(quota), np.int64)  # rows in the boundary bin
        self._size = np.zeros(len(quota), np.int64)
        self._live = quota > 0
        self._bound = np.full((len(quota), DIGITS), 0xFFFF, np.uint16)  # as wide as keys are, from the first pass on
        self._depth = 0
        self._limit = candidate_limit

    def next_pass(self) -> Pass | None:
        """The reading that is needed next; None when every group is settled."""
        if not self._live.any():
            return None
        # never at first: sizes of groups come from counts, and nothing is known of how many rows a bin has
        gather = self._depth > 0 and self._inside[self._live].sum() <= self._limit
        if self._depth == self._bound.shape[1] and not gather:
            raise _same_place(int(np.flatnonzero(self._live)[0]))
        return Pass(self._live.copy(), self._bound[:, : self._depth].copy(), bool(gather))

    def absorb(self, partials: Iterable[Partial]) -> None:
        """Takes the results of all shards for the last pass, in any order, merged beforehand or not."""
        merging = Merging()
        for partial in partials:
            merging.add(partial)
        merged = merging.merged()
        if merged is None:  # a pool of no shards
            merged = Counts(np.empty(0, np.int64), np.empty(0, np.int64), self._bound.shape[1])
        groups = merged.cell >> 16 if isinstance(merged, Counts) else merged.group
        weight = merged.count if isinstance(merged, Counts) else np.ones(len(groups), np.int64)
        seen = sum_by(groups, weight, len(self._live))
        if self._depth == 0:
            self._size = seen
            self._bound = np.full((len(self._live), merged.digits), 0xFFFF, np.uint16)
        elif (changed := np.flatnonzero(self._live & (seen != self._inside))).size:
            g = changed[0]
            raise DataError(
                f"every pass must see the same rows, but group {g} had {self._inside[g]} rows at its "
                f"boundary and now {seen[g]}; pass all shards each time, each once, unchanged"
            )
        if isinstance(merged, Counts):
            self._descend(merged)
        else:
            self._settle(merged)

    def thresholds(self) -> Thresholds:
        """The exact thresholds; DataError while a pass is still to be done."""
        if self._live.any():
            raise DataError("thresholds need every pass absorbed, but a pass is left; loop until next_pass is None")
        bound = self._bound.astype(">u2").view(f"S{2 * self._bound.shape[1]}").reshape(-1)
        return Thresholds(bound, np.minimum(self._quota, self._size), self._size)

    def _descend(self, counts: Counts) -> None:
        """Fixes one more digit of each live group's bound: that of the bin where its quota runs out."""
        group = counts.cell >> 16  # (m,), ascending; inside a group by digit, so best first
        running = np.cumsum(counts.count)
        start = np.searchsorted(group, group)  # first cell of the same group
        within = running - (running[start] - counts.count[start])  # rows of the group up to the end of the cell
        before = within - counts.count  # and before it
        # the one cell of each group, if any, in which what is left of its quota runs out
        at = np.flatnonzero((before < self._left[group]) & (self._left[group] <= within))
        g = group[at]
        self._bound[g, self._depth] = counts.cell[at] & 0xFFFF
        # no such bin: the group is smaller than its quota. Quota met at a bin's end: later digits stay ones.
        self._live = np.zeros_like(self._live)
        self._live[g] = within[at] > self._left[g]
        self._left[g] -= before[at]  # cells before it are kept whole
        self._inside[g] = counts.count[at]
        self._depth += 1

    def _settle(self, candidates: Candidates) -> None:
        """Fixes the whole bound of each live group: the key of its last kept candidate."""
        order = np.lexsort((candidates.key, candidates.group))
        group, key = candidates.group[order], candidates.key[order]
        same = np.flatnonzero((key[1:] == key[:-1]) & (group[1:] == group[:-1]))
        if len(same):
            raise _same_place(int(group[same[0]]))
        g = np.flatnonzero(self._live)
        # the left-th candidate of each group; candidates of a group lie together, from its searchsorted on
        last = np.searchsorted(group, g) + self._left[g] - 1
        self._bound[g] = key[last].view(">u2").reshape(len(g), candidates.digits)
        self._live = np.zeros_like(self._live)


def kept(rows: Rows, thresholds: Thresholds) -> Bool[np.ndarray, "n"]:
    """bool (n,): which rows of a shard stay. A local comparison; DataError for a group that has no quota."""
    check_groups(rows, len(thresholds.bound))
    at = np.flatnonzero(rows.group >= 0)
    at = at[thresholds.count[rows.group[at]] > 0]
    mask = np.zeros(len(rows.group), np.bool_)
    if not len(at):  # nor is there a bound to compare with where nothing was asked for
        return mask
    # values alone decide nearly every row, so whole keys are made for few
    first = inverted(rows.value[at])
    # (groups, words): a bound as integers as wide as a value, of which the first is to be compared with values
    words = thresholds.bound.view(first.dtype.newbyteorder(">")).reshape(len(thresholds.bound), -1)
    bound = words[rows.group[at], 0]
    mask[at] = first < bound
    at = at[first == bound]
    mask[at] = keys_of(rows, at) <= thresholds.bound[rows.group[at]]
    return mask


def keep_top(
    parts: Sequence[Rows], quota: Int64[np.ndarray, "groups"], candidate_limit: int = 1_000_000
) -> list[Bool[np.ndarray, "_"]]:
    """`kept` of every part, all in this process: the same pieces that an executor runs over shards."""
    selection = Selection(quota, candidate_limit)
    while (step := selection.next_pass()) is not None:
        selection.absorb(step.scan(rows) for rows in parts)
    thresholds = selection.thresholds()
    return [kept(rows, thresholds) for rows in parts]


def _same_place(group: int) -> DataError:
    return DataError(
        f"every row must have its own place, but two rows of group {group} have the same value, uid, "
        f"shard and row; pass each shard once, with its own index"
    )
