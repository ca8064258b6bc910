"""Streams the vectors of a parquet column of lists of floats; errors explain why another column has no vectors."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.errors import PoolError, ShardError
from winnow.pipeline.parquet_file import ParquetFile
from winnow.stages.pools.columns import first_column, is_list, need_column, open_parquet
from winnow.stages.pools.plain import is_bytes, is_text, stored, stored_type
from winnow.stages.pools.precomputed.blocks import BLOCK_ROWS, DEQUANTISE, Blocks

_QUANTISED = (pa.int8(), pa.uint8())


@contextmanager
def list_blocks(url: str, column: str) -> Iterator[Blocks]:
    """Blocks of a parquet column of lists of floats. Null and empty lists become rows of NaN.

    A tensor counts as the list in which it is stored. A list of one list, the output of a batch of one, counts as the
    inner list. Raises PoolError for a missing column or one of another type, ShardError for lists of several lengths.
    """
    with open_parquet(url, [column]) as file:
        need_column(file.schema_arrow, (column,), "image or pool.text", url)
        kind, rows, what = file.schema_arrow.field(column).type, file.metadata.num_rows, f"{url}: {column}"
        untyped = pa.types.is_null(_numbers_of(kind))  # a column of nulls has no type
        if not untyped and (fault := vector_fault(kind)):
            raise PoolError(f"{url}: column {column} must hold lists of floats, but is {kind}{fault}")
        width = None if untyped else _width(file, column, what)
        if width is None:
            yield Blocks(rows, 1, _missing(rows), empty=True)
            return
        dtype = np.dtype(_numbers_of(kind).to_pandas_dtype())
        parts = (_dense(part, width, dtype, what) for part in _lists(file, column, what))
        yield Blocks(rows, width, parts)


def vector_fault(kind: pa.DataType) -> str:
    """Why `list_blocks` cannot read a column of this type, and what to do; "" if it can."""
    plain, numbers = stored_type(kind), _numbers_of(kind)
    sides = [side for side in getattr(kind, "shape", ()) if side != 1]  # of a tensor, which is stored flat
    if is_list(plain) and pa.types.is_floating(numbers):
        return "" if len(sides) < 2 else ": vectors of patches or tokens, most likely; write one vector a row"
    if is_list(plain) and numbers in _QUANTISED:
        return f": these are most likely quantised vectors; {DEQUANTISE}"
    if is_list(plain) and (pa.types.is_integer(numbers) or pa.types.is_decimal(numbers)):
        return "; cast the numbers to float32"
    if is_bytes(plain) or pa.types.is_fixed_size_binary(plain):
        return ": the bytes of an array, or an image; write lists of float16 or float32"
    if is_text(plain):
        return ": a vector written as text is no vector; write lists of float16 or float32"
    return "; name another, or write lists of float16 or float32"


def _numbers_of(kind: pa.DataType) -> pa.DataType:
    """The type of the numbers in lists, at any depth."""
    plain = stored_type(kind)
    while is_list(plain):
        plain = stored_type(plain.value_type)
    return plain


def _lists(file: ParquetFile, column: str, what: str) -> Iterator[pa.Array]:
    """The column in parts, as lists of numbers. Lists of one list each become the inner lists."""
    for batch in file.iter_batches(BLOCK_ROWS, columns=[column]):
        part = stored(pa.chunked_array([first_column(batch, column)])).chunk(0)
        while is_list(stored_type(part.type.value_type)):
            part = _only_lists(part, what)
        yield part


def _only_lists(part: pa.Array, what: str) -> pa.Array:
    """The inner lists (m,) of lists of one list each; null for empty ones."""
    lengths = pc.fill_null(pc.list_value_length(part), 0).to_numpy(zero_copy_only=False)
    if (lengths > 1).any():
        raise PoolError(
            f"{what} must hold one vector a row, but row {int(np.argmax(lengths > 1))} of a block has {lengths.max()}: "
            f"vectors of patches or tokens, most likely; write the one of the whole image or text"
        )
    inner = stored(pa.chunked_array([part.flatten()])).chunk(0)
    places = np.cumsum(lengths) - lengths
    return inner.take(pa.array(places, mask=lengths == 0))


def _width(file: ParquetFile, column: str, what: str) -> int | None:
    """The length of lists, from the first part with a list that is neither null nor empty; None if there is none."""
    for part in _lists(file, column, what):
        longest: int | None = pc.max(pc.list_value_length(part)).as_py()
        if longest:
            return longest
    return None


def _missing(rows: int) -> Iterator[np.ndarray]:
    """A row of NaN for each missing vector."""
    for start in range(0, rows, BLOCK_ROWS):
        yield np.full((min(BLOCK_ROWS, rows - start), 1), np.nan, np.float32)


def _dense(part: pa.Array, width: int, dtype: np.dtype, what: str) -> np.ndarray:
    """A part of a column of lists as an array (m, width); rows of NaN for null and empty lists."""
    lengths = pc.fill_null(pc.list_value_length(part), 0).to_numpy()
    present = lengths > 0
    if (lengths[present] != width).any():
        other = lengths[present & (lengths != width)][0]
        raise ShardError(f"{what}: vectors must have one length, but {width} and {other} came", lasting=True)
    flat = part.flatten()  # without the values below nulls
    numbers: np.ndarray = flat.to_numpy(zero_copy_only=flat.null_count == 0).reshape(
        -1, width
    )  # null numbers become NaN
    if present.all():
        return numbers
    dense = np.full((len(part), width), np.nan, dtype)
    dense[present] = numbers
    return dense
