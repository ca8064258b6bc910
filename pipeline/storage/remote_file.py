"""Reads a remote file over connections that break: asks again for the rest of it, up to its known size."""

import io
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, Protocol

from winnow.pipeline.errors import StorageError

PIECE_BYTES = 64 << 20
"""Most bytes that one request asks for: what a cut connection costs at most."""

SPAN_BYTES = 16 << 20
"""Most bytes of a span that `expect` names which are held at once."""

GAP_BYTES = 1 << 20
"""Read over rather than asked for apart: another request takes some 20 ms, in which a connection brings about a MiB."""

_WINDOWS = 4  # columns of a table may be read by several threads, each from a span of its own
_PATIENCE_S = 60.0  # without one more byte; the back end has tried for itself before an error comes here
_FINAL = (FileNotFoundError, PermissionError, StorageError)

Span = tuple[int, int]
"""First byte, byte after the last."""


class Ranges(Protocol):
    """What a back end knows of one file."""

    size: int

    def read_at(self, start: int, size: int) -> bytes:
        """Some of these bytes from the first on: a server may close a connection early, in good order."""
        ...

    def close(self) -> None:
        """Nothing is read after this."""
        ...


class RemoteFile(io.RawIOBase):
    """A seekable file over a back end's, whose reads give exactly the bytes that are there.

    url: for people. ahead: bytes that a read asks for at least; 0 for just what is read. No answer that is shorter than
    was asked for is seen by who reads. Raises StorageError after a minute without one more byte.
    """

    mode = "rb"

    def __init__(self, file: Ranges, url: str, ahead: int = 0) -> None:
        super().__init__()
        self.name = url
        self._file, self._ahead = file, ahead
        self._at = 0
        self._spans: list[Span] = []
        self._windows: deque[tuple[int, bytes]] = deque(maxlen=_WINDOWS)

    def expect(self, spans: Iterable[Span]) -> None:
        """What will be read: reads within it are of it alone, up to 16 MiB at once, neighbours in one request."""
        self._spans = joined_spans(spans)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position; returns it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        if self._at < 0:
            raise ValueError(f"a position is at least 0, got {self._at}")
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, fewer only at the end of the file; all that are left for -1."""
        pieces, left = [], self._within(size)
        while left:
            pieces.append(self._piece(self._at, left))
            self._at += len(pieces[-1])
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
            piece = self._piece(self._at, wanted - found)
            view[found : found + len(piece)] = piece
            self._at += len(piece)
            found += len(piece)
        return found

    def close(self) -> None:
        """Close the back end's file too."""
        if not self.closed:
            self._file.close()
        self._windows.clear()
        super().close()

    def _within(self, size: int | None) -> int:
        left = max(0, self._file.size - self._at)
        return left if size is None or size < 0 else min(size, left)

    def _piece(self, start: int, size: int) -> bytes:
        """At least one of `size` bytes from `start` on, which are there: from a window, or asked for."""
        for first, window in self._windows:
            if first <= start < first + len(window):
                return window[start - first : start - first + size]
        first, stop = self._window_around(start, size)
        if stop - first <= size:
            return self._whole(start, min(size, PIECE_BYTES))
        window = self._whole(first, stop - first)
        self._windows.append((first, window))
        return window[start - first : start - first + size]

    def _whole(self, start: int, size: int) -> bytes:
        """Exactly these bytes."""
        pieces, at = [], start
        while at < start + size:
            pieces.append(self._asked(at, min(start + size - at, PIECE_BYTES)))
            at += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _window_around(self, start: int, size: int) -> Span:
        for first, stop in self._spans:
            if first <= start < stop:
                if stop - first > SPAN_BYTES:
                    first += (start - first) // SPAN_BYTES * SPAN_BYTES
                    stop = min(stop, first + SPAN_BYTES)
                return first, stop
        return start, min(self._file.size, start + max(size, self._ahead))

    def _asked(self, start: int, size: int) -> bytes:
        """At least one of these bytes, asked for again while errors come that may pass."""
        pause, end = 0.1, time.monotonic() + _PATIENCE_S
        while True:
            try:
                if piece := self._file.read_at(start, size):
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


class Seeking:
    """Ranges of a back end's file that has `size` in bytes, `seek` and `read`."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.size: int = file.size

    def read_at(self, start: int, size: int) -> bytes:
        """See Ranges.read_at."""
        self._file.seek(start)
        found: bytes = self._file.read(size)
        return found

    def close(self) -> None:
        """See Ranges.close."""
        self._file.close()


class Fetching:
    """Ranges of a web server's file; one whose server knows no ranges is fetched once and held, all of it.

    Raises ValueError where the server does not say how many bytes there are.
    """

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._whole = b""
        size = filesystem.info(path)["size"]
        if size is None:
            raise ValueError("a web server must say how many bytes a file has; read a copy of it")
        self.size = int(size)

    def read_at(self, start: int, size: int) -> bytes:
        """See Ranges.read_at. Raises StorageError where the file is another one now."""
        if not self._whole:
            found: bytes = self._filesystem.cat_file(self._path, start=start, end=start + size)
            if len(found) <= size:
                return found
            if len(found) != self.size:
                raise StorageError(f"it had {self.size} bytes when it was opened, but has {len(found)} now; run again")
            self._whole = found
        return self._whole[start : start + size]

    def close(self) -> None:
        """Nothing is open; what was held is let go."""
        self._whole = b""


def expect(file: BinaryIO, spans: Callable[[], Iterable[Span]]) -> None:
    """Tell a file what will be read of it, so that a remote one asks for it in few requests."""
    if isinstance(file, RemoteFile):
        file.expect(spans())


def joined_spans(spans: Iterable[Span]) -> list[Span]:
    """The same bytes in ascending spans; those with up to a MiB between them are one."""
    found: list[Span] = []
    for start, stop in sorted(spans):
        if found and start - found[-1][1] <= GAP_BYTES:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found
