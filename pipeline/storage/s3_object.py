"""Reads one version of an S3 object, and fails if the object is replaced meanwhile.

Within `one_version` a thread asks what an object is once, however often it opens it. Writes nothing.
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
"""What is asked for first, from the end: footers lie there, and a table without vectors is mostly no longer."""

_TAIL, _WHOLE = f"bytes=-{TAIL_BYTES}", f"bytes=0-{PIECE_BYTES - 1}"
_MOST_OBJECTS = 64  # that a block remembers: at most 16 MiB
_SEEN = threading.local()


class S3Object:
    """Ranges (pipeline/storage/remote_file.py) of the version that the first answer came from, by its etag.

    filesystem: of s3fs. whole: whether the first request is for the first 64 MiB, not for the last 256 kB.
    size: of the whole object, bytes. info: what it is, as s3fs says it. Safe for threads.
    Cost: one request, and another where the object is empty. Raises FileNotFoundError where there is none.
    """

    def __init__(self, filesystem: Any, path: str, whole: bool = False) -> None:
        self._filesystem, self._path = filesystem, path
        self._first, self._kept = 0, b""
        try:
            answer = self._ask(_WHOLE if whole else _TAIL)
        except OSError as error:
            self.info = filesystem.info(path) if error.errno == errno.EINVAL else {}
            if self.info.get("size") != 0 or self.info["type"] != "file":
                raise
            self.size = 0  # of an empty object there is no range
            return
        self._first, self.size = _place(answer)
        self.info = {name: answer.get(name) for name in ("ETag", "LastModified")} | {"size": self.size}
        try:
            # a server that knows no ranges answers with all of it
            self._kept = self._content(answer, answer["ContentLength"] <= (PIECE_BYTES if whole else TAIL_BYTES))
        except Exception:  # noqa: BLE001  # of the network's own kinds; reading.py asks for these bytes again
            self._kept = b""

    def read_at(self, start: int, size: int) -> bytes:
        """See Ranges.read_at. Raises StorageError where the object is another one now."""
        at = start - self._first
        if 0 <= at < len(self._kept):
            return self._kept[at : at + size]
        stop = start + size
        if start < self._first < stop and self._kept:
            stop = self._first
        try:
            answer = self._ask(f"bytes={start}-{stop - 1}")
        except OSError as error:
            if error.errno == errno.EINVAL:  # no such range, of a size that was told
                raise StorageError(self._changed()) from error
            raise
        same = _place(answer) == (start, self.size) and answer.get("ETag") == self.info["ETag"]
        content = self._content(answer, same)
        if not same:
            raise StorageError(self._changed())
        return content

    def close(self) -> None:
        """Nothing is open."""

    def _changed(self) -> str:
        return f"it must stay as it was when it was opened, of {self.size} bytes, but is another now; run again"

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
    """Where an answer begins, and how long the whole object is."""
    stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.get("ContentRange") or "")
    return (int(stated[1]), int(stated[2])) if stated else (0, int(answer["ContentLength"]))


@contextmanager
def one_version() -> Iterator[None]:
    """While the block runs, this thread sees one version of each object that it opens, and is told its size once.

    A read of other bytes of a version that is no more raises StorageError. Blocks do not nest: the outer one counts.
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
    """The object as this thread's block saw it, else as it is now. whole: see S3Object; those are not remembered."""
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
    """What the object is, as s3fs says it; within a block it is opened for it, for it will be read."""
    within = getattr(_SEEN, "objects", None) is not None
    info: dict[str, Any] = open_object(filesystem, path).info if within else filesystem.info(path)
    return info


def forget(path: str) -> None:
    """The block's thread writes this object itself now."""
    (getattr(_SEEN, "objects", None) or {}).pop(path, None)
