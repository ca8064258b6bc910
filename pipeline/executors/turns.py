"""A lock for workers that prefetch: of two shards in progress in a worker, one at a time does its main work.

Meanwhile the next shard is opened, or the one before is uploaded.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_WAITED = threading.local()


class Turn:
    """The turn of one item: it waits for the worker, holds it, and releases it."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._has = self._had = False

    def begin(self) -> None:
        """Wait until no other item holds the worker; does nothing after the first call."""
        if self._had:
            return
        started = time.perf_counter()
        self._lock.acquire()
        self._has = self._had = True
        _WAITED.seconds = waited_s() + time.perf_counter() - started

    def end(self) -> None:
        """Release the worker for the next item; does nothing if this item does not hold it."""
        if self._has:
            self._has = False
            self._lock.release()


class Turns:
    """The turns of one worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[Turn]:
        """A turn, which ends at the latest when the block ends, even by an error."""
        turn = Turn(self._lock)
        try:
            yield turn
        finally:
            turn.end()


def waited_s() -> float:
    """Seconds that this thread has waited for turns in all. The difference of two readings is the wait in between."""
    seconds: float = getattr(_WAITED, "seconds", 0.0)
    return seconds
