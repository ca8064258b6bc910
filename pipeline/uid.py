"""uids, the 128-bit names of samples: hex digits in tables, pairs of uint64 in memory, 16 bytes in transit.

Tables hold the hex text, so that people can join files by it. The pair (high, low) is DataComp's subset format; a
structured array of pairs sorts in the order of the texts.
"""

import binascii
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from winnow.pipeline.errors import DataError

UID = np.dtype("u8,u8")
"""numpy dtype of a uid: fields f0 (high 64 bits) and f1 (low 64 bits)."""

UID_ARROW = pa.binary(16)
"""Arrow type of a uid between workers: 16 big-endian bytes."""

DASHES = (8, 13, 18, 23)
"""Where the dashes of a UUID stand among its 36 characters."""

_DASHED = 36


def content_hash(*parts: bytes | memoryview) -> bytes:
    """xxh3-128 of the concatenated parts, 16 big-endian bytes."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.digest()


def uids_from_bytes(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Array of dtype UID from a column of 16-byte binaries. Raises DataError for another type and for nulls."""
    if column.type != UID_ARROW or column.null_count:
        raise DataError(f"uids must be {UID_ARROW} without nulls, got {column.type} with {column.null_count} nulls")
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if len(array) == 0:
        return np.empty(0, UID)
    # the buffer ignores the array's slice; 16 n bytes -> (n, 2) big-endian halves
    raw = np.frombuffer(array.buffers()[1], np.uint8)[16 * array.offset : 16 * (array.offset + len(array))]
    pairs = raw.view(">u8").reshape(-1, 2)
    return uids_from_pairs(pairs[:, 0], pairs[:, 1])


def uids_of(texts: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Array of dtype UID from a column of texts of 32 hex digits. Raises the errors of bytes_of."""
    return uids_from_bytes(bytes_of(texts))


def uids_from_pairs(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Array of dtype UID from its high and low 64-bit halves."""
    uids = np.empty(len(high), UID)
    uids["f0"] = high
    uids["f1"] = low
    return uids


def uids_to_bytes(uids: np.ndarray) -> pa.Array:
    """Parquet column of 16-byte binaries from an array of dtype UID."""
    return pa.FixedSizeBinaryArray.from_buffers(UID_ARROW, len(uids), [None, pa.py_buffer(_big_endian(uids))])


def uids_to_hex(uids: np.ndarray) -> list[str]:
    """32 hex digits of each uid."""
    text = _big_endian(uids).hex()
    return [text[i : i + 32] for i in range(0, len(text), 32)]


def uids_from_hex(texts: list[str]) -> np.ndarray:
    """Array of dtype UID from texts of 32 hex digits. Raises ValueError that names the first text that is not a uid."""
    for text in texts:
        if not is_uid_hex(text):
            raise ValueError(f"a uid must be 32 hex digits, got {text!r}")
    raw = np.frombuffer(bytes.fromhex("".join(texts)), ">u8").reshape(-1, 2)
    return uids_from_pairs(raw[:, 0], raw[:, 1])


def hex_of(uids: pa.ChunkedArray | pa.Array) -> pa.StringArray:
    """Text of 32 lower-case hex digits for each uid (16 bytes), null for null. Makes no Python object per row."""
    array = uids.combine_chunks() if isinstance(uids, pa.ChunkedArray) else uids
    n, size = len(array), UID_ARROW.byte_width
    if not n:
        return pa.array([], pa.string())
    # one hexlify for the whole column: text i is digits 32 i to 32 (i + 1)
    digits = binascii.hexlify(array.buffers()[1].slice(size * array.offset, size * n))
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(2 * size)
    text = pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(digits))
    return text if not array.null_count else pc.if_else(array.is_valid(), text, pa.scalar(None, pa.string()))


