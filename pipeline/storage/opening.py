"""Opens and reads files by URL; a remote read returns every byte, or raises an error."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from fsspec.implementations.memory import MemoryFile

from winnow.pipeline.errors import StorageError, WinnowError
from winnow.pipeline.storage.backends import S3, answering, in_memory, is_absence, lies_here, reading_options, resolve
from winnow.pipeline.storage.remote_file import Fetching, RemoteFile, Seeking
from winnow.pipeline.storage.s3_object import open_object
from winnow.pipeline.storage.text import utf8
from winnow.pipeline.storage.urls import HTTP, redacted


def open_read(url: str) -> BinaryIO:
    """A seekable binary file; raises StorageError where there is none.

    A remote one reads 4 MiB ahead; its reads give every byte that was asked for or raise StorageError.
    """
    return _open(url, 4 << 20)


def open_exact(url: str) -> BinaryIO:
    """As open_read, but nothing is read ahead: a read of a remote file is one request of just those bytes."""
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
        # all readers of a file in memory are given the same object, and would share its position
        file = MemoryFile(filesystem, path, file.getvalue())
        file.name, file.mode = url, "rb"  # every BinaryIO has them, but not every fsspec file
        return cast(BinaryIO, file)
    return cast(BinaryIO, RemoteFile(Seeking(file), url, ahead))


def read_bytes(url: str) -> bytes:
    """The whole content; raises StorageError where there is none."""
    with answering("read", url), _open(url, 0, whole=True) as file:
        return file.read()


def read_if_there(url: str) -> bytes | None:
    """The whole content, None where there is no such file."""
    try:
        return read_bytes(url)
    except StorageError as error:
        if is_absence(error.__cause__):
            return None
        raise


def read_text(url: str, refused: type[WinnowError] = StorageError) -> str:
    """The whole text, without a byte order mark; raises `refused` where it is not UTF-8, and as read_bytes."""
    data = read_bytes(url)
    try:
        return utf8(data, redacted(url))
    except ValueError as error:
        raise refused(str(error)) from error


@contextmanager
def local_view(url: str) -> Iterator[memoryview]:
    """The whole file as one read-only memoryview: mapped when local, else fetched into memory once."""
    filesystem, path = resolve(url)
    if lies_here(filesystem) and os.path.isfile(path) and os.path.getsize(path):
        with open(path, "rb") as file:
            # not closed by hand: slices that a reader still holds keep the mapping, and the last one ends it
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    else:
        yield memoryview(read_bytes(url))
