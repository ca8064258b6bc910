"""The limit of an item: a factor of the median of those that are done, a floor, and the floor as median until then."""

import statistics

from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.deadlines import ENOUGH, Deadline


def after(seconds: list[float], factor: float = 20.0, floor_s: float = 10.0) -> Deadline:
    deadline = Deadline(Needs(deadline_factor=factor, deadline_floor_s=floor_s))
    for one in seconds:
        deadline.saw(one)
    return deadline


@given(st.lists(st.floats(0, 1e4), min_size=ENOUGH, max_size=40))
def test_the_limit_is_a_multiple_of_the_median_and_the_floor_at_least(seconds: list[float]) -> None:
    assert after(seconds).limit_s == max(10.0, 20.0 * statistics.median_high(seconds))


def test_before_some_are_done_nobody_knows_what_is_usual() -> None:
    assert after([0.001] * (ENOUGH - 1)).limit_s == 200.0
    assert after([0.001] * ENOUGH).limit_s == 10.0


def test_only_the_last_thousand_are_held() -> None:
    deadline = after([1.0] * 3000 + [9.0] * 1001)
    assert deadline.limit_s == 180.0
    assert len(deadline._sorted) == len(deadline._last) == 1001


def test_what_was_not_done_in_time_says_which_option_to_raise() -> None:
    said = after([2.0] * 5, factor=3.0, floor_s=4.0).missed()
    assert said == (
        "it must be done within 6 s (others take 2 s), but was not; if it only needs longer, raise "
        "resources.deadline_floor_s, now 4"
    )
    assert "within 200 s (no other is done yet)" in after([]).missed()


def test_no_deadline_at_all() -> None:
    assert after([1.0] * 5, floor_s=float("inf")).limit_s == float("inf")
    assert after([1.0] * 5, floor_s=float("inf")).tick_s == 5.0
