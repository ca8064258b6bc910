"""Adaptive batching: how many shards the next call to a worker takes, from how long the calls before took."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

AIM_S = 0.1
"""Seconds that a call of several items should take."""

REDUCING_AIM_S = 1.0
"""The same if results are combined: longer calls give fewer and smaller answers."""

_CALLS_LEFT = 4  # calls left for each worker, at least, so that all workers end at about the same time


@dataclass(frozen=True)
class PassItems:
    """The items of one pass, by number.

    count: their number. name: the name of an item in errors. send: (actor, items) -> reference of the answer. aim_s:
    seconds that a call of several items should take.
    """

    count: int
    name: Callable[[int], str]
    send: Callable[[Any, Sequence[int]], Any]
    aim_s: float = AIM_S


class Waiting:
    """The queue of items that no actor has: their order, and how many go with a call.

    A call has one item at first, and more while calls are quick, but never more than a part of each actor's share of
    what is left. Batching pays because a call costs the driver a millisecond, and most work on a small shard less.
    """

    def __init__(self, items: PassItems, slots: int) -> None:
        self._left = deque(range(items.count))
        self._shares = slots * _CALLS_LEFT
        self._aim_s = items.aim_s
        self._size = 1.0
        self.alone: set[int] = (
            set()
        )  # were in a call with others when their worker died; each now gets a worker to itself

    def __len__(self) -> int:
        return len(self._left)

    @property
    def first(self) -> int:
        """The next item."""
        return self._left[0]

    def defer(self) -> None:
        """Move the next item behind all others."""
        self._left.rotate(-1)

    def next_alone(self) -> bool:
        """Whether the next item must be alone in its call."""
        return self._left[0] in self.alone

    def take(self) -> list[int]:
        """Take the items of the next call."""
        # the second term shrinks towards the end of the pass, so that no worker has many items while others idle
        most = 1 if self.next_alone() else max(1, min(int(self._size), len(self._left) // self._shares))
        taken: list[int] = []
        while self._left and len(taken) < most and (not taken or not self.next_alone()):
            taken.append(self._left.popleft())
        return taken

    def again(self, item: int) -> None:
        """Put a failed item behind all others."""
        self._left.append(item)

    def back(self, items: Sequence[int]) -> None:
        """Put items that were not done in front of all others."""
        self._left.extendleft(reversed(items))

    def saw(self, done: int, seconds: float) -> None:
        """Adapt to a call: how many items it has done, and its seconds."""
        # at most four times as many as before, because the first shards may be empty and the next ones not
        self._size = max(1.0, min(4 * self._size, done * self._aim_s / max(seconds, 1e-6)))