def bytes_of(texts: pa.ChunkedArray | pa.Array) -> pa.FixedSizeBinaryArray:
    """16 bytes for each text of 32 hex digits; the inverse of hex_of. Makes no Python object per row.

    Raises DataError for another type, for nulls, and for the first text that is not a uid.
    """
    if texts.type != pa.string() or texts.null_count:
        raise DataError(
            f"uids must be texts of 32 hex digits without nulls, got {texts.type} with {texts.null_count} nulls"
        )
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    if not len(array):
        return pa.array([], UID_ARROW)
    # (n + 1,) offsets into the characters; all texts are decoded at once, then checked for length
    ends = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset)
    try:
        raw = binascii.unhexlify(array.buffers()[2].slice(int(ends[0]), int(ends[-1] - ends[0])))
    except binascii.Error:
        raw = b""
    if len(raw) != 16 * len(array) or (np.diff(ends) != 32).any():
        [wrong] = [text for text in array.to_pylist() if not is_uid_hex(text)][:1]
        raise DataError(f"a uid must be 32 hex digits, got {wrong!r:.80}")
    return pa.FixedSizeBinaryArray.from_buffers(UID_ARROW, len(array), [None, pa.py_buffer(raw)])


def is_uid_hex(text: object) -> bool:
    """Whether a value is a string of exactly 32 hex digits."""
    return isinstance(text, str) and len(text) == 32 and all(c in "0123456789abcdefABCDEF" for c in text)


def stated_uid(value: object) -> bytes | None:
    """The 16 bytes of a value that is a uid already: 16 bytes, 32 hex digits, or a UUID with dashes; else None."""
    if isinstance(value, UUID):
        return value.bytes
    if isinstance(value, bytes):
        if len(value) == UID_ARROW.byte_width:
            return value
        value = value.decode("latin-1")
    if isinstance(value, str) and len(value) == _DASHED and all(value[at] == "-" for at in DASHES):
        value = value.replace("-", "")
    return bytes.fromhex(str(value)) if is_uid_hex(value) else None


def named_uid(value: object) -> bytes | None:
    """The uid that a value names: `stated_uid`, else the xxh3-128 of its UTF-8 text, bytes, or digits (of an integer).

    None for a value that names nothing: null, an empty text, a bool, a float, a list.
    """
    stated = stated_uid(value)
    if stated is not None or isinstance(value, bool) or not isinstance(value, str | bytes | int) or value in ("", b""):
        return stated
    return content_hash(value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass"))


def _big_endian(uids: np.ndarray) -> bytes:
    pairs = np.empty((len(uids), 2), ">u8")
    pairs[:, 0] = uids["f0"]
    pairs[:, 1] = uids["f1"]
    return pairs.tobytes()


def uids_from(plain: object) -> np.ndarray:
    """Array of dtype UID from uids in any common form, in the same order.

    plain: an array of dtype UID, as in uids.npy; unsigned 64-bit integers (n, 2), high and low; or a list, numpy or
    Arrow array of texts of 32 hex digits, UUIDs, or 16 big-endian bytes. Raises DataError for anything else.
    """
    if isinstance(plain, pa.Array | pa.ChunkedArray):
        return uids_from_bytes(plain) if plain.type == UID_ARROW else uids_of(plain.cast(pa.string()))
    array = plain if isinstance(plain, np.ndarray) else np.asarray(plain, object)
    if array.dtype == UID:
        return array
    if array.dtype == np.uint64 and array.ndim == 2 and array.shape[1] == 2:  # (n, 2): high, low
        return uids_from_pairs(array[:, 0], array[:, 1])
    if array.dtype == np.dtype("S16"):  # numpy strips trailing zero bytes from single S16 items, so convert the buffer
        halves = np.ascontiguousarray(array).view(">u8").reshape(-1, 2)
        return uids_from_pairs(halves[:, 0], halves[:, 1])
    if len(array) == 0:
        return np.empty(0, UID)
    values = [value.hex if isinstance(value, UUID) else value for value in array.tolist()]
    try:
        return uids_of(pa.array(values, pa.string())) if isinstance(values[0], str) else _from_bytes_list(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"uids are 32 hex digits, 16 bytes or pairs of unsigned 64-bit integers, one kind in a list, but "
            f"{values[0]!r} came first: {error}"
        ) from error


def _from_bytes_list(values: list[object]) -> np.ndarray:
    return uids_from_bytes(pa.array(values, UID_ARROW))
