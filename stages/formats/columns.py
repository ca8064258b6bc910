"""Opens one parquet file and refuses columns that are missing or of another type than the format says."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, UInt8

from pipeline.artifact import spans_of
from pipeline.errors import PoolError, ShardError
from pipeline.parquet_file import ParquetFile
from pipeline.reading import expect
from pipeline.storage import open_read

_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789", np.uint8)] = np.arange(10)
_HEX[np.frombuffer(b"abcdef", np.uint8)] = _HEX[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


_BROKEN = (pa.ArrowException, OSError, EOFError, ValueError, zipfile.BadZipFile, NotImplementedError, zlib.error)
"""What pyarrow, numpy and zipfile raise of a broken file."""


@contextmanager
def whole_shard(url: str) -> Iterator[None]:
    """Raises ShardError in place of what pyarrow, numpy and zipfile say of a broken file."""
    try:
        yield
    except _BROKEN as error:
        raise ShardError(f"{url}: the file must be whole and readable, but: {error}; fetch it again") from error


@contextmanager
def open_parquet(url: str, columns: Sequence[str] = ()) -> Iterator[ParquetFile]:
    """The parquet file at `url`; column chunks are streamed, not held. Raises ShardError if broken.

    columns: those that will be read, which a remote file then asks for in few requests; names that it has not count
    for nothing.
    """
    with whole_shard(url), open_read(url) as file:
        parquet = ParquetFile(file, 1 << 20)
        expect(file, lambda: spans_of(parquet.metadata, columns))
        yield parquet


def need_column(schema: pa.Schema, candidates: Sequence[str], option: str, url: str) -> str:
    """The first of `candidates` that is a column. Raises PoolError that names the columns there are."""
    for name in candidates:
        if name in schema.names:
            return name
    raise PoolError(
        f"{url}: pool.{option} must name a column, but there is no {' or '.join(candidates)}; "
        f"there are {', '.join(schema.names)}"
    )


def need_text(schema: pa.Schema, name: str, option: str, url: str) -> None:
    """Raises PoolError when column `name` holds no text; a column of nulls only passes."""
    kind = schema.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (is_text(kind) or pa.types.is_null(kind)):
        raise PoolError(
            f"{url}: pool.{option} must name a text column, but {name} is {kind}; "
            "name another column, or write the text into one"
        )


def is_text(kind: pa.DataType) -> bool:
    """True for the string types of Arrow."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """True for the binary types of Arrow that have no fixed width."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def text_of(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Bool[np.ndarray, "n"]]:
    """The column as string, nulls kept, and which rows are no UTF-8: those must not be read as text."""
    text = column.cast(pa.string())
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return text, np.array([not _is_utf8(raw) for raw in text.cast(pa.binary()).to_pylist()], bool)
    return text, np.zeros(len(text), bool)


def null_mask(column: pa.ChunkedArray) -> Bool[np.ndarray, "n"]:
    """True where the column is null."""
    mask: np.ndarray = column.is_null().combine_chunks().to_numpy(zero_copy_only=False)
    return mask


def uids_of(column: pa.ChunkedArray) -> tuple[UInt8[np.ndarray, "n 16"], Bool[np.ndarray, "n"]]:
    """16 bytes a row, and which are a uid (32 hex digits as text, or 16 bytes); zeros for the others."""
    if is_text(column.type) or pa.types.is_dictionary(column.type):
        digits, known = _rows_of_width(column.cast(pa.string()).cast(pa.binary()), 32)
        nibbles = _HEX[digits]
        known &= (nibbles < 16).all(axis=1)
        nibbles[~known] = 0
        return nibbles[:, 0::2] << 4 | nibbles[:, 1::2], known
    if pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
        return _rows_of_width(column, 16)
    return np.zeros((len(column), 16), np.uint8), np.zeros(len(column), bool)


def _rows_of_width(column: pa.ChunkedArray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, width) uint8 and which rows have exactly that many bytes; the others are zeros."""
    array = column.cast(pa.large_binary()).combine_chunks()
    fits = pc.fill_null(pc.equal(pc.binary_length(array), width), False)
    filled = pc.if_else(fits, array, pa.scalar(bytes(width), pa.large_binary()))
    start = filled.offset
    first = np.frombuffer(filled.buffers()[1], np.int64)[start] if len(filled) else 0
    content = filled.buffers()[2] if len(filled) else b""
    raw = np.frombuffer(content, np.uint8, len(filled) * width, first) if len(filled) else np.empty(0, np.uint8)
    return raw.reshape(-1, width), fits.to_numpy(zero_copy_only=False).copy()


def sides_of(column: pa.ChunkedArray) -> pa.Array:
    """Width or height in pixels as int32; null where the column has no positive whole number that fits."""
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if not numeric:
        return pa.nulls(len(column), pa.int32())
    pixels = column.cast(pa.float64(), safe=False).combine_chunks().to_numpy(zero_copy_only=False)
    known = (pixels >= 1) & (pixels < 2**31)
    return pa.array(np.where(known, pixels, 0).astype(np.int32), mask=~known)


def _is_utf8(raw: bytes | None) -> bool:
    try:
        (raw or b"").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
