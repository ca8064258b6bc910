"""Expands the shard names of a job (globs, braces, folders, lists of URLs) to the files of a pool.

Names that begin with a dot or an underscore are hidden, as for Hadoop, Spark and Arrow: `.part-0.crc`, `_SUCCESS`,
`_temporary/`. A pattern passes them over unless it spells that sign out, and so does a folder.
"""

import glob as globbing
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from braceexpand import braceexpand

from winnow.pipeline.errors import PoolError
from winnow.pipeline.storage.backends import answering, lies_here, resolve
from winnow.pipeline.storage.listing import exists, is_folder
from winnow.pipeline.storage.opening import read_text
from winnow.pipeline.storage.places import FromFile, rooted
from winnow.pipeline.storage.text import MARK
from winnow.pipeline.storage.urls import HTTP, absolute, checked, is_local, join, parent_of, redacted

_LIST = ".txt"
_ESCAPED = re.compile(r"\[([*?[])\]")  # as glob.escape writes it
_HIDDEN = (".", "_")
_OTHER = {".tar": "webdataset", ".parquet": "parquet, datacomp, clip-retrieval and vectors"}
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif")


def expand(patterns: Iterable[str], suffix: str | None = None) -> list[str]:
    """URLs of a pool from globs, braces, URLs, folders and `.txt` lists of URLs, in their order; globs come sorted.

    Local paths become absolute, so that a pool has one name from wherever it is listed. Lines of a list are names,
    relative to the folder of the list, and no patterns; blank ones and those that begin with # are none.
    suffix: of shards, such as .tar: a folder then stands for those directly in it; None: it stays as it is.

    Raises PoolError for a pattern that matches nothing, or folders or other files beside those with the suffix; for a
    folder without shards, or with more below it; for a file that is named twice; and for a list that is not UTF-8.
    """
    urls: list[str] = []
    for pattern in patterns:
        for written in _braces(pattern):
            name, magic = _unescaped(written)
            if _path(name).endswith(_LIST):
                lists = _glob(name, None) if magic else [name]
                urls += [url for found in lists for url in _listed(found)]
            elif magic:
                urls += _glob(name, suffix)
            elif suffix is not None and _stands_for_folder(name, suffix, written == pattern):
                urls += _in_folder(absolute(name), suffix)
            else:
                urls.append(absolute(name))
    repeated = [url for url, times in Counter(urls).items() if times > 1]
    if repeated:
        raise PoolError(f"a shard may be in a pool once, but {redacted(repeated[0])} is named more often")
    return urls


