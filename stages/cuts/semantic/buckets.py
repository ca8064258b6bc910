"""Splits giant cells so that every pair of their rows is still compared once, on workers of bounded memory.

A cell of n rows is split into blocks of at most b rows. Each pair of blocks, and each block with itself, is a bucket of
at most 2 b rows: n (n + b) / (2 b²) buckets. Buckets are packed in order into the parts of the exchange.

    cell of 3 blocks       block 0   block 1   block 2
             block 0      bucket 0                          number of the bucket of blocks (low, high):
             block 1      bucket 1  bucket 2                high (high + 1) / 2 + low
             block 2      bucket 3  bucket 4  bucket 5
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8, Int32, Int64


@dataclass(frozen=True)
class Buckets:
    """The buckets of all cells, and which part of an exchange each is in.

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
        cell = np.repeat(np.arange(len(rows)), count)  # (buckets,): whose bucket each is
        low, high = _pair(np.arange(first[-1]) - first[cell])
        held = -(-rows // blocks)[cell] * np.where(low == high, 1, 2)
        before = np.cumsum(held) - held  # rows of all buckets before: a part closes where they fill it
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
        blocks = self.blocks[cell]  # (n,): a row goes to one bucket for each block of its cell, m = sum of these
        entry = np.repeat(np.arange(len(cell)), blocks)
        other = np.arange(len(entry)) - np.repeat(np.cumsum(blocks) - blocks, blocks)  # (m,): 0 to blocks - 1
        # by the hash of its uid, not by its place, so that shards in another order make the same blocks
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
    high = ((np.sqrt(8 * number + 1) - 1) / 2).astype(np.int64)  # inverse of high (high + 1) / 2, in float64
    # which may be one off where the root is next to a whole number
    high -= high * (high + 1) // 2 > number
    high += (high + 1) * (high + 2) // 2 <= number
    return number - high * (high + 1) // 2, high
