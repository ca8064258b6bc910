"""The total order of samples as a key of 36 bytes each: value descending, then uid, then place; writes nothing.

4 bytes of inverted value, 16 of uid, 8 of shard, 8 of row, all big-endian: comparing bytes compares samples, and a key
tells which sample it is of.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, Shaped, UInt32

from pipeline.uid import uids_from_pairs

KEY = np.dtype("S36")
"""numpy dtype of a key; smaller is better."""

KEY_ARROW = pa.binary(36)
"""parquet type of a key."""

_FIELDS = np.dtype([("value", ">u4"), ("high", ">u8"), ("low", ">u8"), ("shard", ">u8"), ("row", ">u8")])


def order_keys(
    value: Float32[np.ndarray, "n"], uid: Shaped[np.ndarray, "n"], shard: int, row: Int64[np.ndarray, "n"]
) -> Shaped[np.ndarray, "n"]:
    """(n,) of dtype KEY.

    value: float32 (n,), no NaN. uid: (n,) of dtype UID. shard: index in the pool, >= 0. row: int64 (n,), >= 0.
    """
    fields = np.empty(len(value), _FIELDS)
    fields["value"] = inverted(value)
    fields["high"] = uid["f0"]
    fields["low"] = uid["f1"]
    fields["shard"] = shard
    fields["row"] = row
    return fields.view(KEY)


def inverted(value: Float32[np.ndarray, "n"]) -> UInt32[np.ndarray, "n"]:
    """uint32 that ascends as float32 descends; adding 0.0 gives both zeros one number."""
    bits = (value + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, bits, bits ^ np.uint32(0x7FFFFFFF))


def key_uids(keys: Shaped[np.ndarray, "n"]) -> Shaped[np.ndarray, "n"]:
    """The uid in each key: (n,) of dtype UID."""
    fields = np.ascontiguousarray(keys).view(_FIELDS)
    return uids_from_pairs(fields["high"], fields["low"])


def key_places(keys: Shaped[np.ndarray, "n"]) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """(shard, row) of each key: int64 (n,) each."""
    fields = np.ascontiguousarray(keys).view(_FIELDS)
    return fields["shard"].astype(np.int64), fields["row"].astype(np.int64)


def keys_to_bytes(keys: Shaped[np.ndarray, "n"]) -> pa.Array:
    """Parquet column of keys."""
    return pa.FixedSizeBinaryArray.from_buffers(KEY_ARROW, len(keys), [None, pa.py_buffer(np.ascontiguousarray(keys))])


def keys_from_bytes(column: pa.ChunkedArray | pa.Array) -> Shaped[np.ndarray, "n"]:
    """(n,) of dtype KEY from a parquet column without nulls."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if len(array) == 0:
        return np.empty(0, KEY)
    return np.frombuffer(array.buffers()[1], KEY, len(array), KEY.itemsize * array.offset)
