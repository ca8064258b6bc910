"""Writes a local file to disk while it grows, so that the fsync at its end is short.

It is written in small pieces: Linux keeps a file in memory in blocks as large as what is written at once, and large
blocks are what a virtual machine gives back to its host: to fill one may then take five times as long (docs/LOG.md).
"""

import ctypes
import io
from typing import Any

EARLY_BYTES = 8 << 20
PIECE_BYTES = 64 << 10  # as cp writes
_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux alone has it, and Python does not
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: waits for nothing; what fails here fails in fsync too


class EarlyFile(io.FileIO):
    """As FileIO for a file that is written from its start; its pages begin to be written every EARLY_BYTES.

    A write takes PIECE_BYTES at most, and says so: BufferedWriter, which it lies below, goes on from there.
    """

    _begun = 0

    def write(self, data: Any, /) -> int:
        """As FileIO's."""
        written = super().write(memoryview(data)[:PIECE_BYTES])
        size = self.tell() - self._begun
        if size >= EARLY_BYTES and _SYNC_FILE_RANGE is not None:
            _SYNC_FILE_RANGE(self.fileno(), ctypes.c_int64(self._begun), ctypes.c_int64(size), _WRITE)
            self._begun += size
        return written
