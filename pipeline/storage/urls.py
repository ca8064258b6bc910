"""Parses names of files (paths, file://, s3://, http:// …), and rejects secrets and chained storages in them.

Works on text alone: no file is opened or listed.
"""

import os
import re

from winnow.pipeline.errors import JobError, StorageError

HTTP = ("http://", "https://")
STORAGES = "a path, file://, s3://, gs://, az://, hf://, http:// and https:// will do"

_PASSWORD = re.compile(r"://[^/]*:[^/]*@|://[^/@]+:(?!\d+/)[^@]*@")  # a password may hold slashes; ports do not match
_SECRET = re.compile(
    r"(?i)[?&;]([^=&;]*(?:sig|token|secret|passw|pwd|credential|auth|jwt|session|hmac|policy|key)[^=&;]*)=[^&;]"
)
_LOCAL = re.compile(r"(?:file|local):(?://|(?=/[^/]))")
_WRAPPERS = (
    "simplecache", "filecache", "blockcache", "cached", "zip", "tar", "libarchive", "dir", "reference", "generic",
    "github", "git", "gist", "data", "asyncwrapper",
)  # fmt: skip
"""fsspec back ends that are refused: they read through another one, or their files have neither an etag nor a time."""
_CHAIN = re.compile(rf"(?:\w+://.*|{'|'.join(_WRAPPERS)})::")
_IP6 = re.compile(r"//\[[0-9a-fA-F:.]*\]")


def join(url: str, *parts: str) -> str:
    """The URL of an entry below `url`."""
    return "/".join([url.rstrip("/"), *parts])


def name_of(url: str) -> str:
    """The last part of a URL."""
    return url.rstrip("/").rsplit("/", 1)[-1]


def parent_of(url: str) -> str:
    """The folder that a URL lies in; "." for a bare file name."""
    head, _, _ = url.rstrip("/").rpartition("/")
    return head or ("/" if url.startswith("/") else ".")


def is_shared(url: str) -> bool:
    """Whether other processes can see the storage; False for `memory://`."""
    return not url.startswith("memory://")


def is_local(url: str) -> bool:
    """True for a path and for `file://`."""
    return "://" not in url or bool(_LOCAL.match(url))


def home(path: str) -> str:
    """The path with a leading `~` or `~name` expanded to the home folder; any other text unchanged.

    Raises JobError for an unknown user; the path would otherwise mean a folder with the literal name `~name`.
    """
    if not path.startswith("~"):
        return path
    found = os.path.expanduser(path)
    if found == path:
        raise JobError(
            f"~ must stand for the home folder of a user of this machine, but {path.partition('/')[0]} has none, got "
            f"{path}; write ./{path} for a file with this name"
        )
    return found


def absolute(url: str) -> str:
    """A URL that means the same in every process: a local path becomes absolute, with `~` and `file://` resolved.

    Other URLs stay unchanged. Raises StorageError for a URL that `checked` refuses and for a path that is not UTF-8,
    and the JobError of `home`.
    """
    checked(url)
    if not is_local(url):
        return url
    path = os.path.abspath(home(_path_of(url)))
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"a path must be UTF-8, because results name it, but {path!r} is not; rename it") from error
    return path


def checked(url: str) -> None:
    """Raises StorageError for a URL that holds a password or a signature, or that chains storages."""
    if url.startswith("/"):
        return
    bare = _IP6.sub("//", url)  # the :: of an IPv6 address is no chain
    wrapper = next((name for name in _WRAPPERS if url.startswith(f"{name}://")), None)
    if wrapper or _CHAIN.match(bare):
        outer, last = wrapper or re.split("::|://", bare)[0], redacted(bare.rpartition("::")[2])
        said = f"goes through {outer}" if outer in _WRAPPERS else "has ::, which chains storages"
        cached = "cache" in outer and last != bare
        remedy = f"give {last} itself" if cached else "unpack or copy the files to one of these"
        raise StorageError(f"a URL must name a file of one storage, but {redacted(url)} {said}; {STORAGES}: {remedy}")
    if _PASSWORD.search(url):
        raise StorageError(
            f"a URL must carry no password, because results and logs repeat it, but {redacted(url)} does; "
            f"give credentials in the environment"
        )
    if url.startswith(HTTP) and (secret := _SECRET.search(url)):
        raise StorageError(
            f"a URL must carry no signature or key, because results and logs repeat it, but {redacted(url)} has "
            f"{secret[1]}=…; give an s3://, gs:// or az:// URL with credentials in the environment, or download it"
        )


def redacted(url: str) -> str:
    """The URL for messages: without any password before an @, and on web servers without the query."""
    bare = url.rpartition("@")[2] if _PASSWORD.search(url) else url
    return bare.partition("?")[0] if url.startswith(HTTP) else bare


def _path_of(url: str) -> str:
    """The local path of a path or a file:// URL. The host of the URL must be empty or localhost."""
    start = _LOCAL.match(url)
    if start is None:
        return url
    path = re.sub("^localhost/", "/", url[start.end() :])
    if not path.startswith("/"):
        raise StorageError(f"a file:// URL must have an absolute path, got {url}; write only the path")
    # %20 could mean a space or the three characters: refuse rather than guess
    if re.search(r"%[0-9a-fA-F]{2}", path):
        raise StorageError(f"a file:// URL must have no %XX escapes, got {url}; write only the path")
    return path
