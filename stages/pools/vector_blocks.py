"""Streams the vectors of one file in blocks, and checks their shape, type and values."""

import ast
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Float16, Float32, Int64
from numpy.lib import format as npy

from winnow.pipeline.errors import DataError, PoolError, ShardError
from winnow.pipeline.parquet_file import ParquetFile
from winnow.pipeline.storage import open_read
from winnow.stages.kernels.float16 import widened
from winnow.stages.pools.columns import first_column, is_list, need_column, open_parquet, whole_shard
from winnow.stages.pools.plain import is_bytes, is_text, stored, stored_type

_BLOCK_ROWS = 1024  # about 1.5 MB at 768 float16, in float32 twice that: stays in the processor's cache
_UNIT_TOLERANCE = 1e-3  # float16 rounds each number by up to 4.9e-4 of itself: such rows are taken bit by bit
_VANISHED = 1e-30  # squares below about 1e-38 lose digits in float32, so such a norm is no longer a norm
_HEADER_BYTES = 10_000  # numpy's own limit
_FLOATS = re.compile(r"[<>=|]?f[248]")
_KINDS = re.compile(r"[<>=|]?(f[248]|[iu][1248]|c(8|16)|b1|O)")
_QUANTISED = (pa.int8(), pa.uint8())
_DEQUANTISE = "multiply by their scale, less their zero point, and write float16 or float32"
_ENCRYPTED = 1
_INFLATE = 1032  # the most that a byte of deflate can say


@dataclass(frozen=True)
class Blocks:
    """All vectors of one file, to be read once while it is open: parts are (m, width), in row order.

    parts: float16, float32 or float64 arrays; together `rows` rows. A missing vector is a row of NaN.
    empty: whether there is no vector at all, so that the width says nothing.
    """

    rows: int
    width: int
    parts: Iterator[Float[np.ndarray, "m d"]]
    empty: bool = False


def one_width(named: Mapping[str, Blocks], url: str) -> None:
    """Raises ShardError where vectors of one shard, by name, differ in width; where there are none they have none."""
    widths = {name: blocks.width for name, blocks in named.items() if not blocks.empty}
    if len(set(widths.values())) > 1:
        raise ShardError(f"{url}: {' and '.join(widths)} must be as wide, but are {[*widths.values()]}", lasting=True)


@runtime_checkable
class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def array_blocks(array: np.ndarray, what: str) -> Blocks:
    """Blocks of an array (rows, width) in memory. Raises ShardError for another shape, or no floats."""
    if array.ndim != 2 or not _FLOATS.fullmatch(array.dtype.str):
        raise ShardError(
            f"{what}: vectors must be float16, float32 or float64 of shape (rows, width), but {array.dtype} of shape "
            f"{array.shape} came",
            lasting=True,
        )
    parts = (array[start : start + _BLOCK_ROWS] for start in range(0, len(array), _BLOCK_ROWS))
    return Blocks(len(array), array.shape[1], parts, empty=not array.size)


@contextmanager
def npy_blocks(url: str) -> Iterator[Blocks]:
    """Blocks of a .npy file of shape (rows, width). Raises ShardError when it is no such file."""
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
        most = min(stated.compress_size, _size_of(file)) * _INFLATE  # the archive may say anything
        with archive.open(stated) as member:
            yield _npy(member, min(stated.file_size, most), f"{url}: {name}")


@contextmanager
def list_blocks(url: str, column: str) -> Iterator[Blocks]:
    """Blocks of a parquet column of lists of floats, null and empty lists as NaN rows.

    A tensor is the list that it is stored as, and a list of one list, as a batch of one leaves it, is that one.
    Raises PoolError for a missing column or one of another type, ShardError for lists of several lengths.
    """
    with open_parquet(url, [column]) as file:
        need_column(file.schema_arrow, (column,), "image or pool.text", url)
        kind, rows, what = file.schema_arrow.field(column).type, file.metadata.num_rows, f"{url}: {column}"
        untyped = pa.types.is_null(_numbers_of(kind))  # of nothing but nulls no type is known
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
    """What is to be said of a column that `list_blocks` does not read, by its type; "" where it does."""
    plain, numbers = stored_type(kind), _numbers_of(kind)
    sides = [side for side in getattr(kind, "shape", ()) if side != 1]  # of a tensor, which is stored flat
    if is_list(plain) and pa.types.is_floating(numbers):
        return "" if len(sides) < 2 else ": vectors of patches or tokens, most likely; write one vector a row"
    if is_list(plain) and numbers in _QUANTISED:
        return f": these are most likely quantised vectors; {_DEQUANTISE}"
    if is_list(plain) and (pa.types.is_integer(numbers) or pa.types.is_decimal(numbers)):
        return "; cast the numbers to float32"
    if is_bytes(plain) or pa.types.is_fixed_size_binary(plain):
        return ": the bytes of an array, or an image; write lists of float16 or float32"
    if is_text(plain):
        return ": a vector written as text is no vector; write lists of float16 or float32"
    return "; name another, or write lists of float16 or float32"


