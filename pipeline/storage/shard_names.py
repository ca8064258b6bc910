"""Expands the shard names of a job (globs, braces, folders, lists of URLs) to the files of a pool.

Names that begin with a dot or an underscore are hidden, as in Hadoop, Spark and Arrow: `.part-0.crc`, `_SUCCESS`,
`_temporary/`. Patterns and folders skip hidden names, unless the pattern itself spells out the dot or underscore.
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


def expand(patterns: Iterable[str], suffix: str | None = None, lists: bool = True) -> list[str]:
    """The URLs of a pool, from globs, braces, URLs, folders and `.txt` lists of URLs.

    The order is that of the patterns; the matches of one glob are sorted. Local paths become absolute, so that a pool
    has the same URLs from every working directory. Each line of a list is a name, relative to the folder of the list,
    and not a pattern. Blank lines and lines that begin with # are skipped.
    suffix: suffix of shards, such as .tar. A folder then stands for the shards directly in it; with None, a folder's
    URL is returned unchanged. lists: whether a `.txt` file lists URLs; else it is a file as any other.

    Raises PoolError for a pattern that matches nothing, that matches folders, or that matches other files beside
    shards; for a folder without shards or with shards in subfolders; for a file that is named twice; and for a list
    that is not UTF-8.
    """
    urls: list[str] = []
    for pattern in patterns:
        for written in _braces(pattern):
            name, magic = _unescaped(written)
            if lists and _path(name).endswith(_LIST):
                named = _glob(name, None) if magic else [name]
                urls += [url for found in named for url in _listed(found)]
            elif magic:
                urls += _glob(name, suffix)
            elif suffix is not None and _stands_for_folder(name, suffix, written == pattern):
                urls += _in_folder(absolute(name), suffix)
            else:
                urls.append(absolute(name))
    repeated = [url for url, times in Counter(urls).items() if times > 1]
    if repeated:
        raise PoolError(
            f"a pool must name each shard once, but {redacted(repeated[0])} is named more than once; name it once"
        )
    return urls


def _braces(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError as error:  # braceexpand raises a subclass for unbalanced braces
        raise PoolError(f"every brace of a pool pattern must close, got {pattern}") from error


def _path(url: str) -> str:
    """The URL without the query of a web server, in which ? and * mean nothing."""
    return url.partition("?")[0] if url.startswith(HTTP) else url


def _magic(url: str) -> bool:
    return globbing.has_magic(re.sub(r"//\[[0-9a-fA-F:.]*\]", "//", _path(url)))


def _unescaped(name: str) -> tuple[str, bool]:
    """(name, whether it is a pattern). If every special character is escaped, the name comes without the escapes."""
    # without its escaped characters, is anything special left?
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
    # back ends return names without the scheme, some with a leading slash: make URLs of them again
    start = _before(path, asked)
    names = {start + name.lstrip("/") if start else name: info for name, info in infos.items()}
    hidden = sorted(url for url in names if _hidden(url, asked))
    there = sorted(names.keys() - set(hidden))
    here = lies_here(filesystem)  # locally, fsspec does not say whether a link leads to a folder
    inside = [url for url in there if (os.path.isdir(url) if here else names[url]["type"] == "directory")]
    if inside and suffix is not None and not pattern.endswith("**"):
        raise PoolError(
            f"a pool pattern must match files only, but {pattern} matches {len(there) - len(inside)} files and "
            f"{len(inside)} folders, such as {inside[0]}; write {join(pattern, '*' + suffix)} for the files in them"
        )
    found = there if suffix is None else sorted(set(there) - set(inside))
    if not found:
        raise PoolError(
            f"a pool pattern must match at least one file, but nothing matches {pattern}{_why(pattern, asked, hidden)}"
        )
    others = [url for url in found if suffix and not url.lower().endswith(suffix)]
    if others and len(others) < len(found):
        raise PoolError(
            f"a pool pattern must match shards only, but {pattern} matches {len(found) - len(others)} {suffix} files "
            f"and {len(others)} others, such as {others[0]}; end the pattern in {suffix}"
        )
    return found


def _from_the_root(pattern: str) -> str:
    """The pattern as an absolute one, with special characters in the name of the working directory escaped."""
    if not is_local(pattern):
        checked(pattern)
        if _path(pattern) != pattern:
            raise PoolError(
                f"a pattern for a web server must have no query, got {redacted(pattern)}?…; name the files instead"
            )
        return pattern
    here = "" if pattern.startswith(("/", "~")) or "://" in pattern else globbing.escape(os.getcwd()) + "/"
    return absolute(here + pattern)


def _before(path: str, url: str) -> str:
    """The part of a URL that its back end leaves out of names, such as s3://; "" if names are whole URLs or paths."""
    if is_local(url):
        return ""
    bare = path.lstrip("/")
    return url.removesuffix(bare) if url.endswith(bare) else url.partition("://")[0] + "://"


