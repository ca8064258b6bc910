"""Counts the samples that two finished jobs both keep, from their sorted uids.npy, block by block."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from winnow.pipeline import storage
from winnow.pipeline.errors import DataError
from winnow.pipeline.uid import UID

_BLOCK_UIDS = 1 << 20  # 16 MB


@dataclass(frozen=True)
class Overlap:
    """Samples that both keep, and that only one of them does."""

    both: int
    only_first: int
    only_second: int

    @property
    def jaccard(self) -> float:
        """both by either; 1 where none keeps any."""
        either = self.both + self.only_first + self.only_second
        return self.both / either if either else 1.0


def overlap(first: str, second: str, block: int = _BLOCK_UIDS) -> Overlap:
    """Compare two uids.npy by URL; both are sorted, and a uid may be there more than once.

    Of a uid that is m times in one and n times in the other, min(m, n) are in both. Cost: one read of each, two
    blocks in memory. Raises DataError for a file that is not such an array.
    """
    sides = _Side(_blocks(first, block)), _Side(_blocks(second, block))
    both, counts = 0, [0, 0]
    while any(len(side.held) for side in sides):
        # below the last that is held of a file which goes on, all is held; a run of one uid may go on in its next block
        ends = [side.held[-1].item() for side in sides if side.goes_on]
        limit = min(ends) if ends else None
        parts = [side.take_below(limit) for side in sides]
        both += _shared(*parts)
        counts = [count + len(part) for count, part in zip(counts, parts, strict=True)]
        for side in sides:
            if side.goes_on and (not len(side.held) or side.held[-1].item() == limit):
                side.read_on()
    return Overlap(both, counts[0] - both, counts[1] - both)


class _Side:
    """One file's uids that are not counted yet: at most two blocks, or the longest run of one uid."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks = blocks
        self._next = next(blocks, None)
        self.held = np.empty(0, UID)
        if self.goes_on:
            self.read_on()

    @property
    def goes_on(self) -> bool:
        """Whether there is more than is held."""
        return self._next is not None

    def read_on(self) -> None:
        """Hold one more block."""
        self.held = np.concatenate([self.held, self._next])
        self._next = next(self._blocks, None)

    def take_below(self, limit: tuple[int, int] | None) -> np.ndarray:
        """Those below the limit, all where it is None; they are held no longer."""
        cut = len(self.held) if limit is None else int(np.searchsorted(self.held, np.array(limit, UID)))
        part, self.held = self.held[:cut], self.held[cut:]
        return part


def _shared(x: np.ndarray, y: np.ndarray) -> int:
    found_x, count_x = np.unique(x, return_counts=True)
    found_y, count_y = np.unique(y, return_counts=True)
    _, at_x, at_y = np.intersect1d(found_x, found_y, assume_unique=True, return_indices=True)
    return int(np.minimum(count_x[at_x], count_y[at_y]).sum())


def _blocks(url: str, block: int) -> Iterator[np.ndarray]:
    with storage.open_read(url) as file:
        try:
            version = np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError as error:
            raise DataError(f"{url} must be a subset of uids, but: {error}; run the job again") from error
        if version != (1, 0) or dtype != UID or len(shape) != 1:
            raise DataError(f"{url} must be a sorted array of {UID}, got {dtype} of shape {shape}")
        left = shape[0]
        while left:
            data = file.read(min(block, left) * UID.itemsize)
            found = np.frombuffer(data[: len(data) // UID.itemsize * UID.itemsize], UID)
            if not len(found):
                raise DataError(f"{url} must have {shape[0]} uids, but ends {left} before; run the job again")
            yield found
            left -= len(found)
