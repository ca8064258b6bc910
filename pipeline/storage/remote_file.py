"""Reads remote files by range requests, with read-ahead and retries; a short answer never counts as the end."""

import io
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, Protocol

from winnow.pipeline.errors import StorageError

PIECE_BYTES = 64 << 20
"""Largest request. A connection that breaks loses at most this much."""

SPAN_BYTES = 16 << 20
"""Most bytes of one expected span (see `RemoteFile.expect`) in memory at once."""

GAP_BYTES = 1 << 20
"""Largest gap between two spans that one request reads over. A second request costs about 20 ms, as 1 MiB does."""

_WINDOWS = 4  # several threads may read columns of one table, each from its own span
_PATIENCE_S = 60.0  # of retries without one new byte; the back end has retried by itself before that
_FINAL = (FileNotFoundError, PermissionError, StorageError)  # not retried

Span = tuple[int, int]
"""First byte, and the byte after the last."""


class Ranges(Protocol):
    """One file of a back end, read by byte ranges. size: of the file, bytes."""

    size: int

    def read_at(self, start: int, size: int) -> bytes:
        """The bytes from `start` on, at most `size`; may be fewer, because a server may close a connection early."""
        ...

    def close(self) -> None:
        """End the use of the file; no read follows."""
        ...


class RemoteFile(io.RawIOBase):
    """A seekable file over `Ranges`. A read returns every byte that was asked for, up to the end of the file.

    url: shown in errors. ahead: smallest request in bytes (read-ahead); 0 requests only what is read.
    A short answer is completed by further requests. Raises StorageError after a minute without one new byte.
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
        """Announce the spans that will be read. A read inside a span fetches the span, at most 16 MiB at once.

        Spans with up to 1 MiB between them are fetched in one request.
        """
        self._spans = joined_spans(spans)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        if self._at < 0:
            raise ValueError(f"a position must be at least 0, got {self._at}")
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, fewer only at the end of the file; with -1 all bytes up to the end."""
        pieces, left = [], self._within(size)
        # the loop ends by the known size, never by an empty answer
        while left:
            pieces.append(self._piece(self._at, left))
            self._at += len(pieces[-1])
            left -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readall(self) -> bytes:
        """All bytes up to the end."""
        return self.read(-1)

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, at most to the end of the file; returns the number of bytes."""
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
        """Close this file and the back end's."""
        if not self.closed:
            self._file.close()
        self._windows.clear()
        super().close()

    def _within(self, size: int | None) -> int:
        left = max(0, self._file.size - self._at)
        return left if size is None or size < 0 else min(size, left)

    def _piece(self, start: int, size: int) -> bytes:
        """1 to `size` bytes from `start` on, inside the file: from a window in memory, or by a request."""
        for first, window in self._windows:
            if first <= start < first + len(window):
                return window[start - first : start - first + size]
        first, stop = self._window_around(start, size)
        # a read at least as large as its window needs no copy in memory: nothing is left over for the next read
        if stop - first <= size:
            return self._whole(start, min(size, PIECE_BYTES))
        window = self._whole(first, stop - first)
        self._windows.append((first, window))  # the oldest of _WINDOWS goes
        return window[start - first : start - first + size]

    def _whole(self, start: int, size: int) -> bytes:
        """Exactly `size` bytes, by as many requests as it takes."""
        pieces, at = [], start
        while at < start + size:
            pieces.append(self._asked(at, min(start + size - at, PIECE_BYTES)))
            at += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _window_around(self, start: int, size: int) -> Span:
        """The bytes to fetch for a read at `start`: its expected span, or the read itself with read-ahead."""
        for first, stop in self._spans:
            if first <= start < stop:
                # a long span is cut at fixed places, so that reads one after the other share a window
                if stop - first > SPAN_BYTES:
                    first += (start - first) // SPAN_BYTES * SPAN_BYTES
                    stop = min(stop, first + SPAN_BYTES)
                return first, stop
        return start, min(self._file.size, start + max(size, self._ahead))

    def _asked(self, start: int, size: int) -> bytes:
        """1 to `size` bytes, by one request; retries transient errors with growing pauses."""
        # the clock starts anew with each request, so a slow file is read to its end as long as bytes come
        pause, end = 0.1, time.monotonic() + _PATIENCE_S
        while True:
            try:
                if piece := self._file.read_at(start, size):
                    return piece
                raise EOFError("the answer was empty")
            except Exception as error:
                # each back end raises its own types, and network errors below it are not OSError: retry all but _FINAL
                if isinstance(error, _FINAL) or time.monotonic() > end:
                    raise StorageError(
                        f"cannot read {self.name}: it has {self._file.size} bytes, but after {start} of them: "
                        f"{error or type(error).__name__}"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


class Seeking:
    """Ranges of a back end's file object. If it does not know its size, as with SFTP, the end is sought."""

    def __init__(self, file: Any) -> None:
        self._file = file
        size = getattr(file, "size", None)
        if not isinstance(size, int):
            file.seek(0, io.SEEK_END)
            size = file.tell()
        self.size: int = size

    def read_at(self, start: int, size: int) -> bytes:
        """See Ranges.read_at."""
        self._file.seek(start)
        found: bytes = self._file.read(size)
        return found

    def close(self) -> None:
        """See Ranges.close."""
        self._file.close()


class SizedRanges:
    """Ranges of a file that is known to have `size` bytes or more: nothing is asked but the bytes themselves."""

    def __init__(self, filesystem: Any, path: str, size: int) -> None:
        self._filesystem, self._path, self.size = filesystem, path, size

    def read_at(self, start: int, size: int) -> bytes:
        """See Ranges.read_at."""
        found: bytes = self._filesystem.cat_file(self._path, start=start, end=start + size)
        return found

    def close(self) -> None:
        """Nothing is open."""


class Fetching:
    """Ranges of a file on a web server. If the server ignores range requests, the file is fetched once, into memory.

    Raises ValueError if the server does not say how many bytes the file has.
    """

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._whole = b""
        size = filesystem.info(path)["size"]
        if size is None:
            raise ValueError(
                "a web server must say how many bytes a file has, but it does not; read a copy of the file"
            )
        self.size = int(size)

    def read_at(self, start: int, size: int) -> bytes:
        """See Ranges.read_at. Raises StorageError if the file was replaced."""
        if not self._whole:
            found: bytes = self._filesystem.cat_file(self._path, start=start, end=start + size)
            if len(found) <= size:
                return found
            # more than was asked for: the server ignores ranges and has sent the whole file
            if len(found) != self.size:
                raise StorageError(f"it had {self.size} bytes when it was opened, but has {len(found)} now; run again")
            self._whole = found
        return self._whole[start : start + size]

    def close(self) -> None:
        """Free the memory; no connection is open."""
        self._whole = b""


def expect(file: BinaryIO, spans: Callable[[], Iterable[Span]]) -> None:
    """Announce which spans of a file will be read, so that a remote file needs few requests; local files ignore it."""
    if isinstance(file, RemoteFile):
        file.expect(spans())


def joined_spans(spans: Iterable[Span]) -> list[Span]:
    """The same bytes as ascending spans; spans with a gap of at most 1 MiB between them become one."""
    found: list[Span] = []
    for start, stop in sorted(spans):
        if found and start - found[-1][1] <= GAP_BYTES:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found
