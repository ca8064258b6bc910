"""Keeps exactly min(quota, size) rows of highest value in each group; refuses NaN, and two rows in one place.

The one distributed primitive under every cut. Rows are ordered by value descending, then uid, then place
(shard, row) ascending, so the answer is a property of the rows: no split into shards, order of arrival or
number of workers can change it. Nothing is shuffled; each pass reads every shard on its own:

    selection = Selection(quota)
    while (step := selection.next_pass()) is not None:
        selection.absorb(step.scan(rows) for rows in shards)      # scan runs anywhere, results in any order
    thresholds = selection.thresholds()
    masks = [kept(rows, thresholds) for rows in shards]

The order is written into one key a row, smallest first: 4 bytes of inverted value, or 8 where values are wider than
float32, 16 of uid, 8 of shard, 8 of row. A counting pass counts the next 16 bits of the key inside the one bin per
group where the quota runs out; when the rows in those bins are few enough, one gathering pass fetches them and ends
it. Memory follows groups and `candidate_limit`, never rows. Nearly always 2 passes; a billion equal values take the
digits of the uid, and at most 18 counting passes, or 20 of wide values, end any input.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, Shaped

from winnow.pipeline.errors import DataError
from winnow.pipeline.order import KEY, VALUES, inverted, order_keys
from winnow.pipeline.uid import UID

_DIGITS = KEY.itemsize // 2  # of 16 bits
_MERGE_CELLS = 500_000  # counts held unmerged: 8 MB, and merging takes a few times that


@dataclass(frozen=True)
class Rows:
    """The rows of one shard that a cut decides on.

    value: (n,) of float32, float64, int64 or uint64, one of them in all shards; higher is better, ±inf allowed, -0.0
    equals 0.0. NaN is refused where group >= 0.
    group: int32 (n,), which quota a row falls under; -1 takes no part, is never kept and needs no value.
    uid: (n,) of dtype UID; equal uids are allowed and ordered by place.
    shard: index of the shard in the pool, >= 0.
    row: int64 (n,), each row's position in its shard, distinct and >= 0; None means 0 to n - 1.
    column: what people call the values, for messages.
    Raises DataError for lengths that differ, another dtype, NaN, negative places, or a group under -1.
    """

    value: Shaped[np.ndarray, "n"]
    group: Int32[np.ndarray, "n"]
    uid: Shaped[np.ndarray, "n"]
    shard: int
    row: Int64[np.ndarray, "n"] | None = None
    column: str = "value"

    def __post_init__(self) -> None:
        n = len(self.value)
        lengths = {n, len(self.group), len(self.uid), n if self.row is None else len(self.row)}
        if len(lengths) > 1 or self.uid.dtype != UID:
            raise DataError(
                f"{self._where()}: value, group, uid and row must be one entry a row and uid of dtype {UID}, "
                f"but lengths {sorted(lengths)} and dtype {self.uid.dtype} came; pass columns of one shard"
            )
        if self.value.dtype not in VALUES:
            raise DataError(
                f"{self._where()}: values must be float32, float64, int64 or uint64, but {self.value.dtype} came; "
                f"cast them to the one that holds them all"
            )
        lost = np.flatnonzero(np.isnan(self.value) & (self.group >= 0))
        if len(lost):
            raise DataError(
                f"{self._where()}: every row of a group must have a value, but {len(lost)} of {n} are NaN, "
                f"first at entry {lost[0]}; give them a number, or group -1 to leave them out"
            )
        if self.shard < 0 or (self.row is not None and n and self.row.min() < 0):
            raise DataError(f"{self._where()}: places must be >= 0, but a negative shard or row came")
        if n and self.group.min() < -1:
            raise DataError(f"{self._where()}: a group is -1 (takes no part) or an index, but {self.group.min()} came")

    def _where(self) -> str:
        return f"column {self.column}, shard {self.shard}"


@dataclass(frozen=True)
class Counts:
    """Rows by next digit: cell int64 (m,) = group * 65536 + digit, ascending; count int64 (m,).

    digits: how many a key of these rows has.
    """

    cell: Int64[np.ndarray, "m"]
    count: Int64[np.ndarray, "m"]
    digits: int = _DIGITS


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
        _check_groups(rows, len(self.live))
        depth = self.prefix.shape[1]
        at = np.flatnonzero(rows.group >= 0)
        at = at[self.live[rows.group[at]]]
        if depth:
            # values alone rule out nearly every row, so whole keys are made for few
            first = inverted(rows.value[at]) >> (8 * rows.value.itemsize - 16)
            at = at[first == self.prefix[rows.group[at], 0]]
        keys = _keys(rows, at)
        group = rows.group[at].astype(np.int64)
        digits = keys.view(">u2").reshape(-1, keys.itemsize // 2)  # (n, 18)
        inside = (digits[:, :depth] == self.prefix[group]).all(axis=1)
        if self.gather:
            return Candidates(group[inside], keys[inside])
        cell = (group[inside] << 16) | digits[inside, depth]
        return Counts(*np.unique(cell, return_counts=True), digits.shape[1])


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
            raise DataError(f"quotas must be >= 0, but {quota.min()} came for group {quota.argmin()}")
        self._quota = quota
        self._left = quota.copy()  # rows still to keep inside the boundary bin
        self._inside = np.zeros(len(quota), np.int64)  # rows in the boundary bin
        self._size = np.zeros(len(quota), np.int64)
        self._live = quota > 0
        self._bound = np.full((len(quota), _DIGITS), 0xFFFF, np.uint16)  # as wide as keys are, from the first pass on
        self._depth = 0
        self._limit = candidate_limit

    def next_pass(self) -> Pass | None:
        """The reading that is needed next; None when every group is settled."""
        if not self._live.any():
            return None
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
        seen = _sum_by(groups, weight, len(self._live))
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
        group = counts.cell >> 16
        running = np.cumsum(counts.count)
        start = np.searchsorted(group, group)  # first cell of the same group
        within = running - (running[start] - counts.count[start])
        before = within - counts.count
        at = np.flatnonzero((before < self._left[group]) & (self._left[group] <= within))
        g = group[at]
        self._bound[g, self._depth] = counts.cell[at] & 0xFFFF
        # no such bin: the group is smaller than its quota. Quota met at a bin's end: later digits stay ones.
        self._live = np.zeros_like(self._live)
        self._live[g] = within[at] > self._left[g]
        self._left[g] -= before[at]
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
        last = np.searchsorted(group, g) + self._left[g] - 1
        self._bound[g] = key[last].view(">u2").reshape(len(g), candidates.digits)
        self._live = np.zeros_like(self._live)


def merge(partials: Sequence[Partial]) -> Partial:
    """The results of several shards as one; associative and commutative up to the order of candidates.

    partials: at least one, all of one pass.
    """
    counts = [p for p in partials if isinstance(p, Counts)]
    found = [p for p in partials if isinstance(p, Candidates)]
    if bool(counts) == bool(found):
        raise DataError(
            f"merge takes results of one pass, but {len(counts)} Counts and {len(found)} Candidates came; "
            f"merge each pass by itself"
        )
    [digits, *others] = {partial.digits for partial in partials}
    if others:
        raise DataError(
            f"values of every shard must be of one type, but keys of {2 * digits} and of {2 * others[0]} bytes came; "
            f"cast all to the wider one"
        )
    if found:
        return Candidates(np.concatenate([p.group for p in found]), np.concatenate([p.key for p in found]))
    cell, back = np.unique(np.concatenate([p.cell for p in counts]), return_inverse=True)
    return Counts(cell, _sum_by(back, np.concatenate([p.count for p in counts]), len(cell)), digits)


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


def kept(rows: Rows, thresholds: Thresholds) -> Bool[np.ndarray, "n"]:
    """bool (n,): which rows of a shard stay. A local comparison; DataError for a group that has no quota."""
    _check_groups(rows, len(thresholds.bound))
    at = np.flatnonzero(rows.group >= 0)
    at = at[thresholds.count[rows.group[at]] > 0]
    mask = np.zeros(len(rows.group), np.bool_)
    if not len(at):  # nor is there a bound to compare with where nothing was asked for
        return mask
    # values alone decide nearly every row, so whole keys are made for few
    first = inverted(rows.value[at])
    words = thresholds.bound.view(first.dtype.newbyteorder(">")).reshape(len(thresholds.bound), -1)
    bound = words[rows.group[at], 0]
    mask[at] = first < bound
    at = at[first == bound]
    mask[at] = _keys(rows, at) <= thresholds.bound[rows.group[at]]
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


def _keys(rows: Rows, at: np.ndarray) -> np.ndarray:
    """(n,) keys of the entries `at`."""
    return order_keys(rows.value[at], rows.uid[at], rows.shard, at if rows.row is None else rows.row[at])


def _sum_by(index: np.ndarray, weight: np.ndarray, length: int) -> np.ndarray:
    """int64 (length,) sums of weight; np.bincount would add in float64."""
    sums = np.zeros(length, np.int64)
    np.add.at(sums, index, weight)
    return sums


def _check_groups(rows: Rows, groups: int) -> None:
    if len(rows.group) and rows.group.max() >= groups:
        raise DataError(
            f"every group must have a quota, but group {rows.group.max()} came in shard {rows.shard} and "
            f"there are {groups} quotas; give the quota one entry a group"
        )


def _same_place(group: int) -> DataError:
    return DataError(
        f"every row must have its own place, but two rows of group {group} have the same value, uid, "
        f"shard and row; pass each shard once, with its own index"
    )
