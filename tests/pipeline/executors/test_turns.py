"""One has the worker at a time, whatever becomes of it, and the others' waiting is no work of theirs."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from winnow.pipeline.executors.turns import Turns, waited_s


def test_one_at_a_time_has_the_worker():
    turns, inside, most = Turns(), [], []

    def work(number: int) -> float:
        before = waited_s()
        with turns.one() as turn:
            for _ in range(3):  # only the first waits
                turn.begin()
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)
            turn.end()
        return waited_s() - before

    with ThreadPoolExecutor(4) as threads:
        waited = list(threads.map(work, range(20)))
    assert len(most) == 20
    assert set(most) == {1}
    assert max(waited) >= 0.009


def test_what_comes_before_and_after_a_turn_waits_for_nobody():
    turns = Turns()
    with turns.one() as first:
        first.begin()
        with turns.one():
            pass  # it never began
        first.end()
        with turns.one() as second:
            second.begin()
            first.end()  # again: it is not its own any more
            third = threading.Thread(target=lambda: _take(turns))
            third.start()
            third.join(0.05)
            assert third.is_alive()
        third.join(10)
        assert not third.is_alive()


def test_a_turn_ends_with_an_error():
    turns = Turns()
    with pytest.raises(ValueError, match="bad shard"):
        _take(turns, ValueError("bad shard"))
    _take(turns)


def _take(turns: Turns, error: Exception | None = None) -> None:
    with turns.one() as turn:
        turn.begin()
        if error is not None:
            raise error