def _hidden(url: str, pattern: str) -> bool:
    """True if a wildcard matches a part of the URL that begins with a dot or an underscore."""
    asked, named = pattern.split("/"), url.split("/")
    # ** matches any number of parts: stretch it to as many * as there are parts between the fixed head and tail
    deep = next((at for at, part in enumerate(asked) if "**" in part), len(asked))
    # after a second ** no part of the pattern has a fixed place, so all the rest counts as *
    tail = [] if any("**" in part for part in asked[deep + 1 :]) else asked[deep + 1 :]
    middle = ["*"] * (len(named) - deep - len(tail))
    pairs = zip([*asked[:deep], *middle, *tail], named, strict=False)
    return any(_magic(part) and name.startswith(_HIDDEN) and not part.startswith(name[0]) for part, name in pairs)


def _why(pattern: str, asked: str, hidden: Sequence[str]) -> str:
    """The likely reason that nothing matches, as the end of an error message."""
    if hidden:
        return f" except {len(hidden)} hidden names, such as {hidden[0]}; to match them, begin the name with . or _"
    if pattern.startswith(HTTP):
        return "; a pattern needs a web server that has a page of links: name the files instead, with braces"
    if exists(asked):
        meant = globbing.escape(pattern)
        return f", although a file has this name, because [, * and ? are wildcards; write {meant}, or list it (.txt)"
    if not is_local(asked):
        return ""
    # the deepest folder of the pattern without a wildcard
    folder = asked
    while _magic(folder):
        folder = parent_of(folder)
    if not os.path.isdir(folder):
        return f"; there is no folder {folder}"
    return "" if os.access(folder, os.R_OK | os.X_OK) else f"; the folder {folder} is not readable; change its mode"


def _stands_for_folder(name: str, suffix: str, plain: bool) -> bool:
    """Whether a name is that of a folder. plain: False for a name from braces; a request for each would be too many."""
    if name.startswith(HTTP):
        if _path(name).endswith("/"):
            raise PoolError(f"a web server has no folders, got {name}; name the shards, for example with braces")
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
            f"a folder must hold its shards directly, but {len(deeper)} of {len(shards)} {suffix} files in {url} are "
            f"in subfolders, such as {deeper[0]}; write {join(url, '**/*' + suffix)} for all of them, or "
            f"{join(url, '*' + suffix)} for those directly in it"
        )
    if not shards:
        kinds = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names)
        held = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common(4)) or "no visible file"
        raise PoolError(
            f"a folder of shards must hold files that end in {suffix}, but {url} holds {held}{_remedy(kinds, suffix)}"
        )
    return sorted(join(url, name) for name in shards)


def _below(url: str) -> list[str]:
    """The paths of all files in a folder and its subfolders, relative to the folder."""
    filesystem, path = resolve(url)
    if lies_here(filesystem):
        walked = os.walk(path)
        return [os.path.relpath(os.path.join(folder, name), path) for folder, _, files in walked for name in files]
    with answering("list", url):
        found = filesystem.find(path)
    return [name.lstrip("/").removeprefix(path.strip("/") + "/") for name in found]


def _remedy(kinds: Counter[str], suffix: str) -> str:
    if kinds.keys() & set(_OTHER) - {suffix}:
        return f"; set pool.format to what the files are: {', '.join(f'{_OTHER[kind]} for {kind}' for kind in _OTHER)}"
    if ".arrow" in kinds:
        return "; save_to_disk wrote this dataset in another format: write it as parquet (to_parquet)"
    if kinds.keys() & set(_PICTURES):
        return "; pack loose pictures with their captions into tars (tar --sort=name -cf 00000.tar -C FOLDER .)"
    return "; name the shards by a pattern"
