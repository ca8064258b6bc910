"""Reads one version of an S3 object, and fails if the object is replaced meanwhile.

Inside `one_version`, a thread requests an object's metadata once, however often it opens the object.
"""

import asyncio
import errno
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from winnow.pipeline.errors import StorageError
from winnow.pipeline.storage.remote_file import PIECE_BYTES

TAIL_BYTES = 256 << 10
"""Size of the first request, from the end of the object: the parquet footer is there, and most tables without vectors
are no longer than this."""

_TAIL, _WHOLE = f"bytes=-{TAIL_BYTES}", f"bytes=0-{PIECE_BYTES - 1}"
_MOST_OBJECTS = 64  # objects that one block remembers: at most 16 MiB
_SEEN = threading.local()


class S3Object:
    """Ranges (pipeline/storage/remote_file.py) of one version of an object: the version of the first answer, by etag.

    filesystem: of s3fs. whole: whether the first request asks for the first 64 MiB instead of the last 256 KiB.
    size: of the whole object, bytes. info: metadata in the form of s3fs. Thread-safe.
    Cost: one request, two for an empty object. Raises FileNotFoundError if the object does not exist.
    """

    def __init__(self, filesystem: Any, path: str, whole: bool = False) -> None:
        self._filesystem, self._path = filesystem, path
        self._first, self._kept = 0, b""
        try:
            answer = self._ask(_WHOLE if whole else _TAIL)
        except OSError as error:
            # S3 answers any range request for an empty object with InvalidRange (EINVAL)
            self.info = filesystem.info(path) if error.errno == errno.EINVAL else {}
            if self.info.get("size") != 0 or self.info["type"] != "file":
                raise
            self.size = 0
            return
        self._first, self.size = _place(answer)
        self.info = {name: answer.get(name) for name in ("ETag", "LastModified")} | {"size": self.size}
        try:
            # a server that ignores ranges answers with the whole object: do not read a body larger than asked for
            self._kept = self._content(answer, answer["ContentLength"] <= (PIECE_BYTES if whole else TAIL_BYTES))
        except Exception:  # noqa: BLE001  # network errors have many types; RemoteFile requests these bytes again
            self._kept = b""

    def read_at(self, start: int, size: int) -> bytes:
        """See Ranges.read_at. Raises StorageError if the object was replaced."""
        at = start - self._first
        if 0 <= at < len(self._kept):
            return self._kept[at : at + size]
        stop = start + size
        # the end of the range is in memory already: request only the part before it
        if start < self._first < stop and self._kept:
            stop = self._first
        try:
            answer = self._ask(f"bytes={start}-{stop - 1}")
        except OSError as error:
            if error.errno == errno.EINVAL:  # the range was valid for the size of our version, so this is another one
                raise StorageError(self._changed()) from error
            raise
        # the size and the etag of every answer tell whether it is still the same version
        same = _place(answer) == (start, self.size) and answer.get("ETag") == self.info["ETag"]
        content = self._content(answer, same)
        if not same:
            raise StorageError(self._changed())
        return content

    def close(self) -> None:
        """Does nothing: no connection is open."""

    def _changed(self) -> str:
        return f"the object of {self.size} bytes must not change while it is read, but was replaced; run again"

    def _ask(self, ranged: str) -> dict[str, Any]:
        bucket, key, version = self._filesystem.split_path(self._path)
        where = {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}
        answer: dict[str, Any] = self._filesystem.call_s3("get_object", Range=ranged, **where)
        return answer

    def _content(self, answer: dict[str, Any], wanted: bool) -> bytes:
        async def received() -> bytes:
            try:
                content: bytes = await answer["Body"].read() if wanted else b""
                return content
            finally:
                answer["Body"].close()

        return asyncio.run_coroutine_threadsafe(received(), self._filesystem.loop).result()


def _place(answer: dict[str, Any]) -> tuple[int, int]:
    """(first byte of an answer, size of the whole object)."""
    stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.get("ContentRange") or "")
    return (int(stated[1]), int(stated[2])) if stated else (0, int(answer["ContentLength"]))


@contextmanager
def one_version() -> Iterator[None]:
    """Inside the block, this thread sees one version of each object, and requests its metadata only once.

    A read from a version that was replaced raises StorageError. In nested blocks the outer one counts.
    """
    if getattr(_SEEN, "objects", None) is not None:
        yield
        return
    _SEEN.objects = {}
    try:
        yield
    finally:
        _SEEN.objects = None


def open_object(filesystem: Any, path: str, whole: bool = False) -> S3Object:
    """The version that this thread's block has seen, else the current one.

    whole: as for S3Object. An object opened whole is not remembered, because it may take 64 MiB.
    """
    objects: dict[str, S3Object] | None = getattr(_SEEN, "objects", None)
    if objects is not None and path in objects:
        return objects[path]
    made = S3Object(filesystem, path, whole)
    if objects is not None and not whole:
        if len(objects) == _MOST_OBJECTS:
            objects.pop(next(iter(objects)))
        objects[path] = made
    return made


def info_of(filesystem: Any, path: str) -> dict[str, Any]:
    """The object's metadata in the form of s3fs. Inside a block it opens the object, which will be read soon anyway."""
    within = getattr(_SEEN, "objects", None) is not None
    info: dict[str, Any] = open_object(filesystem, path).info if within else filesystem.info(path)
    return info


def forget(path: str) -> None:
    """Drop the remembered version of an object that this thread is about to write."""
    (getattr(_SEEN, "objects", None) or {}).pop(path, None)
