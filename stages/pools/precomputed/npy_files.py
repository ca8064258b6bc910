"""Streams the vectors of a .npy file, or of one array of a .npz file, and checks their type, shape and length."""

import ast
import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
from numpy.lib import format as npy

from winnow.pipeline.errors import ShardError
from winnow.pipeline.storage import open_read
from winnow.stages.pools.columns import whole_shard
from winnow.stages.pools.precomputed.blocks import BLOCK_ROWS, DEQUANTISE, FLOATS, Blocks

_HEADER_BYTES = 10_000  # numpy's own limit
_KINDS = re.compile(r"[<>=|]?(f[248]|[iu][1248]|c(8|16)|b1|O)")
_ENCRYPTED = 1
_INFLATE = 1032  # most bytes that one byte of deflate can expand to


@runtime_checkable
class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@contextmanager
def npy_blocks(url: str) -> Iterator[Blocks]:
    """Blocks of a .npy file of shape (rows, width). Raises ShardError if it is not such a file."""
    with whole_shard(url), open_read(url) as file:
        yield _npy(file, _size_of(file), url)


@contextmanager
def npz_blocks(url: str, name: str) -> Iterator[Blocks]:
    """Blocks of the array `name` of a .npz file; its other arrays are not read. Raises ShardError."""
    with whole_shard(url), open_read(url) as file, zipfile.ZipFile(file) as archive:
        if f"{name}.npy" not in archive.namelist():
            found = ", ".join(member.removesuffix(".npy") for member in archive.namelist())
            raise ShardError(f"{url}: the archive must hold {name}, but holds {found}", lasting=True)
        stated = archive.getinfo(f"{name}.npy")
        if stated.flag_bits & _ENCRYPTED or stated.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ShardError(
                f"{url}: {name} must be stored or deflated, and not encrypted; write it with np.savez", lasting=True
            )
        most = min(stated.compress_size, _size_of(file)) * _INFLATE  # sizes in the archive may be wrong
        with archive.open(stated) as member:
            yield _npy(member, min(stated.file_size, most), f"{url}: {name}")


def _size_of(file: BinaryIO) -> int:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def _npy(stream: _Stream, size: int, what: str) -> Blocks:
    """Blocks of an open .npy. size: the most bytes that it can have; no memory is allocated for rows beyond it."""
    version = npy.read_magic(stream)
    length = stream.read(2 if version == (1, 0) else 4)
    if int.from_bytes(length, "little") > _HEADER_BYTES or version > (3, 0):
        raise ShardError(
            f"{what}: the header must be of version 1 to 3 and at most {_HEADER_BYTES} bytes", lasting=True
        )
    header = stream.read(int.from_bytes(length, "little"))
    kind, fortran, shape = _header(header, what)
    if shape in ((0,), (0, 0)):  # from an empty list or frame: there are no rows
        return Blocks(0, 1, iter(()), empty=True)
    if len(shape) == 3 and 1 in shape[1:]:  # each row is a batch of one
        shape = (shape[0], shape[1] * shape[2])
    if len(shape) != 2 or fortran or not FLOATS.fullmatch(kind) or shape[1] < 1:
        layout = "Fortran" if fortran else "C"
        raise ShardError(
            f"{what}: vectors must be float16, float32 or float64 of shape (rows, width) in C order, "
            f"but {_named(kind)} of shape {shape} in {layout} order came; {_npy_remedy(kind, fortran)}",
            lasting=True,
        )
    (rows, width), dtype = shape, np.dtype(kind)
    held = size - npy.MAGIC_LEN - len(length) - len(header)
    if rows * width * dtype.itemsize > held:
        whole = max(held, 0) // (width * dtype.itemsize)
        raise ShardError(f"{what}: {rows} rows must follow the header, but the file ends in row {whole}")
    return Blocks(rows, width, _npy_parts(stream, rows, width, dtype, what), empty=not rows)


def _header(text: bytes, what: str) -> tuple[str, bool, tuple[int, ...]]:
    """Type, order and shape from a .npy header. Raises ShardError for any other header."""
    try:
        stated = ast.literal_eval(text.decode("latin1").strip())
        kind, fortran, shape = stated["descr"], stated["fortran_order"], stated["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ShardError(f"{what}: the file must be whole and readable, but its header is not: {error}") from error
    numbers = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
    if not isinstance(kind, str) or not isinstance(fortran, bool) or not numbers:
        raise ShardError(f"{what}: vectors must be floats, but {kind!s:.80} of shape {shape!s:.80} came", lasting=True)
    return kind, fortran, shape


def _named(kind: str) -> str:
    """The name that numpy gives to a type."""
    return str(np.dtype(kind)) if _KINDS.fullmatch(kind) else f"{kind!r:.80}"


def _npy_remedy(kind: str, fortran: bool) -> str:
    """What the type most likely is, and what to write instead."""
    bare = kind.lstrip("<>=|")
    if bare in ("V2", "bfloat16"):
        return "V2 is most likely bfloat16, which numpy has not; cast to float16 or float32 before saving"
    if bare == "V1" or bare.startswith("float8"):
        return "V1 is most likely float8, which numpy has not; cast to float16 or float32 before saving"
    if bare in ("i1", "u1"):
        return f"these are most likely quantised vectors: {DEQUANTISE}"
    if bare == "O":
        return "objects are most likely arrays in a list, of several lengths: numpy.stack makes one array"
    if fortran:
        return "numpy.ascontiguousarray makes it C order"
    return "save one row a sample, such as numpy.save(path, vectors.astype(numpy.float32))"


def _npy_parts(stream: _Stream, rows: int, width: int, dtype: np.dtype, what: str) -> Iterator[np.ndarray]:
    for start in range(0, rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, rows - start)
        size = count * width * dtype.itemsize
        raw = stream.read(size)
        if len(raw) != size:
            raise ShardError(f"{what}: {rows} rows must follow the header, but the file ends in row {start} or later")
        yield np.frombuffer(raw, dtype).reshape(count, width)
