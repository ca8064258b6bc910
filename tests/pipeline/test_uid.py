"""Sample names keep all 128 bits through bytes, hex and pairs, and sort as their text does."""

from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline.errors import DataError
from winnow.pipeline.uid import (
    UID,
    UID_ARROW,
    content_hash,
    is_uid_hex,
    named_uid,
    stated_uid,
    uids_from_bytes,
    uids_from_hex,
    uids_from_pairs,
    uids_to_bytes,
    uids_to_hex,
)

NAMES = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


@given(NAMES)
def test_bytes_and_hex_and_pairs_are_one_name(names):
    uids = uids_from_bytes(pa.array(names, UID_ARROW))
    assert uids.dtype == UID
    assert uids.tolist() == [(int.from_bytes(n[:8], "big"), int.from_bytes(n[8:], "big")) for n in names]
    assert uids_to_hex(uids) == [name.hex() for name in names]
    assert uids_to_bytes(uids).type == UID_ARROW
    assert uids_to_bytes(uids).to_pylist() == names
    assert np.array_equal(uids_from_hex([name.hex() for name in names]), uids)
    assert np.array_equal(uids_from_hex([name.hex().upper() for name in names]), uids)
    assert np.array_equal(uids_from_pairs(uids["f0"], uids["f1"]), uids)


@given(NAMES, st.integers(0, 20), st.integers(0, 20))
def test_a_slice_of_a_column_is_a_slice_of_the_names(names, start, length):
    column = pa.array(names, UID_ARROW).slice(min(start, len(names)), length)
    assert uids_to_bytes(uids_from_bytes(column)).to_pylist() == names[start : start + length]


@given(NAMES, NAMES)
def test_a_column_in_chunks_is_one_column(first, second):
    column = pa.chunked_array([pa.array(first, UID_ARROW), pa.array(second, UID_ARROW)], UID_ARROW)
    assert uids_to_bytes(uids_from_bytes(column)).to_pylist() == first + second
    assert len(uids_from_bytes(pa.chunked_array([], UID_ARROW))) == 0


@given(NAMES)
def test_names_sort_as_their_text(names):
    uids = uids_from_bytes(pa.array(names, UID_ARROW))
    assert uids_to_hex(np.sort(uids)) == sorted(name.hex() for name in names)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "g" * 32, " " + "0" * 31, "0x" + "0" * 30, 7, None])
def test_what_is_no_name_is_refused(text):
    assert not is_uid_hex(text)
    if isinstance(text, str):
        with pytest.raises(ValueError, match="a uid must be 32 hex digits, got"):
            uids_from_hex(["0" * 32, text])


def test_columns_that_hold_no_names_are_refused():
    with pytest.raises(DataError, match="uids must be fixed_size_binary"):
        uids_from_bytes(pa.array([b"x" * 16]))
    with pytest.raises(DataError, match="1 nulls"):
        uids_from_bytes(pa.array([b"x" * 16, None], UID_ARROW))


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_a_hash_is_of_all_parts_together(parts):
    assert content_hash(*parts) == xxhash.xxh3_128_digest(b"".join(parts))
    assert content_hash(*[memoryview(part) for part in parts]) == content_hash(b"".join(parts))
    assert len(content_hash(*parts)) == 16


@pytest.mark.parametrize(
    ("value", "stated"),
    [
        (bytes(range(16)), True),
        (bytes(range(16)).hex(), True),
        (bytes(range(16)).hex().upper(), True),
        (bytes(range(16)).hex().encode(), True),
        ("00010203-0405-0607-0809-0a0b0c0d0e0f", True),
        (UUID(bytes=bytes(range(16))), True),
        ("00010203-04050607-0809-0a0b-0c0d0e0f", False),
        ("0123456789abcdef", False),
        ("a" * 64, False),
        (7, False),
        (-(10**40), False),
        ("\ud800", False),
        (b"\xff", False),
    ],
)
def test_what_is_a_uid_as_it_stands_and_what_names_by_its_hash(value: object, stated: bool) -> None:
    assert stated_uid(value) == (bytes(range(16)) if stated else None)
    named = named_uid(value)
    assert named is not None
    assert len(named) == 16
    assert stated or named != bytes(range(16))
    assert named_uid(42) == named_uid("42") == content_hash(b"42")


@pytest.mark.parametrize("value", [None, "", b"", True, 1.5, ["a"], {}])
def test_what_names_nothing(value: object) -> None:
    assert stated_uid(value) is None
    assert named_uid(value) is None
