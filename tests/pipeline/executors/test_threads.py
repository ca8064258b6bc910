"""Threads that exceed their deadline: the item is named, the others are done, and the process ends without them."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from winnow.pipeline.errors import FailedShards, ModelError
from winnow.pipeline.executors.contract import Needs, Stateless
from winnow.pipeline.executors.local import LocalExecutor

ROOT = Path(__file__).parents[3]
SHORT = Needs(deadline_factor=4, deadline_floor_s=0.5)


@pytest.fixture
def end() -> Iterator[threading.Event]:
    """Ends what hangs, with the test."""
    event = threading.Event()
    yield event
    event.set()


def hanging(end: threading.Event, *items: int) -> Callable[[int], int]:
    def square(item: int) -> int:
        if item in items:
            end.wait(60)
        return item * item

    return square


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("stuck", [(3,), (0, 1, 7)])
def test_what_hangs_fails_by_name_and_all_others_are_done(
    end: threading.Event, stuck: tuple[int, ...], prefetch: bool
) -> None:
    needs = Needs(deadline_factor=4, deadline_floor_s=0.5, prefetch=prefetch)
    started, found = time.monotonic(), []
    with pytest.raises(FailedShards) as error:
        found.extend(LocalExecutor(2).map(Stateless(hanging(end, *stuck)), range(40), "squares", needs))
    assert time.monotonic() - started < 20
    assert sorted(found) == [(i, i * i) for i in range(40) if i not in stuck]
    assert [name for name, _ in error.value.failures] == sorted(str(item) for item in stuck)
    assert all("its thread cannot be ended and is left behind" in said for _, said in error.value.failures)


def test_what_waits_for_an_item_that_hangs_is_done_by_another_worker(end: threading.Event) -> None:
    """Two threads of a worker share a lock: the one that waits for it is not at fault."""

    @dataclass(frozen=True)
    class Shares:
        def open(self) -> Callable[[int], int]:
            lock = threading.Lock()

            def square(item: int) -> int:
                with lock:
                    return hanging(end, 0)(item)

            return square

    found, needs = [], Needs(deadline_factor=4, deadline_floor_s=0.5, prefetch=True)
    with pytest.raises(FailedShards) as error:
        found.extend(LocalExecutor(1).map(Shares(), range(6), "squares", needs))
    assert sorted(found) == [(i, i * i) for i in range(1, 6)]
    assert [name for name, _ in error.value.failures] == ["0"]


def test_an_item_that_is_slow_but_in_time_is_done() -> None:
    def slow(item: int) -> int:
        time.sleep(0.4 * (item == 5))
        return item

    assert len(list(LocalExecutor(2).map(Stateless(slow), range(20), "slow", SHORT))) == 20


def test_an_error_ends_a_pass_in_which_a_thread_hangs(end: threading.Event) -> None:
    def fails(item: int) -> int:
        if item == 1:
            time.sleep(0.1)
            raise ModelError("no such weights")
        return hanging(end, 0)(item)

    started = time.monotonic()
    with pytest.raises(ModelError, match="no such weights"):
        list(LocalExecutor(2).map(Stateless(fails), range(2), "fails", SHORT))
    assert time.monotonic() - started < 20


_HANGS = """
import sys, time
from winnow.jobs import __main__ as command
from winnow.pipeline.executors.contract import Needs, Stateless
from winnow.pipeline.executors.local import LocalExecutor

def enter():
    try:
        list(LocalExecutor(1).map(Stateless(lambda item: time.sleep(999)), [0], "sleeps", Needs(
            deadline_factor=1, deadline_floor_s=0.2)))
    except Exception as error:
        print(error)
        sys.exit(7)

import winnow.jobs.cli
winnow.jobs.cli.main = enter
command.main()
"""


def test_the_process_ends_with_its_code_and_waits_for_no_thread_that_hangs() -> None:
    found = subprocess.run(
        [sys.executable, "-c", _HANGS], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (found.returncode, found.stderr) == (7, "")
    assert "sleeps: every shard must finish, but 1 of 1 failed" in found.stdout
