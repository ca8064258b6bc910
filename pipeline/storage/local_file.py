"""Writes a local file to disk while it grows, so that the fsync at its end is short.

Each write is small. Linux caches a file in memory in blocks as large as the writes, and a virtual machine returns large
free blocks to its host. Filling such a block again may take five times as long (docs/LOG.md).
"""

import ctypes
import io
from typing import Any

EARLY_BYTES = 8 << 20
WRITE_BYTES = 64 << 10  # like cp
_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)  # only on Linux, and not in Python's os module
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: starts writing and does not wait; an error here comes again in fsync


class EarlyFile(io.FileIO):
    """FileIO for a new file. After every EARLY_BYTES it tells the kernel to start writing the pages to disk.

    One write takes at most PIECE_BYTES and returns how many it took; a BufferedWriter on top writes the rest.
    """

    _begun = 0

    def write(self, data: Any, /) -> int:
        """Write at most PIECE_BYTES; returns the number of bytes written."""
        written = super().write(memoryview(data)[:WRITE_BYTES])
        size = self.tell() - self._begun
        if size >= EARLY_BYTES and _SYNC_FILE_RANGE is not None:
            _SYNC_FILE_RANGE(self.fileno(), ctypes.c_int64(self._begun), ctypes.c_int64(size), _WRITE)
            self._begun += size
        return written
