"""The total order of samples, as sortable keys of bytes: value descending, then uid, then place in the pool.

The inverted value in as many bytes as the value has, 4 or 8, then 16 of uid, 8 of shard, 8 of row, all big-endian:
comparing bytes compares samples, and a key tells which sample it is of. No value is rounded for it.
"""

import math

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, Shaped, UInt

from winnow.pipeline.uid import uids_from_pairs

KEY = np.dtype("S36")
"""numpy dtype of the key of a float32 value; smaller is better."""

WIDE_KEY = np.dtype("S40")
"""numpy dtype of the key of a value of 8 bytes."""

KEY_ARROW = pa.binary(36)
"""parquet type of KEY."""

VALUES = tuple(np.dtype(name) for name in ("f4", "f8", "i8", "u8"))
"""dtypes of values that are ordered, each in its own."""

_PLACE = [("high", ">u8"), ("low", ">u8"), ("shard", ">u8"), ("row", ">u8")]
_FIELDS = {KEY: np.dtype([("value", ">u4"), *_PLACE]), WIDE_KEY: np.dtype([("value", ">u8"), *_PLACE])}


def key_type(value: np.dtype) -> np.dtype:
    """dtype of the keys of values of this dtype, one of VALUES."""
    return KEY if value.itemsize == 4 else WIDE_KEY


def order_keys(
    value: Shaped[np.ndarray, "n"], uid: Shaped[np.ndarray, "n"], shard: int, row: Int64[np.ndarray, "n"]
) -> Shaped[np.ndarray, "n"]:
    """(n,) of dtype KEY for float32, WIDE_KEY for the others.

    value: (n,) of one of VALUES, no NaN. uid: (n,) of dtype UID. shard: index in the pool, >= 0. row: int64 (n,), >= 0.
    """
    kind = key_type(value.dtype)
    # big-endian fields side by side compare as bytes in the order of the fields: (n, 36) or (n, 40) bytes
    fields = np.empty(len(value), _FIELDS[kind])
    fields["value"] = inverted(value)
    fields["high"] = uid["f0"]
    fields["low"] = uid["f1"]
    fields["shard"] = shard
    fields["row"] = row
    return fields.view(kind)


def inverted(value: Shaped[np.ndarray, "n"]) -> UInt[np.ndarray, "n"]:
    """Unsigned numbers, as wide as the values, that ascend as the values descend; both zeros have one number."""
    word = np.dtype(f"u{value.dtype.itemsize}").type
    low_bits = word((1 << (8 * value.dtype.itemsize - 1)) - 1)
    found: np.ndarray
    if value.dtype.kind == "u":  # largest first
        found = ~value
    elif value.dtype.kind == "i":  # the sign bit stays and puts negatives last; the other bits are inverted
        found = value.view(word) ^ low_bits
    else:
        bits = (value + value.dtype.type(0)).view(word)  # adding 0.0 takes the sign from zero
        # sign and magnitude: bits of a negative ascend as it descends, those of other values are inverted
        found = np.where(bits > low_bits, bits, bits ^ low_bits)
    return found


def reversed_order(value: Shaped[np.ndarray, "n"]) -> Shaped[np.ndarray, "n"]:
    """Values of the same dtype in the opposite order, exact for all: floats are negated, whole numbers complemented.

    The complement of v is -1 - v, which no number overflows. Done twice, it gives the values again.
    """
    turned: np.ndarray = -value if value.dtype.kind == "f" else ~value
    return turned


def beyond(value: Shaped[np.ndarray, "n"], threshold: float, lowest: bool = False) -> Bool[np.ndarray, "n"]:
    """Which values (n,) are above the threshold, or with `lowest` below it: compared exactly, whatever their dtype.

    threshold: int or float, finite. Of float32 values it is the nearest float32: who asks for more than 0.3 asks for
    more than the 0.3 of that type. NaN is never beyond.
    """
    kind, limit = value.dtype, float(threshold)
    if kind.kind in "iu":
        limit = math.ceil(threshold) if lowest else math.floor(threshold)
        least, most = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
        if not least <= limit <= most:
            return np.full(len(value), (limit > most) if lowest else (limit < least))
    elif kind == np.float32:
        with np.errstate(over="ignore"):
            limit = float(np.float32(threshold))
    elif limit < threshold and lowest:  # a whole number that float64 does not hold
        limit = math.nextafter(limit, math.inf)
    elif limit > threshold and not lowest:
        limit = math.nextafter(limit, -math.inf)
    found: np.ndarray = value < kind.type(limit) if lowest else value > kind.type(limit)
    return found


def key_uids(keys: Shaped[np.ndarray, "n"]) -> Shaped[np.ndarray, "n"]:
    """The uid in each key: (n,) of dtype UID."""
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
