"""Commits files whole: local files by a temporary name, fsync and rename; others as commits.py says for each."""

import errno
import io
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from winnow.pipeline.errors import StorageError
from winnow.pipeline.storage.backends import answering, lies_here, resolve
from winnow.pipeline.storage.commits import Commit, commit_of, renames, temporary_name
from winnow.pipeline.storage.listing import folders
from winnow.pipeline.storage.local_file import EarlyFile
from winnow.pipeline.storage.opening import open_read
from winnow.pipeline.storage.removing import remove_folder
from winnow.pipeline.storage.s3_object import forget
from winnow.pipeline.storage.scratch import scratch_folder
from winnow.pipeline.storage.urls import join, name_of

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_ABANDONED_S = 86_400.0  # a live writer writes again within a day
_COMMITTED = threading.local()
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def committing(url: str) -> Iterator[BinaryIO]:
    """Write a file atomically: it appears under `url` whole when the block ends, and not at all if the block raises.

    Local: writes under a temporary name in the same folder, then fsync, then rename. Elsewhere: writes to a file on
    this machine's disk, and commits it when the block ends, as commits.py says. Two writers of one URL never mix; the
    last one to finish wins.
    Raises StorageError if the file cannot be written, and for storage that cannot commit a whole file. An OSError
    raised inside the block becomes one too.
    """
    filesystem, path = resolve(url)
    local = lies_here(filesystem)
    forget(path)  # this thread may have cached the old version of the object
    try:
        way = None if local else commit_of(url)
        with _committing_local(Path(path)) if way is None else _committing_remote(filesystem, way, path, url) as file:
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
    temporary = path.with_name(temporary_name(path.name))
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
def _committing_remote(filesystem: Any, way: Commit, path: str, url: str) -> Iterator[BinaryIO]:
    # write to a local spool file, then upload once: a streamed upload that fails half way may leave a truncated object
    with scratch_folder() as folder:
        spool = folder / "upload"
        with open(spool, "wb") as file:
            yield file
        try:
            way(filesystem, str(spool), path)
        except Exception as error:  # each back end raises its own types
            raise _unwritten(url, error) from error


def _unwritten(url: str, error: Exception) -> StorageError:
    full = isinstance(error, OSError) and error.errno in _FULL
    remedy = "; make room there, or raise the limit, and run the same command again" if full else ""
    return StorageError(
        f"cannot write {url}: {error or type(error).__name__}; nothing was left under that name{remedy}"
    )


def remove_abandoned(folder: str) -> int:
    """Remove the temporary files that killed writers left in a folder and below. Returns how many.

    Removes only files that nobody has written to for a day, because another run may be writing right now. Temporary
    files never count as committed; they only take disk space. Object stores have none.
    """
    filesystem, path = resolve(folder)
    if not renames(folder):
        return 0
    removed = 0
    with answering("list", folder):
        found = [name for name in filesystem.find(path) if _TEMPORARY.fullmatch(name_of(name))]
    for name in sorted(found):
        with suppress(FileNotFoundError):  # another run may be removing it too
            if time.time() - _modified(filesystem, name) > _ABANDONED_S:
                filesystem.rm_file(name)
                removed += 1
    return removed


def remove_abandoned_folders(parent: str) -> int:
    """Remove the folders in a folder to which nobody has written for a day. Returns how many.

    For temporary folders that several machines share, such as those of an exchange of `winnow verify` on Ray: whoever
    uses one writes to it all the time. Cost: one or two list requests, and one request for each file that is removed.
    """
    removed = 0
    for name in folders(parent):
        url = join(parent, name)
        filesystem, path = resolve(url)
        with answering("list", url), suppress(FileNotFoundError):  # another run may be removing it too
            # a folder without a file has just been made, or its maker was killed before its first one
            names = filesystem.find(path) or [path]
            if all(time.time() - _modified(filesystem, name) > _ABANDONED_S for name in names):
                remove_folder(url)
                removed += 1
    return removed


def _modified(filesystem: Any, path: str) -> float:
    """When a file was last written, in seconds since 1970; now if the storage does not say."""
    try:
        when: datetime = filesystem.modified(path)
    except NotImplementedError:
        told = filesystem.info(path).get("modify")  # of FTP: YYYYMMDDHHMMSS, in UTC (RFC 3659)
        when = datetime.strptime(told[:14], "%Y%m%d%H%M%S") if told else datetime.now(UTC)
    return when.replace(tzinfo=when.tzinfo or UTC).timestamp()


def write_bytes(url: str, data: bytes) -> None:
    """Commit `data` under `url`, whole or not at all."""
    with committing(url) as file:
        file.write(data)


def copy(source: str, target: str) -> None:
    """Commit a copy of one file under another URL."""
    with open_read(source) as reader, committing(target) as writer:
        while block := reader.read(1 << 22):
            writer.write(block)
