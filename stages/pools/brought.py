"""Reads parquet files that a user brings beside the pool, such as scores, and explains what is wrong with a bad one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa

from winnow.pipeline.errors import DataError
from winnow.pipeline.parquet_file import ParquetFile, column_spans
from winnow.pipeline.storage import open_read
from winnow.pipeline.storage.remote_file import expect

_MAGIC = b"PAR1"


def brought_schema(url: str) -> pa.Schema:
    """Names and types of the columns, from the footer. Raises DataError if the file is not a whole parquet file."""
    with _opened(url) as (_, parquet):
        return parquet.schema_arrow


def check_names(schema: pa.Schema, columns: Sequence[str], url: str) -> None:
    """Raises DataError for a name that no column has, or that several columns have."""
    for name in columns:
        if name not in schema.names:
            raise DataError(f"{url} must have a column {name}, but it has {', '.join(schema.names) or 'none'}")
        if (times := schema.names.count(name)) > 1:
            raise DataError(f"{url} must have one column {name}, but {times} have that name; rename the others")


def brought_groups(url: str) -> list[int]:
    """The number of rows of each row group, from the footer. Raises DataError if it is not a whole parquet file."""
    with _opened(url) as (_, parquet):
        metadata = parquet.metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def read_brought(url: str, columns: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
    """These columns, in this order. The bytes of other columns are not read.

    groups: row groups to read; None: all of them. Raises DataError if the file is not a whole parquet file, and for
    names as check_names.
    """
    with _opened(url) as (file, parquet):
        check_names(parquet.schema_arrow, columns, url)
        if groups is None:  # for some groups, the spans of the others would be fetched too
            expect(file, lambda: column_spans(parquet.metadata, columns))
        wanted = list(dict.fromkeys(columns))
        read = parquet.read(wanted) if groups is None else parquet.read_row_groups(list(groups), columns=wanted)
        return read.select(wanted)


@contextmanager
def _opened(url: str) -> Iterator[tuple[BinaryIO, ParquetFile]]:
    with open_read(url) as file:
        begins = file.read(64)
        file.seek(0)
        if not begins.startswith(_MAGIC):
            came = f"it begins with {begins[:24]!r}" if begins else "it is empty"
            raise DataError(f"{url} must be parquet, but {came}; write it as parquet")
        try:
            yield file, ParquetFile(file)
        except (pa.ArrowException, OSError) as error:  # a page that does not decompress is an OSError
            if isinstance(error, MemoryError):
                raise
            raise DataError(f"{url} must be a complete parquet file, but: {error}; write or fetch it again") from error
