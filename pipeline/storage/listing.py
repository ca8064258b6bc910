"""Lists folders, and identifies a file by size and etag or modification time, so that a change is seen.

A file also gets a mark of its content, where the storage has one that stays when the file is renamed.
"""

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from winnow.pipeline.errors import PoolError, StorageError
from winnow.pipeline.storage.backends import S3, answering, resolve
from winnow.pipeline.storage.s3_object import info_of
from winnow.pipeline.storage.urls import HTTP, is_local, join, name_of, parent_of, redacted

_STAMPS = (
    "ETag", "etag", "md5Hash", "Content-MD5", "Digest", "blob_id", "mtime", "LastModified", "Last-Modified",
    "last_modified", "updated", "modificationTime", "modify", "created",
)  # fmt: skip
"""Fields in which back ends give an etag, a hash or a time, the most reliable first."""
_MD5 = re.compile(r"[0-9a-f]{32}(-\d+)?")
"""An etag of S3 that is a hash of the content, as most are; encrypted objects have others."""
_AT_ONCE = 16  # concurrent requests to a web server, which cannot list files


@dataclass(frozen=True, order=True)
class Identity:
    """The identity of a file when it was listed. A change of url, size or stamp means that the content changed.

    size: bytes. stamp: the store's etag if it has one, else the time of last modification. content: a mark that, with
    the size, only this content has, under any name; "" if the storage has none that is certain. It is no part of what
    artifacts are made from.
    """

    url: str
    size: int
    stamp: str
    content: str = field(default="", compare=False, metadata={"fingerprint": False})


def exists(url: str) -> bool:
    """Whether a file or folder exists."""
    filesystem, path = resolve(url)
    with answering("list", url):
        return bool(filesystem.exists(path))


def is_folder(url: str) -> bool:
    """Whether a folder exists."""
    filesystem, path = resolve(url)
    with answering("list", url):
        return bool(filesystem.isdir(path))


def listing(url: str) -> list[Identity]:
    """The files directly in a folder, sorted by URL, by one list request; [] if there is no folder.

    A link counts as its target, because a pool may consist of links into a cache. Names that begin with a dot are left
    out.
    """
    infos = _infos(url)
    found = [_identity(join(url, name_of(info["name"])), info) for info in infos if info["type"] == "file"]
    return sorted(identity for identity in found if not name_of(identity.url).startswith("."))


def folders(url: str) -> list[str]:
    """Names of the folders directly in a folder, sorted; [] if there is no folder."""
    return sorted(name_of(info["name"]) for info in _infos(url) if info["type"] == "directory")


def _infos(url: str) -> list[dict[str, Any]]:
    """fsspec's info of each entry of a folder, with links followed; [] if there is no folder."""
    filesystem, path = resolve(url)
    try:
        with answering("list", url):
            infos = filesystem.ls(path, detail=True)
            # ls gives the modification time of a local link itself, info that of its target: the target's is needed
            return [filesystem.info(info["name"]) if _leads_somewhere(info) else info for info in infos]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _leads_somewhere(info: dict[str, Any]) -> bool:
    return bool(info.get("islink")) and os.path.exists(info["name"])


def identify(urls: Iterable[str]) -> list[Identity]:
    """The identity of each URL, in order. Cost: one list request per folder; on web servers, one request per file.

    Raises PoolError that names the URLs which are not existing files, and says what is there instead.
    """
    wanted = list(urls)
    found = _looked_up(wanted)
    lost = [f"{url}{_instead(url, found.get(url))}" for url in wanted if not isinstance(found.get(url), Identity)]
    if lost:
        raise PoolError(
            f"every shard of a pool must be an existing file, but {len(lost)} of {len(wanted)} are not: "
            f"{', '.join(lost[:3])}{' …' if len(lost) > 3 else ''}"
        )
    return [cast(Identity, found[url]) for url in wanted]


def present(urls: Iterable[str]) -> dict[str, Identity]:
    """The identities of the URLs that are existing files, by URL; requests as in `identify`."""
    return {url: found for url, found in _looked_up(list(urls)).items() if isinstance(found, Identity)}


def _looked_up(urls: list[str]) -> dict[str, Identity | str]:
    """By URL, the identity of a file, or the type of another entry such as a folder; a missing URL has no key."""
    # web servers cannot list: ask for each file, several at once. Elsewhere, one listing answers for a whole folder
    web = [url for url in dict.fromkeys(urls) if url.startswith(HTTP)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found: dict[str, Identity | str] = dict(zip(web, pool.map(identity_of, web), strict=True))
    parents = sorted({parent_of(url) for url in urls if url not in found})
    known = {(parent, name_of(info["name"])): info for parent in parents for info in _infos(parent)}
    for url in urls:
        if url not in found and (info := known.get((parent_of(url), name_of(url)))) is not None:
            found[url] = _identity(url, info) if info["type"] == "file" else info["type"]
    return found


def _instead(url: str, kind: object) -> str:
    """What is there instead of a file, in brackets. kind: type of the entry in the back end, None if there is none."""
    if kind == "directory":
        return " (a folder)"
    if not is_local(url):
        return ""
    if os.path.islink(url) and not os.path.exists(url):
        return f" (a link to {os.readlink(url)}, which does not exist)"
    if kind is not None:
        return " (neither a file nor a folder)"
    parent = parent_of(url)
    return "" if os.path.isdir(parent) else f" (there is no folder {parent})"


def identity_of(url: str) -> Identity:
    """The identity of one file, the same as `identify` gives, by one request. Raises StorageError if it is missing."""
    filesystem, path = resolve(url)
    with answering("read", url):
        info = info_of(filesystem, path) if url.startswith(S3) else filesystem.info(path)
    return _identity(url, info)


def _identity(url: str, info: dict[str, Any]) -> Identity:
    if info["size"] is None:
        raise StorageError(
            f"a server must say how many bytes a file has, but it does not for {redacted(url)}; read a copy of the file"
        )
    for name in _STAMPS:
        if info.get(name):
            # one back end gives the same time as a number in a listing and as a datetime for a single file
            stamp = info[name].timestamp() if isinstance(info[name], datetime) else info[name]
            stamp = str(stamp).strip('"')
            return Identity(url, int(info["size"]), stamp, _content(url, stamp, info))
    raise StorageError(
        f"a file must have an etag or a time, so that a change is seen, but {redacted(url)} has neither; read a copy"
    )


def _content(url: str, stamp: str, info: dict[str, Any]) -> str:
    """See Identity.content."""
    if url.startswith(S3):
        return stamp if _MD5.fullmatch(stamp) else ""
    # A local file keeps its inode and its time when it is renamed. Archives and some copies set a time of whole
    # seconds, and then another file that gets the same inode later could have the same size and time.
    if is_local(url) and not float(info["mtime"]).is_integer():
        return f"{info['ino']}-{stamp}"
    return ""


def check_distinct(files: Sequence[Identity]) -> None:
    """Raises PoolError if two names are the same local file, for example by a link: its samples would come twice."""
    # only files of equal size and time can be the same, so few need a stat call
    alike: dict[tuple[int, str], list[str]] = {}
    for file in files:
        if is_local(file.url):
            alike.setdefault((file.size, file.stamp), []).append(file.url)
    for urls in alike.values():
        first: dict[tuple[int, int], str] = {}
        for url in urls if len(urls) > 1 else []:
            there = os.stat(url)
            same = first.setdefault((there.st_dev, there.st_ino), url)
            if same != url:
                raise PoolError(
                    f"a pool must name each shard once, but {same} and {url} are the same file; leave one out"
                )
