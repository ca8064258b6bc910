"""Storage by URL (local, memory, s3, gs …): reading, listing, and atomic writing of files and objects.

Import storage functions from here: URLs (urls.py), reading (opening.py), listing (listing.py) and the shards of a pool
(shard_names.py). Every write goes through `committing`, which makes a file appear under its final name whole or not at
all. fsspec's back ends take credentials from the environment; no URL, log or artifact holds them.
"""

import errno
import io
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from winnow.pipeline.errors import StorageError
from winnow.pipeline.storage.backends import lies_here, resolve
from winnow.pipeline.storage.listing import (
    Identity,
    check_distinct,
    exists,
    folders,
    identify,
    identity_of,
    listing,
    present,
)
from winnow.pipeline.storage.local_file import EarlyFile
from winnow.pipeline.storage.opening import local_view, open_exact, open_read, read_bytes, read_if_there, read_text
from winnow.pipeline.storage.places import File, Files, OptionsOf, Place, from_file, placed, rooted, rooted_pattern
from winnow.pipeline.storage.s3_object import forget
from winnow.pipeline.storage.shard_names import expand
from winnow.pipeline.storage.urls import absolute, home, is_shared, join, name_of, parent_of, redacted

__all__ = [
    "File",
    "Files",
    "Identity",
    "OptionsOf",
    "Place",
    "absolute",
    "check_distinct",
    "committed_bytes",
    "committing",
    "copy",
    "exists",
    "expand",
    "folders",
    "from_file",
    "home",
    "identify",
    "identity_of",
    "is_shared",
    "join",
    "listing",
    "local_path",
    "local_view",
    "name_of",
    "open_exact",
    "open_read",
    "parent_of",
    "placed",
    "present",
    "read_bytes",
    "read_if_there",
    "read_text",
    "redacted",
    "remove_abandoned",
    "rooted",
    "rooted_pattern",
    "write_bytes",
]  # fmt: skip

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_ABANDONED_S = 86_400.0  # a live writer writes again within a day
_COMMITTED = threading.local()
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def committing(url: str) -> Iterator[BinaryIO]:
    """Write a file atomically: it appears under `url` whole when the block ends, and not at all if the block raises.

    Local: writes under a temporary name in the same folder, then fsync, then rename. Object stores: one upload.
    Two writers of one URL never mix; the last one to finish wins.
    Raises StorageError if the file cannot be written. An OSError raised inside the block becomes one too.
    """
    filesystem, path = resolve(url)
    local = lies_here(filesystem)
    forget(path)  # this thread may have cached the old version of the object
    try:
        with _committing_local(Path(path)) if local else _committing_remote(filesystem, path, url) as file:
            yield file
            size = file.tell()
    except OSError as error:
        raise _unwritten(url, error) from error
    # counted only here, once the file is in place
    _COMMITTED.bytes = committed_bytes() + size


def committed_bytes() -> int:
    """Bytes of all files that this thread has committed. The difference of two calls is what was written in between."""
    return cast(int, getattr(_COMMITTED, "bytes", 0))


def local_path(url: str) -> Path | None:
    """The local path of a URL; None for remote and in-memory storage."""
    filesystem, path = resolve(url)
    return Path(path) if lies_here(filesystem) else None


@contextmanager
def _committing_local(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # in the same folder: a rename is atomic only inside one file system. The leading dot hides the name from listings;
    # the random part keeps two writers of one file apart
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with io.BufferedWriter(EarlyFile(temporary, "w")) as file:
            yield file
            # before the rename: otherwise a power loss may leave the final name on a file without its bytes
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _committing_remote(filesystem: Any, path: str, url: str) -> Iterator[BinaryIO]:
    # write to a local spool file, then upload once: a streamed upload that fails half way may leave a truncated object
    with tempfile.TemporaryDirectory(prefix="winnow-") as folder:
        spool = Path(folder, "upload")
        with open(spool, "wb") as file:
            yield file
        try:
            filesystem.put_file(str(spool), path)
        except Exception as error:  # each back end raises its own types
            raise _unwritten(url, error) from error


def _unwritten(url: str, error: Exception) -> StorageError:
    full = isinstance(error, OSError) and error.errno in _FULL
    remedy = "; make room there, or raise the limit, and run the same command again" if full else ""
    return StorageError(
        f"cannot write {url}: {error or type(error).__name__}; nothing was left under that name{remedy}"
    )


def remove_abandoned(folder: str) -> int:
    """Remove the temporary files that killed writers left in a local folder and below. Returns how many.

    Removes only files that nobody has written to for a day, because another run may be writing right now. Temporary
    files never count as committed; they only take disk space.
    """
    filesystem, path = resolve(folder)
    if not lies_here(filesystem) or not os.path.isdir(path):
        return 0
    removed = 0
    for found in sorted(Path(path).rglob(".*.tmp")):
        with suppress(FileNotFoundError):  # another run may be removing it too
            if _TEMPORARY.fullmatch(found.name) and time.time() - found.stat().st_mtime > _ABANDONED_S:
                found.unlink()
                removed += 1
    return removed


def write_bytes(url: str, data: bytes) -> None:
    """Commit `data` under `url`, whole or not at all."""
    with committing(url) as file:
        file.write(data)


def copy(source: str, target: str) -> None:
    """Commit a copy of one file under another URL."""
    with open_read(source) as reader, committing(target) as writer:
        while block := reader.read(1 << 22):
            writer.write(block)
