"""Deadlines: how long one item of a pass may take, compared with the others, before it is given up."""

import bisect
from collections import deque

from winnow.pipeline.executors.contract import Needs

ENOUGH = 3
"""Number of items that must be finished before their median counts."""

_KEPT = 1001  # the last ones only, because a median of all would keep all of them


class Deadline:
    """`needs.deadline_factor` times the median of the finished items of a pass, at least `deadline_floor_s`.

    Until ENOUGH items are finished, the floor is used as the median.
    """

    def __init__(self, needs: Needs) -> None:
        self._factor, self._floor_s = needs.deadline_factor, needs.deadline_floor_s
        self._last: deque[float] = deque()
        self._sorted: list[float] = []

    def saw(self, seconds: float) -> None:
        """Add the seconds of a finished item."""
        self._last.append(seconds)
        bisect.insort(self._sorted, seconds)
        if len(self._last) > _KEPT:
            del self._sorted[bisect.bisect_left(self._sorted, self._last.popleft())]

    @property
    def limit_s(self) -> float:
        """Seconds that an item may take now."""
        if len(self._sorted) < ENOUGH:
            return self._factor * self._floor_s
        return max(self._floor_s, self._factor * self._sorted[len(self._sorted) // 2])

    @property
    def tick_s(self) -> float:
        """How often to look whether an item is late."""
        return min(5.0, max(0.05, self._floor_s / 4))

    def missed(self) -> str:
        """The message for an item that missed the deadline."""
        known = len(self._sorted) >= ENOUGH
        usual = f"others take {self._sorted[len(self._sorted) // 2]:.3g} s" if known else "no other is done yet"
        return (
            f"it must be done within {self.limit_s:.3g} s ({usual}), but was not; if it only needs longer, raise "
            f"resources.deadline_floor_s, now {self._floor_s:g}"
        )
