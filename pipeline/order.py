"""The total order of samples, as sort keys made of bytes: value descending, then uid, then place in the pool.

A key is the inverted value (4 or 8 bytes, as wide as the value), 16 bytes of uid, 8 of shard and 8 of row, all
big-endian. So byte order is sample order, and a key identifies its sample. The value is stored exactly.
"""

import math

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, Shaped, UInt

from winnow.pipeline.uid import uids_from_pairs

KEY = np.dtype("S36")
"""numpy dtype of the key of a float32 value. The smallest key is the best sample."""

WIDE_KEY = np.dtype("S40")
"""numpy dtype of the key of an 8-byte value."""

KEY_ARROW = pa.binary(36)
"""Parquet type of KEY."""

VALUES = tuple(np.dtype(name) for name in ("f4", "f8", "i8", "u8"))
"""The dtypes that can be ordered. None is converted to another."""

_PLACE = [("high", ">u8"), ("low", ">u8"), ("shard", ">u8"), ("row", ">u8")]
_FIELDS = {KEY: np.dtype([("value", ">u4"), *_PLACE]), WIDE_KEY: np.dtype([("value", ">u8"), *_PLACE])}


def key_type(value: np.dtype) -> np.dtype:
    """dtype of the keys for values of this dtype, one of VALUES."""
    return KEY if value.itemsize == 4 else WIDE_KEY


def order_keys(
    value: Shaped[np.ndarray, "n"], uid: Shaped[np.ndarray, "n"], shard: int, row: Int64[np.ndarray, "n"]
) -> Shaped[np.ndarray, "n"]:
    """Sort keys (n,): dtype KEY for float32 values, WIDE_KEY for the others.

    value: (n,) of one of VALUES, no NaN. uid: (n,) of dtype UID. shard: index in the pool, >= 0. row: int64 (n,), >= 0.
    """
    kind = key_type(value.dtype)
    # (n, 36) or (n, 40) bytes. Big-endian fields side by side: comparing the bytes compares the fields in this order
    fields = np.empty(len(value), _FIELDS[kind])
    fields["value"] = inverted(value)
    fields["high"] = uid["f0"]
    fields["low"] = uid["f1"]
    fields["shard"] = shard
    fields["row"] = row
    return fields.view(kind)


def inverted(value: Shaped[np.ndarray, "n"]) -> UInt[np.ndarray, "n"]:
    """Unsigned integers (n,) as wide as the values, in the opposite order. 0.0 and -0.0 give the same integer."""
    word = np.dtype(f"u{value.dtype.itemsize}").type
    low_bits = word((1 << (8 * value.dtype.itemsize - 1)) - 1)  # every bit but the sign
    found: np.ndarray
    if value.dtype.kind == "u":
        found = ~value
    elif value.dtype.kind == "i":
        # two's complement: as unsigned, negatives are the larger ones already. Inside each sign, invert the order
        found = value.view(word) ^ low_bits
    else:
        bits = (value + value.dtype.type(0)).view(word)  # -0.0 + 0.0 is 0.0: both zeros get the same bits
        # sign and magnitude: the bits of a negative value grow as it falls, so they stay; the others are inverted
        found = np.where(bits > low_bits, bits, bits ^ low_bits)
    return found


def reversed_order(value: Shaped[np.ndarray, "n"]) -> Shaped[np.ndarray, "n"]:
    """Values (n,) of the same dtype in the opposite order: floats are negated, integers complemented. Exact.

    The complement of a signed v is -1 - v, which never overflows; -v would for the smallest integer. The function is
    its own inverse.
    """
    turned: np.ndarray = -value if value.dtype.kind == "f" else ~value
    return turned


def beyond(value: Shaped[np.ndarray, "n"], threshold: float, lowest: bool = False) -> Bool[np.ndarray, "n"]:
    """bool (n,): which values are above the threshold, or below it if `lowest`. The comparison is exact for any dtype.

    threshold: int or float, finite. For float32 values it is rounded to the nearest float32, because a job that asks
    for more than 0.3 means the float32 closest to 0.3. NaN is never beyond.
    """
    kind, limit = value.dtype, float(threshold)
    if kind.kind in "iu":
        # integers: v > 2.5 is v > 2, and v < 2.5 is v < 3
        limit = math.ceil(threshold) if lowest else math.floor(threshold)
        # a limit outside the dtype decides every value alike, and could not be cast to it
        least, most = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
        if not least <= limit <= most:
            return np.full(len(value), (limit > most) if lowest else (limit < least))
    elif kind == np.float32:
        with np.errstate(over="ignore"):
            limit = float(np.float32(threshold))
    # float64 values, and an integer threshold above 2**53 that float() has rounded: take the float64 on the side that
    # makes the strict comparison with the rounded limit the same as with the exact one
    elif limit < threshold and lowest:
        limit = math.nextafter(limit, math.inf)
    elif limit > threshold and not lowest:
        limit = math.nextafter(limit, -math.inf)
    found: np.ndarray = value < kind.type(limit) if lowest else value > kind.type(limit)
    return found


def key_uids(keys: Shaped[np.ndarray, "n"]) -> Shaped[np.ndarray, "n"]:
    """The uid of each key: (n,) of dtype UID."""
    fields = np.ascontiguousarray(keys).view(_FIELDS[keys.dtype])
    return uids_from_pairs(fields["high"], fields["low"])


def key_places(keys: Shaped[np.ndarray, "n"]) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """(shard, row) of each key: int64 (n,) each."""
    fields = np.ascontiguousarray(keys).view(_FIELDS[keys.dtype])
    return fields["shard"].astype(np.int64), fields["row"].astype(np.int64)


def keys_to_bytes(keys: Shaped[np.ndarray, "n"]) -> pa.Array:
    """Parquet column of keys of dtype KEY."""
    return pa.FixedSizeBinaryArray.from_buffers(KEY_ARROW, len(keys), [None, pa.py_buffer(np.ascontiguousarray(keys))])


def keys_from_bytes(column: pa.ChunkedArray | pa.Array) -> Shaped[np.ndarray, "n"]:
    """(n,) of dtype KEY from a parquet column without nulls."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if len(array) == 0:
        return np.empty(0, KEY)
    return np.frombuffer(array.buffers()[1], KEY, len(array), KEY.itemsize * array.offset)
