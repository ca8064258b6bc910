"""A lock for workers that prefetch: of two shards under way in a worker, one at a time does its main work.

So the next item opens while one is at it, and the one before ends (its upload) while the next is at it.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_WAITED = threading.local()


class Turn:
    """One item's part of a worker: it waits, has the worker, and lets it go."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._has = self._had = False

    def begin(self) -> None:
        """Wait for the item that has the worker; does nothing after the first time."""
        if self._had:
            return
        started = time.perf_counter()
        self._lock.acquire()
        self._has = self._had = True
        _WAITED.seconds = waited_s() + time.perf_counter() - started

    def end(self) -> None:
        """The next item may begin; does nothing where this one does not have the worker."""
        if self._has:
            self._has = False
            self._lock.release()


class Turns:
    """Of one worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[Turn]:
        """A turn, which ends with the block at the latest, however that ends."""
        turn = Turn(self._lock)
        try:
            yield turn
        finally:
            turn.end()


def waited_s() -> float:
    """Seconds that this thread has waited for turns; how long one piece of work waited is the difference."""
    seconds: float = getattr(_WAITED, "seconds", 0.0)
    return seconds
