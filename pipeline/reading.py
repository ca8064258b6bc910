"""A remote file that is read whole or not at all: what a cut connection left out is asked for again; writes nothing."""

import io
import time
from typing import Any, cast

from pipeline.errors import StorageError

PIECE_BYTES = 64 << 20
"""Most bytes that one request asks for: what a cut connection costs at most."""

_PATIENCE_S = 60.0  # without one more byte; the back end has tried for itself before an error comes here
_FINAL = (FileNotFoundError, PermissionError, StorageError)


class RemoteFile(io.RawIOBase):
    """A seekable file over one of a back end's, whose reads give exactly the bytes that are there.

    file: has `size` in bytes, `tell`, `seek` and `read`. url: for people. A back end may hand on fewer bytes than were
    asked for, where a server closed the connection in good order; nothing that reads a file may see that.
    Raises StorageError after a minute without one more byte.
    """

    mode = "rb"

    def __init__(self, file: Any, url: str) -> None:
        super().__init__()
        self.name = url
        self._file = file

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return cast(int, self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position; returns it."""
        return cast(int, self._file.seek(offset, whence))

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, fewer only at the end of the file; all that are left for -1."""
        pieces, left = [], self._within(size)
        while left:
            pieces.append(self._piece(min(left, PIECE_BYTES)))
            left -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readall(self) -> bytes:
        """All bytes that are left."""
        return self.read(-1)

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, to the end of the file at most; returns how many bytes came."""
        view = memoryview(buffer).cast("B")
        wanted = self._within(len(view))
        found = 0
        while found < wanted:
            piece = self._piece(min(wanted - found, PIECE_BYTES))
            view[found : found + len(piece)] = piece
            found += len(piece)
        return found

    def close(self) -> None:
        """Close the back end's file too."""
        if not self.closed:
            self._file.close()
        super().close()

    def _within(self, size: int | None) -> int:
        left = max(0, cast(int, self._file.size) - self.tell())
        return left if size is None or size < 0 else min(size, left)

    def _piece(self, size: int) -> bytes:
        """At least one of the next `size` bytes, asked for again while errors come that may pass."""
        start, pause = self.tell(), 0.1
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                if piece := cast(bytes, self._file.read(size)):
                    return piece
                raise EOFError("the answer was empty")
            except Exception as error:
                # each back end has errors of its own, and those of the network below it are no OSError
                if isinstance(error, _FINAL) or time.monotonic() > end:
                    raise StorageError(
                        f"cannot read {self.name}: it has {self._file.size} bytes, but after {start} of them: "
                        f"{error or type(error).__name__}"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
            self.seek(start)
