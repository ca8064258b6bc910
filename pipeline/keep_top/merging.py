"""Merges the answers of shards in one pass of keep_top: counts into one histogram, candidates into one list."""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from winnow.pipeline.errors import DataError
from winnow.pipeline.keep_top.scan import NARROW_BITS, Candidates, Counts, Partial
from winnow.pipeline.sums import add_at, sum_by

_MERGE_CELLS = 500_000  # counts held unmerged: 8 MB; a merge takes a few times that
_BLOCK_GROUPS = 4096  # of a dense histogram at a time: 1,048,576 cells


def merge(partials: Sequence[Partial]) -> Partial:
    """The results of several shards as one. Associative and commutative, except for the order of candidates.

    partials: at least one, all of the same pass.
    """
    counts = [p for p in partials if isinstance(p, Counts)]
    found = [p for p in partials if isinstance(p, Candidates)]
    if bool(counts) == bool(found):
        raise DataError(
            f"merged results must be of one pass, got {len(counts)} Counts and {len(found)} Candidates; "
            f"merge each pass separately"
        )
    [key_bytes, *others] = {partial.key_bytes for partial in partials}
    if others:
        raise DataError(
            f"values must have the same dtype in every shard, got keys of {key_bytes} and of {others[0]} bytes; "
            f"cast all values to the wider dtype"
        )
    if found:
        return Candidates(np.concatenate([p.group for p in found]), np.concatenate([p.key for p in found]))
    # back (sum of all m,): each count's cell in the merged histogram
    cell, back = np.unique(np.concatenate([p.cell for p in counts]), return_inverse=True)
    return Counts(cell, sum_by(back, np.concatenate([p.count for p in counts]), len(cell)), key_bytes, counts[0].bits)


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

    def blocks(self) -> Iterator[Partial]:
        """The same, none or one."""
        found = self.merged()
        if found is not None:
            self._merged, self._waiting, self._held = found, [], 0
            yield found


class Histogram:
    """The same for counts of 8-bit digits, in a dense array of groups * 256 cells: one addition a count, no sort.

    Memory: 2 kB per group, for any number of counts. Time: 5 to 20 ns per count.
    """

    def __init__(self, groups: int) -> None:
        # digits before groups: values crowd in few digits, whose counts then lie in few pages of memory. The other way
        # round each count is in a page of its own, and an addition takes ten times as long
        self._count = np.zeros((1 << NARROW_BITS) * groups, np.int64)
        self._groups = groups
        self._key_bytes: int | None = None

    def add(self, partial: Partial) -> None:
        """Add one result of the pass. Raises DataError as merge does."""
        if not isinstance(partial, Counts) or self._key_bytes not in (None, partial.key_bytes):
            merge([partial, Counts(partial.group[:0], partial.group[:0], self._key_bytes or partial.key_bytes)])
        elif partial.bits != NARROW_BITS:
            raise DataError(
                f"counts must be of digits of {NARROW_BITS} bits, got {partial.bits}; merge each pass separately"
            )
        else:
            self._key_bytes = partial.key_bytes
            at = (partial.cell & (1 << NARROW_BITS) - 1) * self._groups + partial.group
            add_at(self._count, at, partial.count)

    def blocks(self) -> Iterator[Partial]:
        """All results so far, some groups at a time: the whole as cells would take ten times the memory."""
        table = self._count.reshape(1 << NARROW_BITS, self._groups)
        for first in range(0, self._groups, _BLOCK_GROUPS):
            block = table[:, first : first + _BLOCK_GROUPS].T.reshape(-1)  # (groups, 256) flat, a copy
            found = np.flatnonzero(block)
            if len(found):
                cell = found + (first << NARROW_BITS)
                yield Counts(cell, block[found], cast(int, self._key_bytes), NARROW_BITS)
