"""Parses names of files (paths, file://, s3://, http:// …), and rejects secrets and chained storages in them.

No file is looked at here.
"""

import os
import re

from winnow.pipeline.errors import JobError, StorageError

HTTP = ("http://", "https://")
STORAGES = "a path, file://, s3://, gs://, az://, hf://, http:// and https:// will do"

_PASSWORD = re.compile(r"://[^/]*:[^/]*@|://[^/@]+:(?!\d+/)[^@]*@")  # a secret may hold slashes, a port is none
_SECRET = re.compile(
    r"(?i)[?&;]([^=&;]*(?:sig|token|secret|passw|pwd|credential|auth|jwt|session|hmac|policy|key)[^=&;]*)=[^&;]"
)
_LOCAL = re.compile(r"(?:file|local):(?://|(?=/[^/]))")
_WRAPPERS = (
    "simplecache", "filecache", "blockcache", "cached", "zip", "tar", "libarchive", "dir", "reference", "generic",
    "github", "git", "gist", "data", "asyncwrapper",
)  # fmt: skip
"""Of fsspec's back ends those that read through another one, or whose files have neither an etag nor a time."""
_CHAIN = re.compile(rf"(?:\w+://.*|{'|'.join(_WRAPPERS)})::")
_IP6 = re.compile(r"//\[[0-9a-fA-F:.]*\]")


def join(url: str, *parts: str) -> str:
    """The URL of something below `url`."""
    return "/".join([url.rstrip("/"), *parts])


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


def is_local(url: str) -> bool:
    """True for a path and for `file://`."""
    return "://" not in url or bool(_LOCAL.match(url))


def home(path: str) -> str:
    """The path with a leading `~` or `~name` as the folder it stands for; anything else as it is.

    Raises JobError where nobody has that name: the folder would be one that is called so.
    """
    if not path.startswith("~"):
        return path
    found = os.path.expanduser(path)
    if found == path:
        raise JobError(
            f"~ stands for a home folder, but nobody here is called {path.partition('/')[0][1:] or 'so'}, of {path}; "
            f"write ./{path} for what is called so itself"
        )
    return found


def absolute(url: str) -> str:
    """The URL as any process may use it: a local path from the root, `~` and `file://` resolved; any other as it is.

    Raises StorageError for a URL that `checked` refuses, and for a path that is no UTF-8; JobError as `home` does.
    """
    checked(url)
    if not is_local(url):
        return url
    path = os.path.abspath(home(_path_of(url)))
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"a path must be UTF-8, for results name it, but {path!r} is not; rename it") from error
    return path


def checked(url: str) -> None:
    """Raises StorageError for a URL that carries a password or a signature, or chains storages."""
    if url.startswith("/"):
        return
    bare = _IP6.sub("//", url)
    wrapper = next((name for name in _WRAPPERS if url.startswith(f"{name}://")), None)
    if wrapper or _CHAIN.match(bare):
        outer, last = wrapper or re.split("::|://", bare)[0], redacted(bare.rpartition("::")[2])
        said = f"goes through {outer}" if outer in _WRAPPERS else "has ::, which chains storages"
        cached = "cache" in outer and last != bare
        remedy = f"give {last} itself" if cached else "unpack or copy the files to one of these"
        raise StorageError(f"a URL must name a file of one storage, but {redacted(url)} {said}; {STORAGES}: {remedy}")
    if _PASSWORD.search(url):
        raise StorageError(
            f"a URL must carry no password, for results and logs repeat it, but that of {redacted(url)} does; "
            f"give credentials by the environment"
        )
    if url.startswith(HTTP) and (secret := _SECRET.search(url)):
        raise StorageError(
            f"a URL must carry no signature or key, for results and logs repeat it, but that of {redacted(url)} has "
            f"{secret[1]}=…; give an s3://, gs:// or az:// URL with credentials by the environment, or download it"
        )


def redacted(url: str) -> str:
    """The URL for people: without the part before an @ that may be a password, and without a query."""
    bare = url.rpartition("@")[2] if _PASSWORD.search(url) else url
    return bare.partition("?")[0] if url.startswith(HTTP) else bare


def _path_of(url: str) -> str:
    """The local path of a path or a file:// URL, which names this machine or none."""
    start = _LOCAL.match(url)
    if start is None:
        return url
    path = re.sub("^localhost/", "/", url[start.end() :])
    if not path.startswith("/"):
        raise StorageError(f"a file:// URL must go on with a path from the root, got {url}; write the path alone")
    if re.search(r"%[0-9a-fA-F]{2}", path):
        raise StorageError(f"a file is named by its path as it is, but {url} has signs as %XX; write the path alone")
    return path
