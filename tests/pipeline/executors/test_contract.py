"""Results that add up: each item counted once whatever befalls its worker, and few results alive at a time."""

import gc
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from winnow.pipeline.errors import FailedShards, ShardError
from winnow.pipeline.executors.contract import Executor, Needs, Reduction, Stateless
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.executors.ray_worker import Worker

COUNT = 400


@dataclass(frozen=True)
class Powers:
    """2 ** item: a sum of distinct powers tells which items are in it, and how often."""

    folder: str
    bad: tuple[int, ...] = ()
    kills_once: tuple[int, ...] = ()

    def __call__(self, item: int) -> int:
        if item in self.bad:
            raise ShardError(f"shard {item} is bad")
        died = Path(self.folder, f"died-{item}")
        if item in self.kills_once and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1 << item


def reduced(executor: Executor, task: Powers, retries: int = 1) -> tuple[list[int], list[int], list[str]]:
    """Indices that came, results that are not None, and names of items that failed."""
    indices: list[int] = []
    results: list[int] = []
    failed: list[str] = []
    try:
        for index, result in executor.map(
            Reduction(Stateless(task), sum), range(COUNT), "powers", Needs(retries=retries)
        ):
            indices.append(index)
            results += [] if result is None else [result]
    except FailedShards as error:
        failed = [name for name, _ in error.failures]
    return indices, results, failed


def test_each_item_is_in_the_sum_once(executor: Executor, tmp_path: Path) -> None:
    indices, results, failed = reduced(executor, Powers(str(tmp_path)))
    assert sorted(indices) == list(range(COUNT))
    assert (sum(results), failed) == ((1 << COUNT) - 1, [])


def test_on_ray_quick_items_of_one_call_are_one_result(ray_executor: Executor, tmp_path: Path) -> None:
    _, results, _ = reduced(ray_executor, Powers(str(tmp_path)))
    assert len(results) < COUNT / 4


def test_an_item_that_fails_leaves_its_neighbours_in_the_sum(executor: Executor, tmp_path: Path) -> None:
    indices, results, failed = reduced(executor, Powers(str(tmp_path), bad=(0, 200)))
    assert sorted(indices) == [i for i in range(COUNT) if i not in (0, 200)]
    assert sum(results) == (1 << COUNT) - 1 - 1 - (1 << 200)
    assert failed == ["0", "200"]


def test_what_a_dying_worker_had_counted_is_counted_once(ray_executor: Executor, tmp_path: Path) -> None:
    indices, results, failed = reduced(ray_executor, Powers(str(tmp_path), kills_once=(150, 300)))
    assert sorted(indices) == list(range(COUNT))
    assert (sum(results), failed) == ((1 << COUNT) - 1, [])


def test_results_that_do_not_fit_together_leave_the_worker_one_by_one() -> None:
    def unlike(results: Sequence[int]) -> int:
        raise ShardError("values of every shard must be of one type")

    _, outcomes = Worker().run(1, Reduction(Stateless(int), unlike), [7, 8], 9.0)
    assert outcomes == [(True, 7), (True, 8)]


@dataclass
class Large:
    """Counts how many of its kind are alive."""

    alive: list[int] = field(default_factory=lambda: [0, 0])

    def make(self, item: int) -> "Counted":
        return Counted(self.alive)


class Counted:
    """One result, noted in [now, most]."""

    def __init__(self, alive: list[int]) -> None:
        self._alive = alive
        alive[0] += 1
        alive[1] = max(alive)

    def __del__(self) -> None:
        self._alive[0] -= 1


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_run_a_few_results_ahead_and_no_result_is_kept(workers: int) -> None:
    large = Large()
    work: Callable[[int], Counted] = large.make
    for _ in LocalExecutor(workers).map(Stateless(work), range(1000), "large", Needs()):
        gc.collect(0)  # slow to take them, so that threads could run far ahead
    assert large.alive[1] <= 6 * workers + 1
