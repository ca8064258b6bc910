"""Storage by URL (local, memory, s3, gs …): reading, listing, and atomic writing of files and objects.

This is the door to all of storage: names of files (urls.py), reading them (opening.py), what lies where (listing.py)
and which files a pool names (shard_names.py) are called from here. Every write goes through `committing`: the bytes
appear under their final name whole, or not at all. Credentials come from the environment that fsspec's back ends read;
no URL, log or artifact carries them.
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
_ABANDONED_S = 86_400.0  # no write takes a day between two of its bytes
_COMMITTED = threading.local()
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def committing(url: str) -> Iterator[BinaryIO]:
    """Write a file that appears under `url` whole when the block ends, and not at all when it raises.

    Local: a temporary name in the same folder, fsync, rename. Object stores: one upload when the block ends.
    Two writers of one URL never mix: the last to finish wins with a whole file.
    Raises StorageError when it cannot be written, be it that the block's own OSError says so.
    """
    filesystem, path = resolve(url)
    local = lies_here(filesystem)
    forget(path)
    try:
        with _committing_local(Path(path)) if local else _committing_remote(filesystem, path, url) as file:
            yield file
            size = file.tell()
    except OSError as error:
        raise _unwritten(url, error) from error
    _COMMITTED.bytes = committed_bytes() + size


def committed_bytes() -> int:
    """Bytes of all files that this thread has committed; what one piece of work committed is the difference."""
    return cast(int, getattr(_COMMITTED, "bytes", 0))


def local_path(url: str) -> Path | None:
    """Where a URL lies on this machine, None where it lies elsewhere."""
    filesystem, path = resolve(url)
    return Path(path) if lies_here(filesystem) else None


@contextmanager
def _committing_local(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with io.BufferedWriter(EarlyFile(temporary, "w")) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _committing_remote(filesystem: Any, path: str, url: str) -> Iterator[BinaryIO]:
    # spooled first, then one upload: a streamed upload that fails half way may leave a short object behind
    with tempfile.TemporaryDirectory(prefix="winnow-") as folder:
        spool = Path(folder, "upload")
        with open(spool, "wb") as file:
            yield file
        try:
            filesystem.put_file(str(spool), path)
        except Exception as error:  # of each back end's own kind
            raise _unwritten(url, error) from error


def _unwritten(url: str, error: Exception) -> StorageError:
    full = isinstance(error, OSError) and error.errno in _FULL
    remedy = "; make room there, or raise the limit, and run the same command again" if full else ""
    return StorageError(
        f"cannot write {url}: {error or type(error).__name__}; nothing was left under that name{remedy}"
    )


def remove_abandoned(folder: str) -> int:
    """Remove what writers that were killed left in a local folder under temporary names; how many there were.

    Only files that nobody has written to for a day: another run may be writing right now. Such files never count as
    committed; they only take room.
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
    """Commit a copy of one file of this store under another name."""
    with open_read(source) as reader, committing(target) as writer:
        while block := reader.read(1 << 22):
            writer.write(block)
