"""Files and objects by URL (local, memory, s3, gs …), the one home of fsspec; refuses to leave half a file.

Every write goes through `committing`: the bytes appear under their final name whole, or not at all.
Credentials come from the environment that fsspec's back ends read; no URL, log or artifact carries them.
"""

import errno
import glob as globbing
import io
import mmap
import os
import re
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from braceexpand import braceexpand
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from pipeline.early_file import EarlyFile
from pipeline.errors import PoolError, StorageError
from pipeline.reading import RemoteFile, Seeking
from pipeline.s3_object import forget, info_of, opened

_PASSWORD = re.compile(r"://[^/]*:[^/]*@|://[^/@]+:(?!\d+/)[^@]*@")  # a secret may hold slashes, a port is none
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_ABANDONED_S = 86_400.0  # no write takes a day between two of its bytes
_LOCAL, _COMMITTED = LocalFileSystem(), threading.local()
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_S3_RETRIES = {"mode": "legacy", "max_attempts": 6}
"""botocore's own: seven tries, half a minute of pauses in all.

Not `standard` mode: its quota is spent by one bad minute, and then nothing is tried again at all (docs/faults.md).
"""
_S3 = ("s3://", "s3a://")
_S3_ROUNDS = 2  # s3fs repeats all of that, 5 times by default: a storage that stalls would hold one request for an hour


@dataclass(frozen=True, order=True)
class Identity:
    """What a file was when it was listed: a change of any field means other content.

    size: bytes. stamp: the store's etag where it has one, else the time of last modification.
    """

    url: str
    size: int
    stamp: str


def join(url: str, *parts: str) -> str:
    """The URL of something below `url`."""
    return "/".join([url.rstrip("/"), *parts])


def absolute(url: str) -> str:
    """The URL as any process may use it: a local path from the root, any other as it is."""
    return url if "://" in url else os.path.abspath(url)


def name_of(url: str) -> str:
    """The last part of a URL."""
    return url.rstrip("/").rsplit("/", 1)[-1]


def parent_of(url: str) -> str:
    """The folder that a URL lies in; "." for a bare file name."""
    head, _, _ = url.rstrip("/").rpartition("/")
    return head or ("/" if url.startswith("/") else ".")


def is_shared(url: str) -> bool:
    """False for storage that only this process can see (`memory://`)."""
    return not url.startswith("memory://")


def open_read(url: str) -> BinaryIO:
    """A seekable binary file; raises StorageError where there is none.

    A remote one reads 4 MiB ahead; its reads give every byte that was asked for or raise StorageError.
    """
    return _open(url, 4 << 20)


def open_exact(url: str) -> BinaryIO:
    """As open_read, but nothing is read ahead: a read of a remote file is one request of just those bytes."""
    return _open(url, 0)


def _open(url: str, ahead: int, whole: bool = False) -> BinaryIO:
    filesystem, path = _resolve(url)
    with _answering("read", url):
        if isinstance(filesystem, LocalFileSystem):
            return open(path, "rb")
        if url.startswith(_S3):
            return cast(BinaryIO, RemoteFile(opened(filesystem, path, whole), url, ahead))
        file = filesystem.open(path, "rb", cache_type="none")
    if isinstance(filesystem, MemoryFileSystem):
        # all readers of a file in memory are given the same object, and would share its position
        file = MemoryFile(filesystem, path, file.getvalue())
        file.name, file.mode = url, "rb"  # every BinaryIO has them, but not every fsspec file
        return cast(BinaryIO, file)
    return cast(BinaryIO, RemoteFile(Seeking(file), url, ahead))


def read_bytes(url: str) -> bytes:
    """The whole content; raises StorageError where there is none."""
    with _answering("read", url), _open(url, 0, whole=True) as file:
        return file.read()


def read_if_there(url: str) -> bytes | None:
    """The whole content, None where there is no such file."""
    try:
        return read_bytes(url)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise


@contextmanager
def local_view(url: str) -> Iterator[memoryview]:
    """The whole file as one read-only memoryview: mapped when local, else fetched into memory once."""
    filesystem, path = _resolve(url)
    if isinstance(filesystem, LocalFileSystem) and os.path.isfile(path) and os.path.getsize(path):
        with open(path, "rb") as file:
            # not closed by hand: slices that a reader still holds keep the mapping, and the last one ends it
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    else:
        yield memoryview(read_bytes(url))


@contextmanager
def committing(url: str) -> Iterator[BinaryIO]:
    """Write a file that appears under `url` whole when the block ends, and not at all when it raises.

    Local: a temporary name in the same folder, fsync, rename. Object stores: one upload when the block ends.
    Two writers of one URL never mix: the last to finish wins with a whole file.
    Raises StorageError when it cannot be written, be it that the block's own OSError says so.
    """
    filesystem, path = _resolve(url)
    local = isinstance(filesystem, LocalFileSystem)
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
    filesystem, path = _resolve(url)
    return Path(path) if isinstance(filesystem, LocalFileSystem) else None


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
def _committing_remote(filesystem: fsspec.AbstractFileSystem, path: str, url: str) -> Iterator[BinaryIO]:
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
    filesystem, path = _resolve(folder)
    if not isinstance(filesystem, LocalFileSystem) or not os.path.isdir(path):
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


def exists(url: str) -> bool:
    """True where a file or folder is."""
    filesystem, path = _resolve(url)
    with _answering("list", url):
        return bool(filesystem.exists(path))


