"""Adaptive batching: how many shards go with the next call to a worker, by how long the calls before took."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

AIM_S = 0.1
"""Seconds that a call of several pieces should take."""

REDUCING_AIM_S = 1.0
"""The same where their results are combined: the longer a call, the fewer and the smaller are the answers."""

_CALLS_LEFT = 4  # for each worker, at least, so that all of them end together


@dataclass(frozen=True)
class Pieces:
    """The items of one pass, by number.

    count: how many. name: what an error calls one. send: (actor, pieces) -> reference of the answer. aim_s: seconds
    that a call of several should take.
    """

    count: int
    name: Callable[[int], str]
    send: Callable[[Any, Sequence[int]], Any]
    aim_s: float = AIM_S


class Waiting:
    """The pieces that no actor has: in what order they go, and how many with a call.

    One at first; more while calls come back soon, by the time that they took, and never more than a part of each
    actor's share of what is left: a call costs the driver a millisecond, and most work on a small shard less.
    """

    def __init__(self, pieces: Pieces, seats: int) -> None:
        self._left = deque(range(pieces.count))
        self._shares = seats * _CALLS_LEFT
        self._aim_s = pieces.aim_s
        self._size = 1.0
        self.alone: set[int] = set()  # were with others when their worker died: nothing may go or wait beside one

    def __len__(self) -> int:
        return len(self._left)

    @property
    def first(self) -> int:
        """The one that goes next."""
        return self._left[0]

    def defer(self) -> None:
        """The one that would go next goes behind all others."""
        self._left.rotate(-1)

    def next_alone(self) -> bool:
        """Whether the next one goes by itself."""
        return self._left[0] in self.alone

    def take(self) -> list[int]:
        """Those that go with the next call."""
        # the second term shrinks to nothing towards the end, so that no worker has many left while others idle
        most = 1 if self.next_alone() else max(1, min(int(self._size), len(self._left) // self._shares))
        taken: list[int] = []
        while self._left and len(taken) < most and (not taken or not self.next_alone()):
            taken.append(self._left.popleft())
        return taken

    def again(self, piece: int) -> None:
        """One that failed waits behind all others."""
        self._left.append(piece)

    def back(self, pieces: Sequence[int]) -> None:
        """Those that were not done go first."""
        self._left.extendleft(reversed(pieces))

    def saw(self, done: int, seconds: float) -> None:
        """A call has done so many in so long."""
        # at most four times as many as before: the first shards may be empty, and the next not
        self._size = max(1.0, min(4 * self._size, done * self._aim_s / max(seconds, 1e-6)))
