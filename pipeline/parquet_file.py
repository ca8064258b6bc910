"""Writes parquet files, and reads them without threads, so that no Arrow thread can crash the interpreter as it exits.

Arrow reads a Python file into buffers that belong to Python. Its threads release the last buffers a moment after the
table is returned, and take the GIL for it. If the interpreter exits in that moment, it ends the thread inside a
destructor, and the process aborts: "terminate called without an active exception", SIGABRT instead of the exit code
(apache/arrow#34314). pyarrow has no way to wait for these threads, so this class gives them no work. Reading is still
parallel, because workers read different files.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


class ParquetFile(pq.ParquetFile):  # type: ignore[misc]  # pyarrow is published without types
    """pyarrow's ParquetFile without threads.

    buffer_bytes: column chunks are streamed in pieces of this size; with 0 each chunk is read whole.
    Raises pyarrow's errors for a file that is not parquet or cannot be read.
    """

    def __init__(self, file: BinaryIO, buffer_bytes: int = 0) -> None:
        super().__init__(file, buffer_size=buffer_bytes, pre_buffer=False)  # pre_buffer uses threads

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """The whole table, or only these columns."""
        return super().read(columns, use_threads=False)

    def iter_batches(self, batch_size: int, **options: Any) -> Iterator[pa.RecordBatch]:
        """Batches of at most `batch_size` rows. options: row_groups and columns, as in pyarrow."""
        batches: Iterator[pa.RecordBatch] = super().iter_batches(batch_size, use_threads=False, **options)
        return batches

    def read_row_group(self, i: int, columns: list[str] | None = None) -> pa.Table:
        """One row group."""
        return super().read_row_group(i, columns, use_threads=False)

    def read_row_groups(self, row_groups: list[int], columns: list[str] | None = None) -> pa.Table:
        """Some row groups."""
        return super().read_row_groups(row_groups, columns, use_threads=False)


def column_spans(metadata: pq.FileMetaData, columns: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(first byte, byte after the last) of each column chunk of these columns in a parquet file."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            chunk = row_group.column(number)
            path = chunk.path_in_schema  # `image.list.element` for a nested column; names may contain dots too
            if any(path == name or path.startswith(f"{name}.") for name in columns):
                # a chunk begins with its dictionary, if it has one (0 or None: no dictionary)
                first = chunk.dictionary_page_offset or chunk.data_page_offset
                yield first, first + chunk.total_compressed_size


def write_rows(file: BinaryIO, tables: Iterable[pa.Table]) -> int:
    """Write tables of one schema, at least one, as a parquet file; returns their rows.

    A file without rows has no row group, because load_dataset of `datasets` fails on a row group of none.
    """
    coming, rows = iter(tables), 0
    first = next(coming)
    # for float vectors, dictionaries and statistics cost time and save no space
    flat = [field.name for field in first.schema if not pa.types.is_fixed_size_list(field.type)]
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": flat}
    with pq.ParquetWriter(file, first.schema, **options) as writer:
        for table in chain([first], coming):
            if table.num_rows:
                writer.write_table(table)
                rows += table.num_rows
    return rows
