"""Keys: their bytes are in the order of (value descending, uid, shard, row), and give back what they are made of."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import KEY_ARROW, key_places, key_uids, keys_from_bytes, keys_to_bytes, order_keys
from pipeline.uid import uids_from_pairs

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
