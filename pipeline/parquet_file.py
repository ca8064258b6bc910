"""Reads a parquet file in the calling thread alone, so that no thread of Arrow touches Python while it ends.

Arrow reads a Python file into buffers that belong to Python. Its own threads drop the last of them a moment after the
table is there, and need Python's lock to do so. Where the interpreter ends in that moment, the thread is ended in a
destructor, and the process with it: "terminate called without an active exception", SIGABRT in place of the exit code
(apache/arrow#34314). Nothing in pyarrow waits for these threads, so they get no work: workers read in parallel.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


class ParquetFile(pq.ParquetFile):  # type: ignore[misc]  # pyarrow is published without types
    """As pyarrow's, without threads.

    buffer_bytes: column chunks are streamed in pieces of that size; with 0 each is read whole.
    Raises pyarrow's errors for a file that is none, and those of reading it.
    """

    def __init__(self, file: BinaryIO, buffer_bytes: int = 0) -> None:
        super().__init__(file, buffer_size=buffer_bytes, pre_buffer=False)  # which would read in threads too

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """The whole table, or these of its columns."""
        return super().read(columns, use_threads=False)

    def iter_batches(self, batch_size: int, **options: Any) -> Iterator[pa.RecordBatch]:
        """Batches of so many rows at most; options: row_groups and columns, as pyarrow's."""
        batches: Iterator[pa.RecordBatch] = super().iter_batches(batch_size, use_threads=False, **options)
        return batches

    def read_row_group(self, i: int, columns: list[str] | None = None) -> pa.Table:
        """One row group."""
        return super().read_row_group(i, columns, use_threads=False)

    def read_row_groups(self, row_groups: list[int], columns: list[str] | None = None) -> pa.Table:
        """Some row groups."""
        return super().read_row_groups(row_groups, columns, use_threads=False)
