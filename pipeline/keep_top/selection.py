"""The radix descent of keep_top: finds the key of the last row that each group keeps, in passes over all shards."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from winnow.pipeline.errors import DataError
from winnow.pipeline.keep_top.merging import Histogram, Merging
from winnow.pipeline.keep_top.rows import Rows, check_groups, keys_of
from winnow.pipeline.keep_top.scan import Candidates, Counts, Partial, Pass, as_digits, digit_type
from winnow.pipeline.order import KEY, inverted
from winnow.pipeline.sums import add_at


@dataclass(frozen=True)
class Thresholds:
    """What each group keeps: every row whose key is at most the bound.

    bound: (groups,) keys, the largest key that is kept; all bits are one if the group keeps every row.
    count: int64 (groups,), rows that are kept: min(quota, size).
    size: int64 (groups,), rows that take part; 0 for a group with quota 0, whose rows are not counted.
    """

    bound: Shaped[np.ndarray, "groups"]
    count: Int64[np.ndarray, "groups"]
    size: Int64[np.ndarray, "groups"]


class Selection:
    """Finds the exact thresholds of one cut. Asks for passes until the bound of every group is known.

    quota: int64 (groups,), rows to keep in each group, >= 0. A quota above the group's size keeps the whole group.
    candidate_limit: rows that may be gathered into this process at once (52 bytes each).
    Raises DataError for a negative quota, for rows that change between passes, and for two rows with the same place.
    """

    def __init__(self, quota: Int64[np.ndarray, "groups"], candidate_limit: int = 1_000_000) -> None:
        if len(quota) and quota.min() < 0:
            raise DataError(f"quotas must be >= 0, got {quota.min()} for group {quota.argmin()}")
        self._quota = quota
        # the state of the descent, (groups,) each. The boundary bin of a group is the bin where its quota runs out
        self._left = quota.copy()  # rows still to keep inside the boundary bin
        self._inside = np.zeros(len(quota), np.int64)  # rows in the boundary bin
        self._size = np.zeros(len(quota), np.int64)
        self._live = quota > 0  # bound not known yet
        # (groups, digits): the first `depth` digits of each bound are known; the first pass sets the true width
        self._digit = digit_type(len(quota))
        self._bound = self._all_ones(KEY.itemsize)
        self._depth = 0
        self._gathers = False  # the last pass
        self._limit = candidate_limit

    def next_pass(self) -> Pass | None:
        """The next pass over all shards; None when every bound is known."""
        if not self._live.any():
            return None
        # the first pass always counts: group sizes come from it, and bins have no row counts before it
        gather = self._depth > 0 and self._inside[self._live].sum() <= self._limit
        # keys end with the row's place, so all digits together separate any two rows of a sound pool
        if self._depth == self._bound.shape[1] and not gather:
            raise _same_place(int(np.flatnonzero(self._live)[0]))
        self._gathers = bool(gather)
        return Pass(self._live.copy(), self._bound[:, : self._depth].copy(), self._gathers)

    def absorb(self, partials: Iterable[Partial]) -> None:
        """Take the results of all shards for the last pass, in any order, of one shard each or already merged."""
        narrow = self._digit.itemsize == 1 and not self._gathers
        merging = Histogram(len(self._live)) if narrow else Merging()
        for partial in partials:
            merging.add(partial)
        self._check(merging.blocks())
        live = np.zeros_like(self._live)
        for found in merging.blocks():
            if isinstance(found, Counts):
                self._descend(found, live)
            else:
                self._settle(found)
        self._live = live
        self._depth += 1

    def _check(self, found: Iterable[Partial]) -> None:
        """Take the size of each group from the first pass, and raise DataError if a later one saw other rows."""
        seen, key_bytes = np.zeros(len(self._live), np.int64), KEY.itemsize  # of a pool of no shards
        for partial in found:  # (groups,): rows that this pass saw in the boundary bins
            weight = partial.count if isinstance(partial, Counts) else np.ones(len(partial.group), np.int64)
            add_at(seen, partial.group, weight)
            key_bytes = partial.key_bytes
        if self._depth == 0:
            self._size = seen
            self._bound = self._all_ones(key_bytes)
        elif (changed := np.flatnonzero(self._live & (seen != self._inside))).size:
            g = changed[0]
            raise DataError(
                f"every pass must see the same rows, but group {g} had {self._inside[g]} rows at its "
                f"boundary and has {seen[g]} now; pass every shard once in each pass, unchanged"
            )

    def _all_ones(self, key_bytes: int) -> np.ndarray:
        """Bounds that keep all rows: (groups, digits)."""
        digits = key_bytes // self._digit.itemsize
        return np.full((len(self._quota), digits), np.iinfo(self._digit).max, self._digit)

    def thresholds(self) -> Thresholds:
        """The exact thresholds. Raises DataError if a pass is still needed."""
        if self._live.any():
            raise DataError(
                "thresholds must be read after the last pass, but another pass is needed; loop until next_pass is None"
            )
        big_endian = self._bound.astype(self._digit.newbyteorder(">"))
        bound = big_endian.view(f"S{self._digit.itemsize * self._bound.shape[1]}").reshape(-1)
        return Thresholds(bound, np.minimum(self._quota, self._size), self._size)

    def _descend(self, counts: Counts, live: np.ndarray) -> None:
        """Set the next digit of each live group's bound: the digit of the bin where its quota runs out.

        counts: of some groups, all of their cells. live: bool (groups,), where to note which of them stay live.
        """
        # cells (m,) ascend by group, then by digit: the best rows of a group come first
        group = counts.group
        running = np.cumsum(counts.count)  # over all groups
        start = np.searchsorted(group, group)  # first cell of the same group
        within = running - (running[start] - counts.count[start])  # rows of the group up to and with this cell
        before = within - counts.count  # rows of the group before this cell
        # the boundary cell of a group: the remaining quota runs out in it. At most one cell a group
        at = np.flatnonzero((before < self._left[group]) & (self._left[group] <= within))
        g = group[at]
        self._bound[g, self._depth] = counts.cell[at] & np.iinfo(self._digit).max
        # a group without a boundary cell is smaller than its quota: its bound stays all ones, so it is kept whole. If
        # the quota ends with the cell, the later digits stay ones, so the whole cell is kept. Both are settled
        live[g] = within[at] > self._left[g]
        self._left[g] -= before[at]  # cells before the boundary cell are kept whole
        self._inside[g] = counts.count[at]

    def _settle(self, candidates: Candidates) -> None:
        """Set the whole bound of each live group: the key of its last kept candidate."""
        # (m,) candidates by group, inside a group the best first
        order = np.lexsort((candidates.key, candidates.group))
        group, key = candidates.group[order], candidates.key[order]
        # equal keys are a tie that nothing breaks: the quota could not be exact
        same = np.flatnonzero((key[1:] == key[:-1]) & (group[1:] == group[:-1]))
        if len(same):
            raise _same_place(int(group[same[0]]))
        g = np.flatnonzero(self._live)
        # a group's candidates begin at searchsorted(group, g), and it keeps the first `left` of them
        last = np.searchsorted(group, g) + self._left[g] - 1
        self._bound[g] = as_digits(key[last], self._digit)


def kept(rows: Rows, thresholds: Thresholds) -> Bool[np.ndarray, "n"]:
    """bool (n,): which rows of a shard stay. Compares each row with its group's bound; reads nothing else.

    Raises DataError for a group without a quota.
    """
    check_groups(rows, len(thresholds.bound))
    at = np.flatnonzero(rows.group >= 0)
    at = at[thresholds.count[rows.group[at]] > 0]
    mask = np.zeros(len(rows.group), np.bool_)
    if not len(at):  # if every quota is 0, no pass has set the width of the bounds
        return mask
    # the value alone decides nearly every row; only rows that tie with the bound's value need whole keys
    first = inverted(rows.value[at])
    # (groups, words): each bound as integers as wide as a value; the first word is the inverted value of the bound
    words = thresholds.bound.view(first.dtype.newbyteorder(">")).reshape(len(thresholds.bound), -1)
    bound = words[rows.group[at], 0]
    mask[at] = first < bound
    at = at[first == bound]
    mask[at] = keys_of(rows, at) <= thresholds.bound[rows.group[at]]
    return mask


def keep_top(
    parts: Sequence[Rows], quota: Int64[np.ndarray, "groups"], candidate_limit: int = 1_000_000
) -> list[Bool[np.ndarray, "_"]]:
    """`kept` of every part, in this process. Uses the same passes that an executor runs over shards."""
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