def listing(url: str) -> list[Identity]:
    """The files directly in a folder, sorted by URL, by one list request; [] where there is no folder.

    A link counts as what it points to: a pool may be links into a cache.
    """
    infos = _infos(url)
    found = [_identity(join(url, name_of(info["name"])), info) for info in infos if info["type"] == "file"]
    return sorted(identity for identity in found if not name_of(identity.url).startswith("."))


def folders(url: str) -> list[str]:
    """Names of the folders directly in a folder, sorted; [] where there is none."""
    return sorted(name_of(info["name"]) for info in _infos(url) if info["type"] == "directory")


def _infos(url: str) -> list[dict[str, Any]]:
    """What the back end says of each thing in a folder, links followed; [] where there is no folder."""
    filesystem, path = _resolve(url)
    try:
        with _answering("list", url):
            infos = filesystem.ls(path, detail=True)
            # fsspec lists a local link with the time of the link itself, but asked for it alone with its target's
            return [filesystem.info(info["name"]) if _leads_somewhere(info) else info for info in infos]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _leads_somewhere(info: dict[str, Any]) -> bool:
    return bool(info.get("islink")) and os.path.exists(info["name"])


def expand(patterns: Iterable[str]) -> list[str]:
    """URLs of a pool from globs, braces, URLs and `.txt` lists of URLs, in their order; globs come sorted.

    Local paths become absolute, so that a pool has one name from wherever it is listed.

    Raises PoolError for a pattern that matches nothing and for a file that is named twice.
    """
    urls: list[str] = []
    for pattern in patterns:
        if pattern.endswith(".txt"):
            lines = [line.strip() for line in read_bytes(pattern).decode().splitlines()]
            urls += [absolute(line) for line in lines if line and not line.startswith("#")]
            continue
        for braced in _braces(pattern):
            urls += _glob(braced) if globbing.has_magic(braced) else [absolute(braced)]
    repeated = [url for url, times in Counter(urls).items() if times > 1]
    if repeated:
        raise PoolError(f"a shard may be in a pool once, but {repeated[0]} is named more often")
    return urls


def _braces(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError as error:  # braceexpand tells unbalanced braces by a kind of it
        raise PoolError(f"every brace of a pool pattern must close, but {pattern} came") from error


def _glob(pattern: str) -> list[str]:
    filesystem, path = _resolve(pattern)
    with _answering("list", pattern):
        found = sorted(filesystem.glob(path))
    if not found:
        raise PoolError(f"a pool pattern must match at least one file, but nothing matches {pattern}")
    prefix = pattern.split("://")[0] + "://" if "://" in pattern else ""
    return [prefix + name.lstrip("/") if prefix and prefix != "file://" else name for name in found]


def identify(urls: Iterable[str]) -> list[Identity]:
    """The identity of each URL, in order; one list request per folder, not per file.

    Raises PoolError that names the files which are not there.
    """
    wanted = list(urls)
    known = {
        (parent, name_of(found.url)): found
        for parent in sorted({parent_of(url) for url in wanted})
        for found in listing(parent)
    }
    missing = [url for url in wanted if (parent_of(url), name_of(url)) not in known]
    if missing:
        raise PoolError(
            f"every shard of a pool must be there, but {len(missing)} of {len(wanted)} are not: "
            f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}"
        )
    return [
        Identity(url, known[parent_of(url), name_of(url)].size, known[parent_of(url), name_of(url)].stamp)
        for url in wanted
    ]


def identity_of(url: str) -> Identity:
    """The identity of one file as `identify` gives it, by one request. Raises StorageError where there is none."""
    filesystem, path = _resolve(url)
    with _answering("read", url):
        info = info_of(filesystem, path) if url.startswith(_S3) else filesystem.info(path)
    return _identity(url, info)


def _identity(url: str, info: dict[str, Any]) -> Identity:
    for field in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created"):
        if info.get(field):
            # one back end tells the same time as a number when it lists, and as a date when it is asked for one file
            stamp = info[field].timestamp() if isinstance(info[field], datetime) else info[field]
            return Identity(url, int(info["size"]), str(stamp).strip('"'))
    raise StorageError(f"{url}: the store gives neither an etag nor a time, so a change could not be seen")


def _resolve(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if url.startswith("/"):
        return _LOCAL, LocalFileSystem._strip_protocol(url)  # as below, in a tenth of the time
    if _PASSWORD.search(url):
        shown = url.rpartition("@")[2]
        raise StorageError(
            f"a URL must carry no password, for results and logs repeat it, but that of {shown} does; "
            f"give credentials by the environment"
        )
    try:
        # listings are never cached: a run must see what another process committed a moment ago
        filesystem, path = url_to_fs(url, use_listings_cache=False, **_options(url))
    except (ValueError, ImportError) as error:  # how fsspec says that it has no such back end
        raise StorageError(f"a URL must be of a storage that fsspec knows here, but {url} came: {error}") from error
    if url.startswith(_S3):
        filesystem.retries = _S3_ROUNDS
    return filesystem, cast(str, path)


def _options(url: str) -> dict[str, object]:
    """How often S3 is asked again; what fsspec's own configuration (`FSSPEC_S3`) says of the client wins."""
    if not url.startswith(_S3):
        return {}
    asked = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {"retries": _S3_RETRIES, **asked}}


@contextmanager
def _answering(verb: str, url: str) -> Iterator[None]:
    """Raises StorageError in place of what back ends raise when they cannot do it, each of its own kind."""
    try:
        yield
    except StorageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        if verb == "list":
            raise  # no folder is an answer
        raise StorageError(f"cannot read {url}: there is no such file") from error
    except Exception as error:
        # botocore's and google's errors, such as missing credentials, are no OSError
        raise StorageError(f"cannot {verb} {url}: {error or type(error).__name__}") from error
