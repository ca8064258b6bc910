"""Sparse sums against dense ones, however they are split and merged, and how small they are."""

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline.sums import Sums, dense, merge_sums

K = 7


@given(st.lists(st.lists(st.tuples(st.integers(0, K - 1), st.integers(-9, 9)), max_size=9), min_size=1, max_size=6))
def test_any_split_and_merge_has_the_sums_of_all(shards):
    parts = [Sums.of(*(np.array([row[i] for row in rows], np.int64) for i in range(2))) for rows in shards]
    every = [row for rows in shards for row in rows]
    count, weight = np.zeros(K, np.int64), np.zeros(K, np.int64)
    for index, value in every:
        count[index] += 1
        weight[index] += value
    for pieces in (parts, [merge_sums(parts)], [merge_sums(parts[:1]), *parts[1:]]):
        assert [found.tolist() for found in dense(pieces, K, 2)] == [count.tolist(), weight.tolist()]
    merged = merge_sums(parts)
    assert merged.index.tolist() == sorted({index for index, _ in every})


def test_a_sum_of_nothing_is_zero():
    assert dense([], 3)[0].tolist() == [0, 0, 0]
    assert dense([merge_sums([Sums.of(np.empty(0, np.int32))])], 2)[0].tolist() == [0, 0]


def test_a_shard_of_three_rows_says_little_of_many_groups():
    found = Sums.of(np.array([49_999, 7, 7], np.int32), np.array([1, 2, 3]))
    assert found.index.dtype == np.int32
    assert len(pickle.dumps(found)) < 1_000
