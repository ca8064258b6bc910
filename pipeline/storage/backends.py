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
"""Back ends that cache neither listings nor reads, and pass every option to another library, which rejects ours."""
_S3_RETRIES = {"mode": "legacy", "max_attempts": 6}
"""Retries of botocore: seven tries with half a minute of pauses in all.

`standard` mode is not used: one bad minute spends its retry quota, and after that nothing is retried (docs/faults.md).
"""
_S3_ROUNDS = 2  # s3fs repeats botocore's retries, by default 5 times: with a stalled storage, a request took an hour
_LOCAL = LocalFileSystem()


def resolve(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(fsspec back end, path in it) of a URL. Raises StorageError for an unknown scheme and for a refused URL."""
    if is_local(url):
        path = url if url.startswith("/") else absolute(url)
        return _LOCAL, LocalFileSystem._strip_protocol(path)  # same result as url_to_fs, ten times as fast
    checked(url)
    try:
        filesystem, path = url_to_fs(url, **_options(url))
    except (ValueError, ImportError) as error:  # fsspec does not know the scheme, or its package is not installed
        raise StorageError(
            f"a URL must name a storage that fsspec can open here, got {url}: {error}; {STORAGES}"
        ) from error
    if url.startswith(S3):
        filesystem.retries = _S3_ROUNDS
    return filesystem, cast(str, path)


def _options(url: str) -> dict[str, object]:
    """Options of a back end: no listings cache, and retries for S3, which the user's `FSSPEC_S3` overrides."""
    if url.startswith(_BARE):
        return {}
    # a run must see what another process committed a moment ago
    options: dict[str, object] = {"use_listings_cache": False}
    if url.startswith(S3):
        asked = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {"retries": _S3_RETRIES, **asked}
    return options


def reading_options(url: str) -> dict[str, object]:
    """Options for the back end's `open`: no cache and no read-ahead, which RemoteFile does itself."""
    return {} if url.startswith(_BARE) else {"cache_type": "none"}


def lies_here(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether the back end is the local file system."""
    return isinstance(filesystem, LocalFileSystem)


def in_memory(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether the back end keeps files in this process's memory."""
    return isinstance(filesystem, MemoryFileSystem)


def is_absence(error: BaseException | None) -> bool:
    """Whether an error says that a file does not exist: by its type, or by its number, as SMB does."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return True
    return isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR)


@contextmanager
def answering(verb: str, url: str) -> Iterator[None]:
    """Turns the errors of back ends into StorageError. verb: `read` or `list`; missing folders pass for `list`."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if is_absence(error):
            if verb == "list":
                raise FileNotFoundError(str(error)) from error  # for a listing, a missing folder is an answer
            # fsspec reports every failure of a web server as FileNotFoundError; the cause says what happened
            why = error.__cause__ if url.startswith(HTTP) and error.__cause__ else "there is no such file"
            raise StorageError(f"cannot read {redacted(url)}: {why}") from error
        # errors of botocore and google, such as missing credentials, are not OSError
        raise StorageError(f"cannot {verb} {redacted(url)}: {error or type(error).__name__}") from error
