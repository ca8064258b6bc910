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
    """Numbers of samples that both jobs keep, and that only one of them keeps."""

    both: int
    only_first: int
    only_second: int

    @property
    def jaccard(self) -> float:
        """Kept by both / kept by either; 1 if neither keeps any."""
        either = self.both + self.only_first + self.only_second
        return self.both / either if either else 1.0


def overlap(first: str, second: str, block: int = _BLOCK_UIDS) -> Overlap:
    """Compare two sorted uids.npy by URL, in which a uid may occur more than once.

    A uid that occurs m times in one and n times in the other counts min(m, n) times as shared. Cost: one read of each
    file, and two blocks of each in memory. Raises DataError for a file that is not such an array.
    """
    sides = _Side(_blocks(first, block)), _Side(_blocks(second, block))
    both, counts = 0, [0, 0]
    while any(len(side.held) for side in sides):
        # a merge of two sorted files by blocks. A file with more to read holds every uid below its last held one, which
        # may continue in the next block. So all uids below the smallest of these last ones can be counted
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
    """The uids of one file that are read but not counted: at most two blocks, or the longest run of one uid."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks = blocks
        self._next = next(blocks, None)
        self.held = np.empty(0, UID)
        if self.goes_on:
            self.read_on()

    @property
    def goes_on(self) -> bool:
        """Whether the file has more blocks to read."""
        return self._next is not None

    def read_on(self) -> None:
        """Read one more block."""
        self.held = np.concatenate([self.held, self._next])
        self._next = next(self._blocks, None)

    def take_below(self, limit: tuple[int, int] | None) -> np.ndarray:
        """Remove and return the held uids below the limit; all of them if it is None."""
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
                raise DataError(
                    f"{url} must have {shape[0]} uids, but {left} are missing at its end; run the job again"
                )
            yield found
            left -= len(found)
