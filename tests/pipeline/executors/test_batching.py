"""How items are given to calls: each exactly once, more per call while calls are quick, suspects alone."""

from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline.executors.batching import AIM_S, PassItems, Waiting


def waiting(count: int, slots: int = 2) -> Waiting:
    return Waiting(PassItems(count, str, lambda actor, items: None), slots)


def dealt(queue: Waiting, seconds_each: float) -> list[int]:
    """Number of items in each call, if an item takes so long."""
    sizes = []
    while queue:
        taken = queue.take()
        sizes.append(len(taken))
        queue.saw(len(taken), seconds_each * len(taken))
    return sizes


@given(
    count=st.integers(0, 300),
    slots=st.integers(1, 9),
    calls=st.lists(st.tuples(st.floats(0, 9), st.integers(0, 99), st.booleans()), max_size=20),
)
def test_every_item_goes_once_however_calls_end(count, slots, calls):
    queue = waiting(count, slots)
    done = []
    endings = iter(calls)
    while queue:
        taken = queue.take()
        assert taken
        seconds, left, died = next(endings, (0.001, 0, False))
        if died and len(taken) > 1:
            queue.alone.update(taken)
            queue.back(taken)
            continue
        kept = taken[: max(1, len(taken) - left)]
        queue.saw(len(kept), seconds)
        queue.back(taken[len(kept) :])
        done += kept
    assert sorted(done) == list(range(count))


def test_calls_grow_while_they_are_quick_and_all_workers_end_together():
    sizes = dealt(waiting(4000), AIM_S / 50)
    assert sizes[:5] == [1, 4, 16, 50, 50], "the first results come soon"
    assert sizes[-8:] == [1] * 8
    assert len(sizes) < 4000 / 50 + 40


def test_slow_items_go_one_by_one():
    assert dealt(waiting(500), AIM_S) == [1] * 500


def test_a_call_that_took_longer_than_thought_is_followed_by_small_ones():
    queue = waiting(10_000)
    queue.saw(1, 0.0)
    queue.saw(4, 0.0)
    assert len(queue.take()) == 16
    queue.saw(1, 60.0)
    assert len(queue.take()) == 1


def test_a_few_items_are_shared_among_all_workers():
    queue = waiting(100, slots=8)
    for _ in range(9):
        queue.saw(1, 0.0)
    assert len(queue.take()) == 3


def test_a_suspect_goes_by_itself_and_none_goes_with_it():
    queue = waiting(1000)
    for _ in range(9):
        queue.saw(1, 0.0)
    queue.alone.add(3)
    assert queue.take() == [0, 1, 2]
    assert queue.next_alone()
    assert queue.take() == [3]
    assert queue.take()[0] == 4


def test_what_was_not_done_goes_first_and_what_failed_last():
    queue = waiting(3)
    first = queue.take()
    queue.back(first)
    queue.again(9)
    assert [queue.take() for _ in range(4)] == [[0], [1], [2], [9]]


def test_one_that_is_deferred_goes_last():
    queue = waiting(3)
    assert queue.first == 0
    queue.defer()
    assert [queue.take() for _ in range(3)] == [[1], [2], [0]]
