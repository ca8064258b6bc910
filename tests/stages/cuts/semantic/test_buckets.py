"""Buckets: every pair of rows of one cell meets exactly once, and no part grows beyond its bound."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from winnow.stages.cuts.semantic.buckets import Buckets


@given(
    sizes=st.lists(st.integers(0, 25), min_size=1, max_size=6),
    block=st.integers(1, 12),
    part=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_every_pair_of_a_cell_meets_in_one_bucket(sizes: list[int], block: int, part: int, seed: int) -> None:
    buckets = Buckets.of(np.array(sizes), block, part)
    cell = np.repeat(np.arange(len(sizes)), sizes)
    entry, bucket, side = buckets.spread(cell, np.random.default_rng(seed).random(len(cell)))
    met: Counter[tuple[int, int]] = Counter()
    for number in set(bucket.tolist()):
        inside = np.flatnonzero(bucket == number)
        across = buckets.across(number)
        assert across or not side[inside].any()
        pairs = [(a, b) for a in inside for b in inside if a < b and (side[a] != side[b] or not across)]
        met.update((min(x), max(x)) for x in ((int(entry[a]), int(entry[b])) for a, b in pairs))
    wanted = {(i, j) for i in range(len(cell)) for j in range(i + 1, len(cell)) if cell[i] == cell[j]}
    assert met == Counter(wanted)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(4, 40), st.integers(40, 90))
def test_parts_are_bounded(sizes: list[int], block: int, part: int) -> None:
    buckets = Buckets.of(np.array(sizes), block, part)
    assert (buckets.blocks == np.maximum(1, np.ceil(np.array(sizes) / block))).all()
    assert len(buckets.part) == (buckets.blocks * (buckets.blocks + 1) // 2).sum()
    assert (np.diff(buckets.part) >= 0).all()
    assert buckets.parts == buckets.part[-1] + 1
    held = Counter[int]()
    for number, at in enumerate(buckets.part.tolist()):
        cell = int(np.searchsorted(buckets.first, number, side="right")) - 1
        rows = -(-sizes[cell] // int(buckets.blocks[cell]))
        held[at] += 2 * rows if buckets.across(number) else rows
    assert max(held.values()) <= part + 2 * block


def test_a_cell_that_fits_is_one_bucket() -> None:
    buckets = Buckets.of(np.array([5, 0, 7]), 10, 100)
    entry, bucket, side = buckets.spread(np.array([2, 0, 2]), np.array([0.1, 0.9, 0.999]))
    assert (entry.tolist(), bucket.tolist(), side.tolist()) == ([0, 1, 2], [2, 0, 2], [0, 0, 0])
    assert buckets.parts == 1
