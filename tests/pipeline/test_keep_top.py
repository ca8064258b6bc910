"""keep_top against a sort by (value, uid, place), and the laws that make it safe to distribute."""

import pickle
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.pipeline.errors import DataError
from winnow.pipeline.keep_top import Candidates, Counts, Merging, Rows, Selection, keep_top, kept, merge
from winnow.pipeline.keep_top.merging import Histogram
from winnow.pipeline.order import VALUES
from winnow.pipeline.uid import UID, uids_from_pairs

GROUPS = 4


@pytest.fixture(scope="module", params=[512, 0], ids=["16-bit digits", "8-bit digits"], autouse=True)
def digits(request):
    """Few groups as they are, and as if they were more than 512: every law holds for both."""
    import winnow.pipeline.keep_top.scan as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WIDE_GROUPS", request.param)
        yield


TIED = [-np.inf, -1.5, -1e-40, -0.0, 0.0, 1e-40, 0.25, np.float32(0.25000003), 3.0, np.inf]
INT, UINT = np.iinfo(np.int64), np.iinfo(np.uint64)
VALUES_OF = {
    "<f4": st.sampled_from(TIED) | st.floats(width=32, allow_nan=False),
    "<f8": st.sampled_from([*TIED, 0.3, 0.1 + 0.2, 5e-324]) | st.floats(allow_nan=False),
    "<i8": st.sampled_from([INT.min, INT.min + 1, -1, 0, 1 << 53, (1 << 53) + 1, INT.max - 1, INT.max]),
    "<u8": st.sampled_from([0, 1, 1 << 53, (1 << 53) + 1, 1 << 63, UINT.max - 1, UINT.max]),
}


def rows(value, group=None, uid=None, shard=0, row=None, dtype=np.float32):
    n = len(value)
    group = np.zeros(n) if group is None else group
    uid = np.arange(n) if uid is None else uid
    names = uids_from_pairs(np.asarray(uid, np.uint64) >> np.uint64(1), np.asarray(uid, np.uint64) & np.uint64(1))
    row = None if row is None else np.asarray(row, np.int64)
    return Rows(np.asarray(value, dtype), np.asarray(group, np.int32), names, shard, row)


def oracle(parts, quota):
    """The contract as a sentence: sort each group by (-value, uid, place) and take the first quota."""
    keep = [np.zeros(len(p.value), bool) for p in parts]
    for g, q in enumerate(quota):
        order = sorted(
            (-p.value[i].item(), p.uid[i].tolist(), p.shard, i if p.row is None else p.row[i], k, i)
            for k, p in enumerate(parts)
            for i in np.flatnonzero(p.group == g)
        )
        for *_, k, i in order[:q]:
            keep[k][i] = True
    return keep


@st.composite
def pools(draw):
    """Up to 60 rows of any dtype with heavy ties in value and uid, in up to 4 groups, with their quotas."""
    n = draw(st.integers(0, 60))
    dtype = draw(st.sampled_from(VALUES))
    value = draw(st.lists(VALUES_OF[dtype.str], min_size=n, max_size=n))
    group = draw(st.lists(st.integers(-1, GROUPS - 1), min_size=n, max_size=n))
    uid = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    quota = draw(st.lists(st.integers(0, 40), min_size=GROUPS, max_size=GROUPS))
    return rows(value, group, uid, dtype=dtype), np.array(quota, np.int64)


def take(part, at):
    """The rows `at` of a part, each still naming its own place."""
    return Rows(part.value[at], part.group[at], part.uid[at], part.shard, np.asarray(at, np.int64))


@settings(deadline=None)
@given(pools(), st.integers(1, 10) | st.just(1_000_000))
def test_equals_a_sort(pool, limit):
    part, quota = pool
    (mask,) = keep_top([part], quota, limit)
    assert np.array_equal(mask, oracle([part], quota)[0])
    size = np.bincount(part.group[part.group >= 0], minlength=GROUPS)
    assert np.array_equal(np.bincount(part.group[mask], minlength=GROUPS), np.minimum(size, quota))


@settings(deadline=None)
@given(pools(), st.data(), st.integers(1, 10))
def test_permuted_and_split_rows_have_the_same_answer(pool, data, limit):
    part, quota = pool
    (whole,) = keep_top([part], quota)
    order = np.array(data.draw(st.permutations(range(len(part.value)))), np.int64)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=4)))
    pieces = [order[a:b] for a, b in pairwise([0, *cuts, len(order)])]
    masks = keep_top([take(part, at) for at in pieces], quota, limit)
    for at, mask in zip(pieces, masks, strict=True):
        assert np.array_equal(mask, whole[at])


