"""Chooses the fsspec back end of a URL, sets its options, and turns its errors into StorageError."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from winnow.pipeline.errors import StorageError
from winnow.pipeline.storage.urls import HTTP, STORAGES, absolute, checked, is_local, redacted

S3 = ("s3://", "s3a://")
_BARE = ("sftp://", "ssh://", "smb://", "webdav://")
"""Back ends that cache neither listings nor reads, and hand every option to another library, which refuses it."""
_S3_RETRIES = {"mode": "legacy", "max_attempts": 6}
"""botocore's own: seven tries, half a minute of pauses in all.

Not `standard` mode: its quota is spent by one bad minute, and then nothing is tried again at all (docs/faults.md).
"""
_S3_ROUNDS = 2  # s3fs repeats all of that, 5 times by default: a storage that stalls would hold one request for an hour
_LOCAL = LocalFileSystem()


def resolve(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The back end of a URL and its name there. Raises StorageError where there is none, or the URL is refused."""
    if is_local(url):
        path = url if url.startswith("/") else absolute(url)
        return _LOCAL, LocalFileSystem._strip_protocol(path)  # as below, in a tenth of the time
    checked(url)
    try:
        filesystem, path = url_to_fs(url, **_options(url))
    except (ValueError, ImportError) as error:  # how fsspec says that it has no such back end
        raise StorageError(
            f"a URL must be of a storage that fsspec knows here, got {url}: {error}; {STORAGES}"
        ) from error
    if url.startswith(S3):
        filesystem.retries = _S3_ROUNDS
    return filesystem, cast(str, path)


def _options(url: str) -> dict[str, object]:
    """No cache of listings, and how often S3 is asked again, unless fsspec's configuration (`FSSPEC_S3`) says it."""
    if url.startswith(_BARE):
        return {}
    # a run must see what another process committed a moment ago
    options: dict[str, object] = {"use_listings_cache": False}
    if url.startswith(S3):
        asked = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {"retries": _S3_RETRIES, **asked}
    return options


def reading_options(url: str) -> dict[str, object]:
    """For the back end's `open`: it keeps nothing and reads nothing ahead; RemoteFile does."""
    return {} if url.startswith(_BARE) else {"cache_type": "none"}


def lies_here(filesystem: fsspec.AbstractFileSystem) -> bool:
    """True for files of this machine."""
    return isinstance(filesystem, LocalFileSystem)


def in_memory(filesystem: fsspec.AbstractFileSystem) -> bool:
    """True for files of this process."""
    return isinstance(filesystem, MemoryFileSystem)


def is_absence(error: BaseException | None) -> bool:
    """True where a back end says that there is no such file: by the error's type, or as SMB does by its number."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return True
    return isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR)


@contextmanager
def answering(verb: str, url: str) -> Iterator[None]:
    """Raises StorageError in place of what back ends raise when they cannot do it, each of its own kind."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if is_absence(error):
            if verb == "list":
                raise FileNotFoundError(str(error)) from error  # no folder is an answer
            # of a web server whatever goes wrong is no file, and the cause says what it was
            why = error.__cause__ if url.startswith(HTTP) and error.__cause__ else "there is no such file"
            raise StorageError(f"cannot read {redacted(url)}: {why}") from error
        # botocore's and google's errors, such as missing credentials, are no OSError
        raise StorageError(f"cannot {verb} {redacted(url)}: {error or type(error).__name__}") from error
