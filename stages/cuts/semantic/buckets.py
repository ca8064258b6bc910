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
    """The buckets of all cells, and the part of the exchange that each bucket belongs to.

    blocks: int64 (k,), blocks of each cell, at least 1. first: int64 (k + 1,), number of each cell's first bucket.
    part: int32 (buckets,), ascending. Memory grows with the cells and, for a giant cell, with its blocks squared.
    """

    blocks: Int64[np.ndarray, "k"]
    first: Int64[np.ndarray, "k1"]
    part: Int32[np.ndarray, "buckets"]

    @classmethod
    def of(cls, rows: Int64[np.ndarray, "k"], block_rows: int, part_rows: int) -> "Buckets":
        """Buckets for cells of these sizes.

        rows: int64 (k,), rows of each cell, visitors included. block_rows: the most rows of a block. part_rows: a part
        is closed once it holds this many rows; its last bucket may exceed that by two blocks.
        """
        blocks = np.maximum(1, -(-rows // block_rows))
        count = blocks * (blocks + 1) // 2
        first = np.r_[0, np.cumsum(count)]
        cell = np.repeat(np.arange(len(rows)), count)  # (buckets,): the cell of each bucket
        low, high = _pair(np.arange(first[-1]) - first[cell])
        held = -(-rows // blocks)[cell] * np.where(low == high, 1, 2)  # (buckets,): rows of one block, or of two
        before = np.cumsum(held) - held  # (buckets,): rows of all earlier buckets, `part_rows` to a part
        return cls(blocks, first, (before // part_rows).astype(np.int32))

    @property
    def parts(self) -> int:
        """Number of parts."""
        return int(self.part[-1]) + 1 if len(self.part) else 1

    def spread(
        self, cell: Int64[np.ndarray, "n"], share: np.ndarray
    ) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"], Int8[np.ndarray, "m"]]:
        """The buckets that each row is copied to: (index of the row, bucket, side in the bucket) of every copy.

        cell: int64 (n,), the cell of each row. share: float (n,) in [0, 1), uniform, a hash of the row that selects its
        block. Returns arrays (m,), m = Σ blocks of each row's cell; side: int8, 0 or 1.
        """
        blocks = self.blocks[cell]  # (n,): a row meets every block of its cell, in one bucket for each
        entry = np.repeat(np.arange(len(cell)), blocks)  # (m,)
        other = np.arange(len(entry)) - np.repeat(np.cumsum(blocks) - blocks, blocks)  # (m,): 0 to blocks - 1
        # The block comes from the hash of the uid, not from the row's place: the order of the shards must not matter.
        own = np.minimum((share * blocks).astype(np.int64), blocks - 1)[entry]
        low, high = np.minimum(own, other), np.maximum(own, other)
        bucket = self.first[cell[entry]] + high * (high + 1) // 2 + low
        return entry, bucket, (own != low).astype(np.int8)

    def across(self, bucket: int) -> bool:
        """True if the bucket holds two blocks, False if it holds one."""
        cell = np.searchsorted(self.first, bucket, side="right") - 1
        low, high = _pair(np.array([bucket - self.first[cell]]))
        return bool(low[0] != high[0])


def _pair(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of the pair with this number, in the order (0, 0), (0, 1), (1, 1), (0, 2) …"""
    high = ((np.sqrt(8 * number + 1) - 1) / 2).astype(np.int64)  # inverse of high (high + 1) / 2, in float64
    # float64 may be off by one where the root is close to an integer, so correct it in both directions
    high -= high * (high + 1) // 2 > number
    high += (high + 1) * (high + 2) // 2 <= number
    return number - high * (high + 1) // 2, high