def squared_norms(blocks: Blocks, see: Callable[[int, np.ndarray], None] | None = None) -> Float32[np.ndarray, "rows"]:
    """‖x‖² of every row, in float32: not finite where x is not, or overflows; 0 where x is zero or vanishes.

    see: called with (first row, part as stored) of every part. Cost: one read of the file, a block in memory.
    """
    norms = np.empty(blocks.rows, np.float32)
    wide = _buffer(blocks)
    start = 0
    for part in blocks.parts:
        if see:
            see(start, part)
        norms[start : start + len(part)] = _squared(widened(part, wide))
        start += len(part)
    return norms


def unit_rows(blocks: Blocks, positions: Int64[np.ndarray, "n"] | None, url: str) -> Float16[np.ndarray, "n d"]:
    """float16 unit vectors of the rows asked for, in the order of `positions`; None for every row.

    Rows whose norm is 1 within 0.001 keep their numbers (rounded to float16 if wider); others are divided by
    their norm in float32. Any order and repeats are allowed. Cost: one read of the file up to the last row
    asked for; the answer and a block in memory.
    Raises DataError for positions out of range, and for rows without a direction (NaN, infinite, zero):
    such are rejects and must not be asked for.
    """
    wanted = np.arange(blocks.rows) if positions is None else positions
    order = np.argsort(wanted, kind="stable")
    in_order = bool((order[1:] > order[:-1]).all())
    unit = np.empty((len(wanted), blocks.width), np.float16)
    done = 0
    for part, _ in unit_parts(blocks, wanted[order], url):
        last = done + len(part)
        unit[slice(done, last) if in_order else order[done:last]] = part
        done = last
    return unit


def unit_parts(
    blocks: Blocks, ascending: Int64[np.ndarray, "n"], url: str
) -> Iterator[tuple[Float16[np.ndarray, "m d"], Float32[np.ndarray, "m d"]]]:
    """`unit_rows` part by part, as float16 and the same numbers as float32, which the next part overwrites.

    ascending: positions in ascending order, repeats allowed. Cost: one read of the file up to the last one; a block
    in memory, so the memory does not follow the shard. Raises what `unit_rows` does.
    """
    if len(ascending) and (ascending[0] < 0 or ascending[-1] >= blocks.rows):
        raise DataError(f"{url}: positions must be in 0..{blocks.rows - 1}, but {ascending[0]}..{ascending[-1]} came")
    wide = _buffer(blocks)
    start = done = 0
    for part in blocks.parts:
        if done == len(ascending):
            break
        last = int(np.searchsorted(ascending, start + len(part)))
        found = ascending[done:last]
        if len(found) > len(wide):  # repeats
            wide = np.empty((len(found), blocks.width), np.float32)
        whole = np.array_equal(found, np.arange(start, start + len(part)))
        yield _unit(part if whole else part[found - start], found, wide, url)
        start, done = start + len(part), last


def _unit(part: np.ndarray, rows: np.ndarray, wide: np.ndarray, url: str) -> tuple[np.ndarray, np.ndarray]:
    x = widened(part, wide)
    squared = _squared(x)
    bad = ~np.isfinite(squared) | (squared == 0)
    if bad.any():
        raise DataError(
            f"{url}: the vector of row {rows[bad][0]} is zero or not finite, so it has no direction; "
            "ask only for the positions that rows() returns"
        )
    norms = np.sqrt(squared)
    norms[np.abs(norms - 1) <= _UNIT_TOLERANCE] = 1
    if (norms == 1).all():
        if part.dtype == np.float16:
            return part, x
        unit = part.astype(np.float16)
    else:
        unit = (x / norms[:, None]).astype(np.float16)
    return unit, widened(unit, wide)


