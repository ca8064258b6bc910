"""Opens a parquet file and checks that each column it needs exists exactly once and has the right type."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, UInt8

from winnow.pipeline.errors import PoolError, ShardError
from winnow.pipeline.parquet_file import ParquetFile, column_spans
from winnow.pipeline.storage import open_read
from winnow.pipeline.storage.remote_file import expect
from winnow.pipeline.uid import DASHES, content_hash
from winnow.stages.pools.plain import is_bytes, is_text, stored, stored_type
from winnow.stages.preview.foreign import HEAD_BYTES, foreign

_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789", np.uint8)] = np.arange(10)
_HEX[np.frombuffer(b"abcdef", np.uint8)] = _HEX[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)

_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_BROKEN = (pa.ArrowException, OSError, EOFError, ValueError, zipfile.BadZipFile, NotImplementedError, zlib.error)
"""What pyarrow, numpy and zipfile raise for a broken file."""


@contextmanager
def whole_shard(url: str) -> Iterator[None]:
    """Turns what pyarrow, numpy and zipfile raise for a broken file into a ShardError."""
    try:
        yield
    except _BROKEN as error:
        raise ShardError(f"{url}: the file must be whole and readable, but: {error}; fetch it again") from error


@contextmanager
def open_parquet(url: str, columns: Sequence[str] = ()) -> Iterator[ParquetFile]:
    """The parquet file at `url`. Column chunks are streamed, not held in memory. Raises ShardError if it is broken.

    columns: those that will be read, so that a remote file is read in few requests. Names without a column are ignored.
    """
    with whole_shard(url), open_read(url) as file:
        parquet = parquet_of(file, url)
        expect(file, lambda: column_spans(parquet.metadata, columns))
        yield parquet


def parquet_of(file: BinaryIO, url: str) -> ParquetFile:
    """An open file as parquet.

    Raises ShardError if the file has another format, and says which; PoolError for column names that are not UTF-8.
    """
    try:
        return ParquetFile(file, 1 << 20)
    except UnicodeDecodeError as error:
        raise PoolError(f"{url}: names of columns must be UTF-8, but one is not: {error}; rename it") from error
    except pa.ArrowInvalid as error:
        file.seek(0)
        head = file.read(HEAD_BYTES)
        if (told := foreign(head)) and not head.startswith(b"PAR1"):
            raise ShardError(
                f"{url}: the file must be whole and readable parquet, but it is {told}", lasting=True
            ) from error
        raise


def need_column(schema: pa.Schema, candidates: Sequence[str], option: str, url: str) -> str:
    """The first of `candidates` that is a column. Raises PoolError if none is, or if two columns have that name."""
    for name in candidates:
        if name in schema.names:
            need_once(schema, name, option, url)
            return name
    raise PoolError(
        f"{url}: pool.{option} must name a column, but there is no {' or '.join(candidates)}; "
        f"there are {', '.join(schema.names)}"
    )


def need_once(schema: pa.Schema, name: str, option: str, url: str) -> None:
    """Raises PoolError if several columns have this name, because any of them could be meant."""
    times = schema.names.count(name)
    if times > 1:
        raise PoolError(
            f"{url}: pool.{option} must name one column, but {times} are called {name}, as a join can leave them; "
            f"rename or drop all but one"
        )


def first_column(table: pa.Table | pa.RecordBatch, name: str) -> pa.Array | pa.ChunkedArray:
    """The column of this name; if there are several, the first."""
    return table.column(table.schema.get_all_field_indices(name)[0])


def need_text(schema: pa.Schema, name: str, option: str, url: str) -> None:
    """Raises PoolError unless column `name` holds text. Bytes count as UTF-8 text, and a column of nulls passes."""
    kind = schema.field(name).type
    plain = stored_type(kind)
    if is_text(plain) or is_bytes(plain) or pa.types.is_null(plain):
        return
    remedy = "name another column, or write the text into one"
    if is_list(plain) and is_text(stored_type(plain.value_type)):
        remedy = (
            "a picture has one caption here: write the one that counts into a column of its own, such as "
            f'table.append_column("first", pyarrow.compute.list_element(table["{name}"], 0)), and name that'
        )
    raise PoolError(f"{url}: pool.{option} must name a text column, but {name} is {kind}; {remedy}")


def is_list(kind: pa.DataType) -> bool:
    """True for the list types of Arrow."""
    return any(is_one(kind) for is_one in _LISTS)


def null_mask(column: pa.ChunkedArray) -> Bool[np.ndarray, "n"]:
    """True where the column is null."""
    mask: np.ndarray = column.is_null().combine_chunks().to_numpy(zero_copy_only=False)
    return mask


def need_names(schema: pa.Schema, name: str, url: str) -> None:
    """Raises PoolError unless column `name`, given as pool.uid, holds texts, bytes or integers."""
    kind = schema.field(name).type
    plain = stored_type(kind)
    text = is_text(plain) or is_bytes(plain) or pa.types.is_fixed_size_binary(plain) or pa.types.is_null(plain)
    if not (text or _is_whole(plain)):
        raise PoolError(
            f"{url}: pool.uid must name a column of texts, bytes or whole numbers, but {name} is {kind}; name another, "
            "or cast it"
        )


def uid_bytes_of(
    column: pa.ChunkedArray, named: bool = False
) -> tuple[UInt8[np.ndarray, "n 16"], Bool[np.ndarray, "n"]]:
    """The uids of a column of any type: 16 bytes for each row, zeros where there is no uid; and which rows have one.

    A uid is 16 bytes, 32 hex digits as text or bytes, or a UUID with dashes. named: any other text or bytes that are
    not empty, and any integer, count too; the uid is their hash, as in pipeline.uid.named_uid.
    """
    column = stored(column)
    kind = column.type
    text = is_text(kind)
    if not (text or is_bytes(kind) or pa.types.is_fixed_size_binary(kind)):
        uids, known = np.zeros((len(column), 16), np.uint8), np.zeros(len(column), bool)
        if named and _is_whole(kind):
            _hash_others(uids, known, column.cast(pa.string()).cast(pa.large_binary()).combine_chunks())
        return uids, known
    raw = (column.cast(pa.large_string()) if text else column).cast(pa.large_binary()).combine_chunks()
    digits, known = _rows_of_width(raw, 32)
    dashed, with_dashes = _rows_of_width(raw, 36)
    if with_dashes.any():
        with_dashes &= (dashed[:, DASHES] == ord("-")).all(axis=1)
        digits[with_dashes] = np.delete(dashed, DASHES, axis=1)[with_dashes]
        known |= with_dashes
    nibbles = _HEX[digits]
    known &= (nibbles < 16).all(axis=1)
    nibbles[~known] = 0
    uids = nibbles[:, 0::2] << 4 | nibbles[:, 1::2]
    if not text:
        as_stored, whole = _rows_of_width(raw, 16)
        uids[whole], known = as_stored[whole], known | whole
    if named:
        _hash_others(uids, known, raw)
    return uids, known


def _is_whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0))


def _hash_others(uids: np.ndarray, known: np.ndarray, raw: pa.Array) -> None:
    """Fill in the hashes of rows that have no uid and are not empty."""
    for row in np.flatnonzero(~known).tolist():
        if value := raw[row].as_py():
            uids[row] = np.frombuffer(content_hash(value), np.uint8)
            known[row] = True


def _rows_of_width(array: pa.Array, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of large_binary as uint8 (n, width), and which rows have exactly that width; zeros for the others."""
    fits = pc.fill_null(pc.equal(pc.binary_length(array), width), False)
    filled = pc.if_else(fits, array, pa.scalar(bytes(width), pa.large_binary()))
    start = filled.offset
    first = np.frombuffer(filled.buffers()[1], np.int64)[start] if len(filled) else 0
    content = filled.buffers()[2] if len(filled) else b""
    raw = np.frombuffer(content, np.uint8, len(filled) * width, first) if len(filled) else np.empty(0, np.uint8)
    return raw.reshape(-1, width), fits.to_numpy(zero_copy_only=False).copy()
