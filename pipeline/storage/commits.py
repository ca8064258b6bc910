"""How each storage commits a file whole: by one upload, or under a temporary name that is then renamed.

A file that exists counts as finished. A back end that writes in place can leave half of a file under its final name, so
storage that offers neither way is refused before anything is written.
"""

import os
import posixpath
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from winnow.pipeline.errors import StorageError
from winnow.pipeline.storage.urls import is_local, redacted

Commit = Callable[[Any, str, str], None]
"""Commits a file: (back end, local source, path in the back end). The file appears whole or not at all."""


def upload(filesystem: Any, source: str, path: str) -> None:
    """One PUT, or a multipart upload. The object exists only when it is complete."""
    filesystem.put_file(source, path)


def put_at_once(filesystem: Any, source: str, path: str) -> None:
    """All bytes at once; fsspec's put_file would show an empty file first, and let it grow."""
    with open(source, "rb") as file:
        filesystem.pipe_file(path, file.read())


def rename(filesystem: Any, source: str, path: str) -> None:
    """Write under a temporary name in the same folder, compare the size, and rename.

    If the back end cannot rename onto an existing file, the old file is removed first. Between these two steps
    there is no file, which is safe: a missing file is made again.
    """
    folder, name = posixpath.split(path)
    temporary = posixpath.join(folder, temporary_name(name))
    filesystem.makedirs(folder, exist_ok=True)
    try:
        filesystem.put_file(source, temporary)
        wanted, written = os.path.getsize(source), filesystem.size(temporary)
        if written != wanted:
            raise OSError(f"{wanted} bytes were sent, but the storage has {written}")
        try:
            filesystem.mv(temporary, path)
        except Exception:  # of each back end's own kind
            if not (filesystem.exists(path) and filesystem.exists(temporary)):
                raise
            filesystem.rm_file(path)
            filesystem.mv(temporary, path)
    except BaseException:
        with suppress(Exception):  # the first error says more; what stays has a temporary name
            filesystem.rm_file(temporary)
        raise


WAYS: dict[str, Commit] = {
    "memory": put_at_once,
    **dict.fromkeys(("s3", "s3a", "gs", "gcs", "az", "abfs", "oss", "oci", "tos", "hf"), upload),
    **dict.fromkeys(("sftp", "ssh", "ftp", "smb", "hdfs", "arrow_hdfs", "webhdfs", "webdav"), rename),
}
"""How files are committed, by scheme of the URL; writing.py does local files. docs/faults.md says which are tested."""


def commit_of(url: str) -> Commit:
    """How files under this remote URL are committed. Raises StorageError if they cannot be committed whole."""
    scheme = url.partition("://")[0]
    if scheme not in WAYS:
        raise StorageError(
            f"results must go to a storage where a file appears whole or not at all; winnow does not know this of "
            f"{scheme}://, got {redacted(url)}; write to a local path or to {', '.join(WAYS)}, and copy from there"
        )
    return WAYS[scheme]


def check_commits(url: str) -> None:
    """Raises StorageError unless files under this URL can be committed whole; nothing is written."""
    if not is_local(url):
        commit_of(url)


def renames(url: str) -> bool:
    """True if a killed writer may leave a file under a temporary name."""
    return is_local(url) or WAYS.get(url.partition("://")[0]) is rename


def temporary_name(name: str) -> str:
    """A name beside `name` that no listing of results counts, and that no other writer has."""
    return f".{name}.{uuid.uuid4().hex}.tmp"
