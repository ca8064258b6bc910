"""Keys: their bytes are in the order of (value descending, uid, shard, row), and give back what they are made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline.order import (
    KEY_ARROW,
    WIDE_KEY,
    beyond,
    inverted,
    key_places,
    key_uids,
    keys_from_bytes,
    keys_to_bytes,
    order_keys,
    reversed_order,
)
from winnow.pipeline.order import VALUES as DTYPES
from winnow.pipeline.uid import uids_from_pairs

VALUES = st.floats(width=32, allow_nan=False)
WORDS = st.integers(0, (1 << 64) - 1)
SAMPLES = st.lists(st.tuples(VALUES, WORDS, WORDS, st.integers(0, 1 << 40)), min_size=1, max_size=20)


def made(samples: list[tuple[float, int, int, int]], shard: int) -> np.ndarray:
    value, high, low, row = zip(*samples, strict=True)
    uids = uids_from_pairs(np.array(high, np.uint64), np.array(low, np.uint64))
    return order_keys(np.array(value, np.float32), uids, shard, np.array(row, np.int64))


@given(SAMPLES, SAMPLES)
def test_bytes_are_in_the_order_of_samples(first: list, second: list) -> None:
    keys = np.concatenate([made(first, 3), made(second, 4)])
    plain = [(-value + 0.0, high, low, 3, row) for value, high, low, row in first]
    plain += [(-value + 0.0, high, low, 4, row) for value, high, low, row in second]
    raw = [bytes(key).ljust(36, b"\0") for key in keys]
    assert sorted(range(len(raw)), key=raw.__getitem__) == sorted(range(len(raw)), key=plain.__getitem__)
    assert [plain[i] for i in np.argsort(keys, kind="stable")] == sorted(plain)


@given(SAMPLES)
def test_a_key_tells_its_sample(samples: list) -> None:
    keys = made(samples, 7)
    uids, (shard, row) = key_uids(keys), key_places(keys)
    assert [(int(h), int(low)) for h, low in uids] == [(high, low) for _, high, low, _ in samples]
    assert set(shard.tolist()) == {7}
    assert row.tolist() == [row for *_, row in samples]
    column = keys_to_bytes(keys)
    assert column.type == KEY_ARROW
    assert (keys_from_bytes(column) == keys).all()
    assert (keys_from_bytes(column.slice(1)) == keys[1:]).all()


def test_no_keys() -> None:
    assert len(keys_from_bytes(keys_to_bytes(made([(0.0, 0, 0, 0)], 0)[:0]))) == 0


def numbers(dtype: np.dtype) -> st.SearchStrategy:
    """Any value of a dtype, ends and neighbours oftener."""
    if dtype.kind == "f":
        wide = [5e-324, 0.1 + 0.2, 0.3] if dtype.itemsize == 8 else []
        ends = [-np.inf, -0.0, 0.0, np.inf, *wide]
        return st.sampled_from(ends) | st.floats(width=8 * dtype.itemsize, allow_nan=False)
    info = np.iinfo(dtype)
    ends = [info.min, info.min + 1, info.max - 1, info.max, 1 << 53, (1 << 53) + 1, 0]
    return st.sampled_from(ends) | st.integers(info.min, info.max)


ANY = st.sampled_from(DTYPES).flatmap(
    lambda dtype: st.tuples(st.just(dtype), st.lists(numbers(dtype), min_size=1, max_size=12))
)


@given(ANY)
def test_every_dtype_keeps_its_order_to_the_last_bit(drawn: tuple) -> None:
    dtype, values = drawn
    value = np.array(values, dtype)
    n = len(value)
    order = sorted(range(n), key=lambda i: (-values[i], i))
    uids = uids_from_pairs(np.zeros(n, np.uint64), np.arange(n, dtype=np.uint64))
    keys = order_keys(value, uids, 3, np.arange(n))
    assert np.argsort(keys, kind="stable").tolist() == order
    assert [int(low) for _, low in key_uids(keys)] == list(range(n))
    assert key_places(keys)[1].tolist() == list(range(n))
    assert (keys.dtype == WIDE_KEY) == (dtype.itemsize == 8)
    turned = reversed_order(value)
    assert turned.dtype == dtype
    assert np.array_equal(reversed_order(turned), value)
    assert np.array_equal(np.argsort(inverted(turned), kind="stable"), sorted(range(n), key=lambda i: (values[i], i)))


@given(
    ANY, st.integers(-(1 << 64), 1 << 64) | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.5])
)
def test_a_threshold_compares_exactly(drawn: tuple, threshold: float) -> None:
    dtype, values = drawn
    if dtype == np.float32:
        with np.errstate(over="ignore"):
            threshold = float(np.float32(threshold))  # of that type the threshold is one of its numbers
    value = np.array(values, dtype)
    assert beyond(value, threshold).tolist() == [plain > threshold for plain in value.tolist()]
    assert beyond(value, threshold, lowest=True).tolist() == [plain < threshold for plain in value.tolist()]


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_values(dtype: np.dtype) -> None:
    none = np.empty(0, dtype)
    assert len(inverted(none)) == len(reversed_order(none)) == len(beyond(none, 0.5)) == 0