@settings(deadline=None)
@given(st.lists(pools(), min_size=1, max_size=5), st.randoms(), st.integers(1, 10))
def test_any_merge_order_has_the_same_answer(pool, random, limit):
    kind = pool[0][0].value.dtype
    parts = [replace(part, shard=7 * i) for i, (part, _) in enumerate(pool) if part.value.dtype == kind]
    quota = pool[0][1]
    selection = Selection(quota, limit)
    while (step := selection.next_pass()) is not None:
        results = [step.scan(p) for p in parts]
        while len(results) > 1 and random.random() < 0.8:
            random.shuffle(results)
            results = [merge(results[:2]), *results[2:]]
        selection.absorb(results)
    masks = [kept(p, selection.thresholds()) for p in parts]
    for mask, truth in zip(masks, oracle(parts, quota), strict=True):
        assert np.array_equal(mask, truth)


def test_zeros_of_both_signs_are_one_value():
    (mask,) = keep_top([rows([0.0, -0.0, 0.0], uid=[2, 0, 1])], np.array([1]))
    assert mask.tolist() == [False, True, False]


def test_equal_values_and_uids_are_ordered_by_shard_then_row():
    parts = [rows(np.ones(5), uid=np.full(5, 9), shard=s) for s in (3, 1)]
    first, second = keep_top(parts, np.array([7]), candidate_limit=1)
    assert second.all()
    assert first.tolist() == [True, True, False, False, False]


def test_a_large_place_is_ordered_as_a_number():
    part = rows([1, 1, 1], uid=[0, 0, 0], shard=2**40, row=[2**33, 255, 256])
    (mask,) = keep_top([part], np.array([2]), candidate_limit=1)
    assert mask.tolist() == [False, True, True]


def test_quota_none_all_and_absent_groups():
    part = rows([1, 2, 3, 4, 5], group=[0, 0, 1, 1, -1])
    (mask,) = keep_top([part], np.array([0, 9, 5]))
    assert mask.tolist() == [False, False, True, True, False]
    assert keep_top([], np.array([3, 0])) == []
    assert Selection(np.zeros(3, np.int64)).next_pass() is None


def test_thresholds_count_what_is_kept():
    part = rows([1, 2, 3, 4, 5], group=[0, 0, 1, 1, 1])
    selection = Selection(np.array([7, 2]))
    while (step := pickle.loads(pickle.dumps(selection.next_pass()))) is not None:  # noqa: S301 - our own object
        selection.absorb([pickle.loads(pickle.dumps(step.scan(part)))])  # noqa: S301 - our own object
    thresholds = selection.thresholds()
    assert thresholds.count.tolist() == [2, 2]
    assert thresholds.size.tolist() == [2, 3]
    assert kept(part, thresholds).tolist() == [True, True, False, True, True]


def test_ties_beyond_the_limit_never_gather_more_than_the_limit():
    rng = np.random.default_rng(0)
    uid = rng.integers(0, 2**63, 20_000, dtype=np.uint64)
    part = rows(np.ones(20_000), uid=uid)
    selection = Selection(np.array([5_000]), candidate_limit=50)
    gathered = []
    while (step := selection.next_pass()) is not None:
        found = step.scan(part)
        gathered += [len(found.key)] if isinstance(found, Candidates) else []
        selection.absorb([found])
    assert gathered == [] or max(gathered) <= 50
    mask = kept(part, selection.thresholds())
    assert np.array_equal(np.sort(part.uid[mask]), np.sort(part.uid)[:5_000])


def test_many_groups_in_many_shards():
    rng = np.random.default_rng(1)
    parts = [
        Rows(
            rng.normal(size=4_000).astype(np.float32),
            rng.integers(0, 1_000, 4_000).astype(np.int32),
            uids_from_pairs(rng.integers(0, 2**63, 4_000), rng.integers(0, 2**63, 4_000)),
            shard,
        )
        for shard in range(5)
    ]
    quota = rng.integers(0, 40, 1_000)
    value, group = (np.concatenate([getattr(p, name) for p in parts]) for name in ("value", "group"))
    masks = np.concatenate(keep_top(parts, quota, candidate_limit=300))
    for g in range(0, 1_000, 7):
        assert np.array_equal(np.sort(value[masks & (group == g)])[::-1], np.sort(value[group == g])[::-1][: quota[g]])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200))
