"""Lists all files below a folder, with their sizes and the time at which each was last written."""

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from winnow.pipeline.storage.backends import answering, resolve
from winnow.pipeline.storage.urls import join

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modificationTime", "modify", "created")
"""Fields in which back ends give the time of the last change."""


@dataclass(frozen=True)
class Found:
    """One file. size: bytes. written: when it was last written, in seconds since 1970; now if nobody says."""

    url: str
    size: int
    written: float

    def age_s(self) -> float:
        """Seconds since it was last written."""
        return time.time() - self.written


def tree(url: str) -> list[Found]:
    """Every file in a folder and below, temporary ones too, sorted by URL; the file itself for the URL of a file.

    [] if there is nothing. Cost on S3: one list request for each thousand files.
    """
    filesystem, path = resolve(url)
    infos: dict[str, dict[str, Any]] = {}
    with suppress(FileNotFoundError), answering("list", url):
        infos = filesystem.find(path, detail=True)
    start = path.strip("/")
    found = []
    for name, info in infos.items():
        below = name.lstrip("/").removeprefix(start).lstrip("/")
        found.append(Found(join(url, below) if below else url, int(info["size"] or 0), _written(info)))
    return sorted(found, key=lambda file: file.url)


def _written(info: dict[str, Any]) -> float:
    when = next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(when, str):
        with suppress(ValueError):
            when = datetime.fromisoformat(when)
    if isinstance(when, datetime):
        return when.replace(tzinfo=when.tzinfo or UTC).timestamp()
    return float(when) if isinstance(when, int | float) else time.time()