def _buffer(blocks: Blocks) -> np.ndarray:
    """Room for the float32 of one part, used for all: memory that is asked for anew costs as much as the numbers."""
    return np.empty((min(blocks.rows, _BLOCK_ROWS), blocks.width), np.float32)


def _squared(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squared: np.ndarray = np.einsum("nd,nd->n", x, x)  # (n, d) -> (n,)
    squared[squared < _VANISHED] = 0
    return squared


def _size_of(file: BinaryIO) -> int:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def _npy(stream: _Stream, size: int, what: str) -> Blocks:
    """size: bytes that the file can have at most: nothing is allocated for rows that do not fit into them."""
    version = npy.read_magic(stream)
    length = stream.read(2 if version == (1, 0) else 4)
    if int.from_bytes(length, "little") > _HEADER_BYTES or version > (3, 0):
        raise ShardError(
            f"{what}: the header must be of version 1 to 3 and at most {_HEADER_BYTES} bytes", lasting=True
        )
    header = stream.read(int.from_bytes(length, "little"))
    kind, fortran, shape = _header(header, what)
    if shape in ((0,), (0, 0)):  # of an empty list or frame: of no row at all
        return Blocks(0, 1, iter(()), empty=True)
    if len(shape) == 3 and 1 in shape[1:]:  # a batch of one a row
        shape = (shape[0], shape[1] * shape[2])
    if len(shape) != 2 or fortran or not _FLOATS.fullmatch(kind) or shape[1] < 1:
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
    """Type, order and shape as a .npy header states them. Raises ShardError for anything else."""
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
    """A type as numpy calls it."""
    return str(np.dtype(kind)) if _KINDS.fullmatch(kind) else f"{kind!r:.80}"


def _npy_remedy(kind: str, fortran: bool) -> str:
    """What to write instead, and what the type most likely is."""
    bare = kind.lstrip("<>=|")
    if bare in ("V2", "bfloat16"):
        return "V2 is most likely bfloat16, which numpy has not; cast to float16 or float32 before saving"
    if bare == "V1" or bare.startswith("float8"):
        return "V1 is most likely float8, which numpy has not; cast to float16 or float32 before saving"
    if bare in ("i1", "u1"):
        return f"these are most likely quantised vectors: {_DEQUANTISE}"
    if bare == "O":
        return "objects are most likely arrays in a list, of several lengths: numpy.stack makes one array"
    if fortran:
        return "numpy.ascontiguousarray makes it C order"
    return "save one row a sample, such as numpy.save(path, vectors.astype(numpy.float32))"


def _npy_parts(stream: _Stream, rows: int, width: int, dtype: np.dtype, what: str) -> Iterator[np.ndarray]:
    for start in range(0, rows, _BLOCK_ROWS):
        count = min(_BLOCK_ROWS, rows - start)
        size = count * width * dtype.itemsize
        raw = stream.read(size)
        if len(raw) != size:
            raise ShardError(f"{what}: {rows} rows must follow the header, but the file ends in row {start} or later")
        yield np.frombuffer(raw, dtype).reshape(count, width)


def _numbers_of(kind: pa.DataType) -> pa.DataType:
    """The type of the numbers in lists, however deep."""
    plain = stored_type(kind)
    while is_list(plain):
        plain = stored_type(plain.value_type)
    return plain


def _lists(file: ParquetFile, column: str, what: str) -> Iterator[pa.Array]:
    """The column in parts, as lists of numbers; of lists of one list each, that one."""
    for batch in file.iter_batches(_BLOCK_ROWS, columns=[column]):
        part = stored(pa.chunked_array([first_column(batch, column)])).chunk(0)
        while is_list(stored_type(part.type.value_type)):
            part = _only_lists(part, what)
        yield part


def _only_lists(part: pa.Array, what: str) -> pa.Array:
    """(m,) lists of the lists of one list each; null where there is none."""
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
    """Length of the first list that is neither null nor empty; None where there is none."""
    for part in _lists(file, column, what):
        longest: int | None = pc.max(pc.list_value_length(part)).as_py()
        if longest:
            return longest
    return None


def _missing(rows: int) -> Iterator[np.ndarray]:
    """A row of NaN for each vector that is not there."""
    for start in range(0, rows, _BLOCK_ROWS):
        yield np.full((min(_BLOCK_ROWS, rows - start), 1), np.nan, np.float32)


def _dense(part: pa.Array, width: int, dtype: np.dtype, what: str) -> np.ndarray:
    """(m, width) of a column of lists."""
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
