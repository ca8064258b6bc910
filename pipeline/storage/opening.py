"""Opens and reads files by URL; a remote read returns every byte, or raises an error."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from fsspec.implementations.memory import MemoryFile

from winnow.pipeline.errors import StorageError, WinnowError
from winnow.pipeline.storage.backends import S3, answering, in_memory, is_absence, lies_here, reading_options, resolve
from winnow.pipeline.storage.remote_file import Fetching, RemoteFile, Seeking, SizedRanges
from winnow.pipeline.storage.s3_object import open_object
from winnow.pipeline.storage.text import utf8
from winnow.pipeline.storage.urls import HTTP, redacted


def open_read(url: str) -> BinaryIO:
    """Open a file for reading: seekable, binary. Raises StorageError if it does not exist.

    A remote file reads 4 MiB ahead. Each read returns every byte that was asked for, or raises StorageError.
    """
    return _open(url, 4 << 20)


def open_exact(url: str) -> BinaryIO:
    """Like open_read, but without read-ahead: a read of a remote file requests exactly its bytes."""
    return _open(url, 0)


def _open(url: str, ahead: int, whole: bool = False) -> BinaryIO:
    filesystem, path = resolve(url)
    with answering("read", url):
        if lies_here(filesystem):
            return open(path, "rb")
        if url.startswith(S3):
            return cast(BinaryIO, RemoteFile(open_object(filesystem, path, whole), url, ahead))
        if url.startswith(HTTP):
            return cast(BinaryIO, RemoteFile(Fetching(filesystem, path), redacted(url), ahead))
        file = filesystem.open(path, "rb", **reading_options(url))
    if in_memory(filesystem):
        # fsspec gives all readers of an in-memory file the same object, so they would share its position
        file = MemoryFile(filesystem, path, file.getvalue())
        file.name, file.mode = url, "rb"  # a BinaryIO has both; this fsspec file does not
        return cast(BinaryIO, file)
    return cast(BinaryIO, RemoteFile(Seeking(file), url, ahead))


def read_range(url: str, start: int, stop: int) -> bytes:
    """The bytes start … stop - 1, by one request for these alone. Raises StorageError if they do not exist.

    The file must not change: nothing checks that two ranges are of one version of it.
    """
    filesystem, path = resolve(url)
    with answering("read", url):
        if lies_here(filesystem):
            with open(path, "rb") as file:
                file.seek(start)
                found = file.read(stop - start)
        else:
            with RemoteFile(SizedRanges(filesystem, path, stop), url) as remote:
                remote.seek(start)
                found = remote.read(stop - start)
    if len(found) != stop - start:
        raise StorageError(f"{url} must have {stop} bytes, but ends after {start + len(found)}")
    return found


def read_bytes(url: str) -> bytes:
    """The whole content of a file. Raises StorageError if it does not exist."""
    with answering("read", url), _open(url, 0, whole=True) as file:
        return file.read()


def read_if_there(url: str) -> bytes | None:
    """The whole content of a file; None if it does not exist."""
    try:
        return read_bytes(url)
    except StorageError as error:
        if is_absence(error.__cause__):
            return None
        raise


def read_text(url: str, refused: type[WinnowError] = StorageError) -> str:
    """The whole text of a file, without a byte order mark. Raises `refused` if it is not UTF-8; see also read_bytes."""
    data = read_bytes(url)
    try:
        return utf8(data, redacted(url))
    except ValueError as error:
        raise refused(str(error)) from error


@contextmanager
def local_view(url: str) -> Iterator[memoryview]:
    """The whole file as one read-only memoryview. A local file is memory-mapped; a remote one is fetched once."""
    filesystem, path = resolve(url)
    if lies_here(filesystem) and os.path.isfile(path) and os.path.getsize(path):
        with open(path, "rb") as file:
            # never closed here: a reader may still hold slices. The mapping ends with the last of them
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    else:
        yield memoryview(read_bytes(url))
