"""Converts Parquet columns to numpy arrays and back, without a copy where the layouts agree."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from winnow.pipeline.errors import DataError


def column(table: pa.Table, name: str, null: object = None) -> np.ndarray:
    """A scalar column as an array (n,). Nulls become `null`; if `null` is None, they raise DataError."""
    values = table[name]
    if values.null_count:
        if null is None:
            raise DataError(f"column {name} must have no nulls here, got {values.null_count}")
        values = values.fill_null(null)
    return np.asarray(values.to_numpy())


def matrix(vectors: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of fixed-size lists as an array (n, d). Raises DataError for nulls."""
    if vectors.null_count:
        raise DataError(f"every row must have its vector here, got {vectors.null_count} nulls")
    array = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
    width = array.type.list_size
    # the values buffer ignores the array's own slice: (offset * d, then n * d values) -> (n, d)
    flat = array.values.slice(array.offset * width, len(array) * width)
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(array), width)


def vector_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """A column of fixed-size lists from an array (n, d)."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def scattered(values: np.ndarray, rows: np.ndarray, length: int) -> pa.Array:
    """A column of `length` rows with `values` (m,) at row numbers `rows` (m,) and null elsewhere."""
    # index (length,): which value each row takes, -1 for null
    index = np.full(length, -1, np.int64)
    index[rows] = np.arange(len(rows))
    return pa.array(values).take(pa.array(index, mask=index < 0))


def places_in(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64 (n,): the position of each wanted entry in a sorted array, -1 if it is not there."""
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, at, -1)


def split_rows(group: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(group, its entries in ascending order) for each group that occurs, by ascending group. group: integers (n,)."""
    # stable, so that the entries of a group keep their order
    order = np.argsort(group, kind="stable")
    found, starts = np.unique(group[order], return_index=True)
    return list(zip(found.tolist(), np.split(order, starts[1:]), strict=True)) if len(found) else []


def split_table(table: pa.Table, group: np.ndarray) -> dict[int, pa.Table]:
    """The rows of a table by group, in their order. group: integers (n,), one for each row."""
    return {number: table.take(pa.array(rows)) for number, rows in split_rows(group)}


def tables_of(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Those of the tables that have this schema, as one in one piece."""
    found = [table for table in tables if table.schema == schema]
    return pa.concat_tables([schema.empty_table(), *found]).combine_chunks()