def _braces(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError as error:  # braceexpand tells unbalanced braces by a kind of it
        raise PoolError(f"every brace of a pool pattern must close, got {pattern}") from error


def _path(url: str) -> str:
    """What a URL says of a file: the query of a web server's is no part of it."""
    return url.partition("?")[0] if url.startswith(HTTP) else url


def _magic(url: str) -> bool:
    return globbing.has_magic(re.sub(r"//\[[0-9a-fA-F:.]*\]", "//", _path(url)))


def _unescaped(name: str) -> tuple[str, bool]:
    """The name, and whether it is a pattern; where all that is special in it is escaped, it is the plain name."""
    if name.startswith(HTTP) or _magic(_ESCAPED.sub("", name)):
        return name, _magic(name)
    return _ESCAPED.sub(r"\1", name), False


def _listed(url: str) -> list[str]:
    lines = [line.strip(f" \t\f\v{MARK}") for line in re.split(r"\r\n|\n|\r", read_text(url, PoolError))]
    folder = posixpath.dirname(absolute(url))
    return [rooted(FromFile(line, folder)) for line in lines if line and not line.startswith("#")]


def _glob(pattern: str, suffix: str | None) -> list[str]:
    """The files that a pattern matches, sorted."""
    asked = _from_the_root(pattern)
    filesystem, path = resolve(asked)
    with answering("list", pattern):
        infos: dict[str, dict[str, object]] = filesystem.glob(path, detail=True)
    start = _before(path, asked)
    names = {start + name.lstrip("/") if start else name: info for name, info in infos.items()}
    hidden = sorted(url for url in names if _hidden(url, asked))
    there = sorted(names.keys() - set(hidden))
    here = lies_here(filesystem)  # where a link may be one to a folder
    inside = [url for url in there if (os.path.isdir(url) if here else names[url]["type"] == "directory")]
    if inside and suffix is not None and not pattern.endswith("**"):
        raise PoolError(
            f"a pool pattern must match files alone, but {pattern} matches {len(there) - len(inside)} of them and "
            f"{len(inside)} folders, such as {inside[0]}; write {join(pattern, '*' + suffix)} for what they hold"
        )
    found = there if suffix is None else sorted(set(there) - set(inside))
    if not found:
        raise PoolError(
            f"a pool pattern must match at least one file, but nothing matches {pattern}{_why(pattern, asked, hidden)}"
        )
    others = [url for url in found if suffix and not url.lower().endswith(suffix)]
    if others and len(others) < len(found):
        raise PoolError(
            f"a pool pattern must match shards alone, but {pattern} matches {len(found) - len(others)} {suffix} files "
            f"and {len(others)} others, such as {others[0]}; let it end in {suffix}"
        )
    return found


def _from_the_root(pattern: str) -> str:
    """The pattern as any process may use it; what is special in the name of the working folder is taken as it is."""
    if not is_local(pattern):
        checked(pattern)
        if _path(pattern) != pattern:
            raise PoolError(
                f"a web server lists nothing by a query, but a pattern has one: {redacted(pattern)}?…; name files"
            )
        return pattern
    here = "" if pattern.startswith(("/", "~")) or "://" in pattern else globbing.escape(os.getcwd()) + "/"
    return absolute(here + pattern)


def _before(path: str, url: str) -> str:
    """What of a URL comes before a name as its back end has it; "" where such a name is the whole URL, or a path."""
    if is_local(url):
        return ""
    bare = path.lstrip("/")
    return url.removesuffix(bare) if url.endswith(bare) else url.partition("://")[0] + "://"


def _hidden(url: str, pattern: str) -> bool:
    """True where a part that a wildcard stands for begins with a dot or an underscore that the pattern has not."""
    asked, named = pattern.split("/"), url.split("/")
    deep = next((at for at, part in enumerate(asked) if "**" in part), len(asked))
    tail = [] if any("**" in part for part in asked[deep + 1 :]) else asked[deep + 1 :]
    middle = ["*"] * (len(named) - deep - len(tail))
    pairs = zip([*asked[:deep], *middle, *tail], named, strict=False)
    return any(_magic(part) and name.startswith(_HIDDEN) and not part.startswith(name[0]) for part, name in pairs)


def _why(pattern: str, asked: str, hidden: Sequence[str]) -> str:
    """What may be the reason that nothing matches, for people."""
    if hidden:
        return f", but {len(hidden)} hidden names, such as {hidden[0]}; a pattern that means them begins with . or _"
    if pattern.startswith(HTTP):
        return "; a web server must have a page of links for a pattern: name the files, by braces"
    if exists(asked):
        meant = globbing.escape(pattern)
        return (
            f", though a file is called so: in a pattern [, * and ? stand for others; write {meant}, or list it (.txt)"
        )
    if not is_local(asked):
        return ""
    folder = asked
    while _magic(folder):
        folder = parent_of(folder)
    if not os.path.isdir(folder):
        return f"; there is no folder {folder}"
    return "" if os.access(folder, os.R_OK | os.X_OK) else f"; the folder {folder} must be readable, but is not"


def _stands_for_folder(name: str, suffix: str, plain: bool) -> bool:
    """plain: whether the name came without braces, which may stand for very many: a store is asked of each."""
    if name.startswith(HTTP):
        if _path(name).endswith("/"):
            raise PoolError(f"a web server has no folders, got {name}; name the shards, such as by braces")
        return False
    if is_local(name):
        return os.path.isdir(absolute(name))
    return name.endswith("/") or (plain and not name.lower().endswith(suffix) and is_folder(name))


def _in_folder(url: str, suffix: str) -> list[str]:
    """The shards directly in a folder, sorted."""
    names = [name for name in _below(url) if not any(part.startswith(_HIDDEN) for part in name.split("/"))]
    shards = [name for name in names if name.lower().endswith(suffix)]
    deeper = [name for name in shards if "/" in name]
    if deeper:
        raise PoolError(
            f"a folder stands for the shards directly in it, but {len(deeper)} of {len(shards)} {suffix} files in "
            f"{url} are further below, such as {deeper[0]}; write {join(url, '**/*' + suffix)} for all, or "
            f"{join(url, '*' + suffix)} for those in it"
        )
    if not shards:
        kinds = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names)
        held = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common(4)) or "no file that is not hidden"
        raise PoolError(
            f"a folder of shards must hold files that end in {suffix}, but {url} holds {held}{_remedy(kinds, suffix)}"
        )
    return sorted(join(url, name) for name in shards)


def _below(url: str) -> list[str]:
    """The names of all files in a folder and below, as they are from there."""
    filesystem, path = resolve(url)
    if lies_here(filesystem):
        walked = os.walk(path)
        return [os.path.relpath(os.path.join(folder, name), path) for folder, _, files in walked for name in files]
    with answering("list", url):
        found = filesystem.find(path)
    return [name.lstrip("/").removeprefix(path.strip("/") + "/") for name in found]


def _remedy(kinds: Counter[str], suffix: str) -> str:
    if kinds.keys() & set(_OTHER) - {suffix}:
        return f"; pool.format says which are read: {', '.join(f'{kind} by {_OTHER[kind]}' for kind in _OTHER)}"
    if ".arrow" in kinds:
        return "; a dataset that save_to_disk wrote must be written as parquet (to_parquet) to be read"
    if kinds.keys() & set(_PICTURES):
        return "; loose pictures must be packed with their captions (tar --sort=name -cf 00000.tar -C FOLDER .)"
    return "; name the shards by a pattern"
