"""Which rows of which cells meet on which worker, in parts of bounded size; writes nothing.

Every row of a cell must meet every other. A cell of more rows than a worker should hold is split into blocks, and each
pair of its blocks meets in a bucket of its own: n / b blocks make n (n + b) / (2 b²) buckets of two blocks at most.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8, Int32, Int64


@dataclass(frozen=True)
class Buckets:
    """The buckets of all cells, and which part of a regroup each is in.

    blocks: int64 (k,), blocks of each cell, at least 1. first: int64 (k + 1,), number of each cell's first bucket.
    part: int32 (buckets,), ascending. Memory follows cells and, for giant ones, the squares of their blocks.
    """

    blocks: Int64[np.ndarray, "k"]
    first: Int64[np.ndarray, "k1"]
    part: Int32[np.ndarray, "buckets"]

    @classmethod
    def of(cls, rows: Int64[np.ndarray, "k"], block_rows: int, part_rows: int) -> "Buckets":
        """Buckets for cells of so many rows, visitors included.

        rows: int64 (k,). block_rows: what a block may hold. part_rows: what a part holds when it is closed; the next
        bucket may take it above that by two blocks.
        """
        blocks = np.maximum(1, -(-rows // block_rows))
        count = blocks * (blocks + 1) // 2
        first = np.r_[0, np.cumsum(count)]
        cell = np.repeat(np.arange(len(rows)), count)
        low, high = _pair(np.arange(first[-1]) - first[cell])
        held = -(-rows // blocks)[cell] * np.where(low == high, 1, 2)
        before = np.cumsum(held) - held
        return cls(blocks, first, (before // part_rows).astype(np.int32))

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return int(self.part[-1]) + 1 if len(self.part) else 1

    def spread(
        self, cell: Int64[np.ndarray, "n"], share: np.ndarray
    ) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"], Int8[np.ndarray, "m"]]:
        """Where each row must be: (entry of the row, bucket, side of the bucket) of every copy.

        cell: int64 (n,). share: float (n,) in [0, 1), uniform and a property of the row: which block it is in.
        """
        blocks = self.blocks[cell]
        entry = np.repeat(np.arange(len(cell)), blocks)
        other = np.arange(len(entry)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
        own = np.minimum((share * blocks).astype(np.int64), blocks - 1)[entry]
        low, high = np.minimum(own, other), np.maximum(own, other)
        bucket = self.first[cell[entry]] + high * (high + 1) // 2 + low
        return entry, bucket, (own != low).astype(np.int8)

    def across(self, bucket: int) -> bool:
        """True where the bucket is of two blocks, False where it is of one."""
        cell = np.searchsorted(self.first, bucket, side="right") - 1
        low, high = _pair(np.array([bucket - self.first[cell]]))
        return bool(low[0] != high[0])


def _pair(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of the pair of that number, in the order (0, 0), (0, 1), (1, 1), (0, 2) …"""
    high = ((np.sqrt(8 * number + 1) - 1) / 2).astype(np.int64)
    high -= high * (high + 1) // 2 > number
    high += (high + 1) * (high + 2) // 2 <= number
    return number - high * (high + 1) // 2, high
