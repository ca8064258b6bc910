"""Histograms and picks of a scan: parts add up to the whole, whatever the shards and their order."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.jobs.report.scan import BINS, GALLERY, Pick, ScanTotals, histogram, spread_over

PICKS = st.lists(st.builds(Pick, st.floats(0, 1), st.integers(0, 3), st.integers(0, 9)), max_size=60, unique=True)


@given(st.lists(st.tuples(st.floats(-1, 1, width=32), st.booleans()), min_size=1, max_size=50))
def test_a_value_is_counted_in_the_bin_that_has_it(rows: list[tuple[float, bool]]) -> None:
    values, after = np.array([v for v, _ in rows], np.float32), np.array([a for _, a in rows])
    low, high = float(values.min()), float(values.max())
    found = histogram(values, after, low, high)
    expected = np.zeros((2, BINS), np.int64)
    for value, stays in zip(values.astype(np.float64), after, strict=True):
        at = int((value - low) / ((high - low) / BINS or 1.0))
        expected[0 if stays else 1, min(at, BINS - 1)] += 1
    np.testing.assert_array_equal(found, expected)
    halves = [histogram(values[i::2], after[i::2], low, high) for i in range(2)]
    np.testing.assert_array_equal(sum(halves), found)


@given(PICKS, st.randoms(use_true_random=False))
def test_the_lowest_ranks_are_shown_in_any_order_of_shards(picks: list[Pick], random: object) -> None:
    shelf = "similarity", "kept"
    parts = [ScanTotals(rows=1, picks={shelf: [pick]}) for pick in picks]
    random.shuffle(parts)  # type: ignore[attr-defined]  # random.Random
    whole = ScanTotals()
    for part in parts:
        whole.add(part)
    assert whole.picks.get(shelf, []) == sorted(picks)[:GALLERY]
    assert whole.rows == len(picks)


@pytest.mark.parametrize(("count", "most"), [(0, 5), (3, 5), (5, 5), (10_000, 400), (401, 400)])
def test_shards_are_spread_evenly(count: int, most: int) -> None:
    found = spread_over(count, most)
    assert len(found) == len(set(found)) == min(count, most)
    assert all(0 <= i < count for i in found)
    assert found == sorted(found)
    if len(found) > 1:
        assert {b - a for a, b in itertools.pairwise(found)} <= {count // most, count // most + 1, 1}