def test_a_stream_of_counts_is_merged_within_bounds(cells):
    import winnow.pipeline.keep_top.merging as module

    part = rows(np.linspace(-1, 1, 90), group=np.arange(90) % 3)
    quota = np.array([4, 11, 29])
    whole = keep_top([part], quota)[0]
    pieces = np.array_split(np.arange(90), 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MERGE_CELLS", cells)
        masks = keep_top([take(part, at) for at in pieces], quota, candidate_limit=1)
    assert np.array_equal(np.concatenate(masks), whole)


def test_merging_takes_time_in_proportion_to_what_comes(monkeypatch):
    """400 shards with a row in each of 1,000 groups: merged into the whole each time, 40 million counts would move."""
    import winnow.pipeline.keep_top.merging as module

    moved, rng = 0, np.random.default_rng(0)

    def counting(partials):
        nonlocal moved
        moved += sum(len(partial.cell) for partial in partials)
        return merge(partials)

    monkeypatch.setattr(module, "merge", counting)
    merging, expected = Merging(cells=1_000), np.zeros(1_000 << 16, np.int64)
    for _ in range(400):
        cell = (np.arange(1_000) << 16) | rng.integers(0, 300, 1_000)
        merging.add(Counts(cell, np.ones(1_000, np.int64)))
        expected[cell] += 1
    found = merging.merged()
    assert np.array_equal(found.cell, np.flatnonzero(expected))
    assert np.array_equal(found.count, expected[expected > 0])
    assert moved < 4 * 400 * 1_000


def test_what_the_driver_holds_of_many_groups_does_not_grow_with_shards():
    """50,000 groups: a histogram of 102 MB, whether 4 or 40 shards of 20,000 rows are counted."""
    quota = np.full(50_000, 3)

    def peak(shards):
        rng = np.random.default_rng(0)
        selection = Selection(quota)
        step = selection.next_pass()
        values = (rng.uniform(0.1, 0.9, 20_000).astype(np.float32) for _ in range(shards))
        groups = (rng.integers(0, 50_000, 20_000) for _ in range(shards))
        every = (rows(v, group=g, shard=s) for s, (v, g) in enumerate(zip(values, groups, strict=True)))
        tracemalloc.start()
        selection.absorb(step.scan(one) for one in every)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = peak(4), peak(40)
    assert many < 1.05 * few
    assert many < 150e6


def test_counts_of_other_digits_are_refused():
    few, many = (np.zeros(1, np.int64), np.ones(1, np.int64))
    histogram = Histogram(3)
    with pytest.raises(DataError, match="digits of 8 bits, got 16"):
        histogram.add(Counts(few, many))
    with pytest.raises(DataError, match="merged results must be of one pass"):
        histogram.add(Candidates(np.zeros(0, np.int64), np.zeros(0, "S36")))
    histogram.add(Counts(few, many, 36, 8))
    with pytest.raises(DataError, match=r"got keys of (40 and of 36|36 and of 40) bytes"):
        histogram.add(Counts(few, many, 40, 8))


def test_nan_is_refused_and_the_column_named():
    part = rows([1, np.nan, 2], group=[0, -1, 0])
    assert keep_top([part], np.array([1]))[0].tolist() == [False, False, True]
    with pytest.raises(DataError, match=r"column aesthetic, shard 4: .* 1 of 2 are NaN, the first at entry 1"):
        Rows(np.array([1, np.nan], np.float32), np.zeros(2, np.int32), np.zeros(2, UID), 4, column="aesthetic")


def test_values_of_another_type_are_refused():
    with pytest.raises(DataError, match="values must be float32, float64, int64 or uint64, got int32; cast them"):
        rows([1, 2], dtype=np.int32)
    narrow, wide = rows([1.0, 2.0]), rows([1.0, 2.0], shard=1, dtype=np.float64)
    with pytest.raises(DataError, match="must have the same dtype in every shard, got keys of"):
        keep_top([narrow, wide], np.array([1]))


def test_wide_ties_are_told_apart_by_uid_and_place():
    part = rows(np.full(300, 1 << 60), uid=np.zeros(300), dtype=np.int64)
    (mask,) = keep_top([part], np.array([7]), candidate_limit=1)
    assert np.flatnonzero(mask).tolist() == list(range(7))


def test_broken_rows_are_refused():
    with pytest.raises(DataError, match="must have equal lengths"):
        Rows(np.zeros(2, np.float32), np.zeros(2, np.int32), np.zeros(2, np.uint64), 0)
    with pytest.raises(DataError, match="places must be >= 0"):
        rows([1.0], shard=-1)
    with pytest.raises(DataError, match="got -2"):
        rows([1.0], group=[-2])
    with pytest.raises(DataError, match="group 3 in shard 0 but only 2 quotas"):
        keep_top([rows([1.0], group=[3])], np.array([1, 1]))
    with pytest.raises(DataError, match="quotas must be >= 0, got -1 for group 1"):
        Selection(np.array([0, -1]))


@pytest.mark.parametrize("limit", [1, 1_000])
def test_one_shard_passed_twice_is_refused(limit):
    part = rows([1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="two rows of group 0 have the same"):
        keep_top([part, part], np.array([3]), limit)


def test_rows_that_change_between_passes_are_refused():
    selection = Selection(np.array([1]))
    selection.absorb([selection.next_pass().scan(rows([1.0, 1.0, 1.0]))])
    step = selection.next_pass()
    with pytest.raises(DataError, match="group 0 had 3 rows at its boundary and has 2 now"):
        selection.absorb([step.scan(rows([1.0, 1.0]))])


def test_results_of_different_passes_do_not_merge():
    counts = Counts(np.zeros(1, np.int64), np.ones(1, np.int64))
    with pytest.raises(DataError, match="merged results must be of one pass"):
        merge([counts, Candidates(np.zeros(0, np.int64), np.zeros(0, "S36"))])
    with pytest.raises(DataError, match="another pass is needed"):
        Selection(np.array([1])).thresholds()
