"""A new local file that goes to the disk while more of it comes, so that fsync at its end has little to wait for."""

import ctypes
import io
from typing import Any

EARLY_BYTES = 8 << 20
_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux alone has it, and Python does not
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: waits for nothing; what fails here fails in fsync too


class EarlyFile(io.FileIO):
    """As FileIO for a file that is written from its start; its pages begin to be written every EARLY_BYTES."""

    _begun = 0

    def write(self, data: Any, /) -> int:
        """As FileIO's."""
        written = super().write(data)
        size = self.tell() - self._begun
        if size >= EARLY_BYTES and _SYNC_FILE_RANGE is not None:
            _SYNC_FILE_RANGE(self.fileno(), ctypes.c_int64(self._begun), ctypes.c_int64(size), _WRITE)
            self._begun += size
        return written
