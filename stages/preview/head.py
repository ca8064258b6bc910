"""Copies the first samples of a shard into a small local shard that the same reader can read.

From a remote file it requests only what it copies: the first bytes of a tar, the first rows of each column.
"""

import ast
import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy

from winnow.pipeline import storage
from winnow.pipeline.errors import JobError, PoolError, ShardError
from winnow.stages.pools.columns import parquet_of, whole_shard

TAR_BYTES = 8 << 20
"""Bytes to read of a tar: a few hundred samples of img2dataset."""

MOST_TAR_BYTES = 64 << 20
"""Most bytes to read of a tar whose first sample is longer than TAR_BYTES."""

_UNKNOWN = 1 << 16  # bytes to copy of an array whose header cannot be read


@runtime_checkable
class _ByteSource(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@runtime_checkable
class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


@dataclass(frozen=True)
class Head:
    """A small shard with the first samples of another. url: that of the copy. source: that of the shard.

    names: (copy, original) of each file. rows: number of copied rows, 0 if not counted. bytes: size of the copies.
    whole_rows, whole_bytes: of the shard with its companions. whole_rows is 0 if not counted, and may be a fraction if
    it is estimated from bytes.
    """

    url: str
    source: str
    names: tuple[tuple[str, str], ...]
    rows: int
    bytes: int
    whole_rows: float
    whole_bytes: int

    @property
    def whole(self) -> bool:
        """Whether the copy is the whole shard."""
        return self.rows == self.whole_rows and (self.rows > 0 or self.bytes == self.whole_bytes)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Errors name the shard, not its copy."""
        try:
            yield
        except (PoolError, ShardError, JobError) as error:
            raise type(error)(self.told(str(error))) from error

    def told(self, message: str) -> str:
        """A message about the copy, rewritten to name the shard."""
        for copy, name in sorted(self.names, key=lambda pair: -len(pair[0])):
            message = message.replace(copy, name)
        return message


def tar_head(url: str, most: int, folder: Path) -> Head:
    """The first `most` bytes of a tar, even if they end inside a member."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / storage.name_of(url)
    with storage.open_exact(url) as file:
        size = _size(file)
        content = file.read(min(most, size))
    target.write_bytes(content)
    return Head(str(target), url, ((str(target), url),), 0, len(content), 0, size)


def table_head(url: str, companions: Sequence[str], rows: int, folder: Path) -> Head:
    """The first `rows` rows of a parquet file and of the arrays beside it, under their own names.

    Raises ShardError for a broken file, JobError for companions that are neither npz nor npy.
    """
    count = whole_rows = stored = whole = 0
    names = []
    for name in (url, *companions):
        target = folder / storage.name_of(storage.parent_of(name)) / storage.name_of(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_shard(name), storage.open_exact(name) as file:
            whole += _size(file)
            if name == url:
                count, whole_rows = _parquet(file, name, rows, target)
            elif name.endswith(".npz"):
                _npz(file, rows, target)
            elif name.endswith(".npy"):
                with target.open("wb") as out:
                    _npy(file, rows, out)
            else:
                raise JobError(f"the files of a shard must be parquet, npz and npy, got {name}")
        stored += target.stat().st_size
        names.append((str(target), name))
    return Head(names[0][0], url, tuple(names), count, stored, whole_rows, whole)


def _size(file: BinaryIO) -> int:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def _parquet(file: BinaryIO, url: str, rows: int, target: Path) -> tuple[int, int]:
    """The number of copied rows, and of all rows."""
    source = parquet_of(file, url)
    batches: list[pa.RecordBatch] = []
    for batch in source.iter_batches(rows):
        batches.append(batch)
        if sum(map(len, batches)) >= rows:
            break
    table = pa.Table.from_batches(batches, source.schema_arrow).slice(0, rows)
    pq.write_table(table, target)
    return table.num_rows, source.metadata.num_rows


def _npz(file: BinaryIO, rows: int, target: Path) -> None:
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(target, "w") as copy:
        for member in archive.infolist():
            with archive.open(member) as array, copy.open(member.filename, "w") as out:
                _npy(array, rows, out)


def _npy(file: _ByteSource, rows: int, out: _Sink) -> None:
    """Copy the first rows of an array. If its header cannot be read, copy some bytes, which the reader refuses."""
    version = npy.read_magic(file)
    length = file.read(2 if version == (1, 0) else 4)
    header = file.read(min(int.from_bytes(length, "little"), _UNKNOWN))
    with suppress(ValueError, SyntaxError, TypeError, KeyError):
        stated = ast.literal_eval(header.decode("latin1").strip())
        dtype, (have, *row) = np.dtype(stated["descr"]), stated["shape"]
        if not (stated["fortran_order"] or dtype.hasobject):
            count = min(rows, have)
            npy.write_array_header_2_0(out, {**stated, "shape": (count, *row)})
            out.write(file.read(count * int(np.prod(row, dtype=np.int64)) * dtype.itemsize))
            return
    out.write(npy.magic(*version) + length + header + file.read(_UNKNOWN))
