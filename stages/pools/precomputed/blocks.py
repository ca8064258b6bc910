"""The vectors of one file in blocks of rows, so that memory does not grow with the file; norms and unit vectors."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float16, Float32, Int64

from winnow.pipeline.errors import DataError, ShardError
from winnow.stages.kernels.float16 import widened

BLOCK_ROWS = 1024
"""About 1.5 MB at 768 float16, in float32 twice that: stays in the processor's cache."""

FLOATS = re.compile(r"[<>=|]?f[248]")
"""The types of numbers that vectors may have, as numpy writes them."""

DEQUANTISE = "multiply by their scale, less their zero point, and write float16 or float32"
"""What to do with vectors of 8-bit integers."""

_UNIT_TOLERANCE = 1e-3  # float16 rounds each number by up to 4.9e-4 of itself; rows this close keep their bits
_VANISHED = 1e-30  # float32 squares below about 1e-38 lose digits, so a smaller squared norm is not reliable


@dataclass(frozen=True)
class Blocks:
    """All vectors of one file, to be read once while the file is open.

    parts: float16, float32 or float64 arrays (m, width) in row order, together `rows` rows. A missing vector is a row
    of NaN. empty: whether there is no vector at all; the width has no meaning then.
    """

    rows: int
    width: int
    parts: Iterator[Float[np.ndarray, "m d"]]
    empty: bool = False


def array_blocks(array: np.ndarray, what: str) -> Blocks:
    """Blocks of an array (rows, width) in memory. Raises ShardError for another shape or other types than floats."""
    if array.ndim != 2 or not FLOATS.fullmatch(array.dtype.str):
        raise ShardError(
            f"{what}: vectors must be float16, float32 or float64 of shape (rows, width), but {array.dtype} of shape "
            f"{array.shape} came",
            lasting=True,
        )
    parts = (array[start : start + BLOCK_ROWS] for start in range(0, len(array), BLOCK_ROWS))
    return Blocks(len(array), array.shape[1], parts, empty=not array.size)


def squared_norms(blocks: Blocks, see: Callable[[int, np.ndarray], None] | None = None) -> Float32[np.ndarray, "rows"]:
    """‖x‖² of every row: float32, not finite if x is not finite or overflows, 0 if x is zero or vanishes.

    see: called with (first row, part as stored) for every part. Cost: one read of the file, a block in memory.
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
    """float16 unit vectors of the rows at `positions`, in that order; of every row if None.

    Rows whose norm is 1 within 0.001 keep their numbers (rounded to float16 if wider). Other rows are divided by their
    norm in float32. Positions may be in any order and repeat. Cost: one read of the file up to the last position; the
    result and a block in memory.
    Raises DataError for positions out of range, and for rows without a direction (NaN, infinite, zero): these are
    rejects, so no caller may ask for them.
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
    """`unit_rows` in parts: each as float16, and the same numbers as float32 in a buffer that the next part overwrites.

    ascending: positions in ascending order, repeats allowed. Cost: one read of the file up to the last position; a
    block in memory, so memory does not grow with the shard. Raises what `unit_rows` does.
    """
    if len(ascending) and (ascending[0] < 0 or ascending[-1] >= blocks.rows):
        raise DataError(f"{url}: positions must be in 0..{blocks.rows - 1}, got {ascending[0]}..{ascending[-1]}")
    wide = _buffer(blocks)
    start = done = 0
    for part in blocks.parts:
        if done == len(ascending):
            break
        last = int(np.searchsorted(ascending, start + len(part)))
        found = ascending[done:last]
        if len(found) > len(wide):  # positions repeat
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
    """A float32 buffer for one part, used for all parts: allocating it anew costs as much as computing the numbers."""
    return np.empty((min(blocks.rows, BLOCK_ROWS), blocks.width), np.float32)


def _squared(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squared: np.ndarray = np.einsum("nd,nd->n", x, x)  # (n, d) -> (n,)
    squared[squared < _VANISHED] = 0
    return squared
