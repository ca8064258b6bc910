"""Makes the file names of a job absolute: those of a job file from its folder, all others from the working directory.

The type of an option says that it names files: `File`, `Files`, or another `Annotated` type with a FileName.
"""

import dataclasses
import glob as globbing
import os
import posixpath
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from braceexpand import braceexpand

from winnow.pipeline.errors import JobError, StorageError
from winnow.pipeline.storage.urls import absolute, home, is_local, join

_ROOTED = ("/", "~", "file:", "local:")


class FromFile(str):
    """A text from a job file that remembers where it came from. folder: of the job file, a path or a URL."""

    folder: str

    def __new__(cls, text: str, folder: str) -> "FromFile":
        """The same text, with the folder attached."""
        made = super().__new__(cls, text)
        made.folder = folder
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """Arguments for copy and pickle, so that a copy keeps its folder."""
        return str(self), self.folder


def from_file(value: Any, path: str) -> Any:
    """The plain values of the job file `path`, each text with the folder of that file attached.

    A pipe such as /dev/stdin has no folder, so its texts stay unchanged.
    """
    if is_local(path):
        path = absolute(path)
        if not os.path.isfile(path):
            return value
    return _from_folder(value, posixpath.dirname(path))


def _from_folder(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _from_folder(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_folder(item, folder) for item in value]
    return FromFile(value, folder) if isinstance(value, str) else value


def rooted(text: str, prefix: str = "") -> str:
    """The absolute name of one file or folder, valid in every process; "" stays unchanged.

    prefix: text before the name, such as local-dir:, which is kept. Raises the errors of `absolute`.
    """
    name = str(text).removeprefix(prefix)
    if name and is_local(name) and not name.startswith(_ROOTED):
        name = _below(_folder(text), name)
    return prefix + (absolute(name) if name else "")


def rooted_pattern(text: str) -> str:
    """A pattern for `expand` that means the same in every working directory; "", URLs and absolute patterns stay.

    Special characters in the name of the folder, such as [ or {, are escaped. Raises JobError if some alternatives of a
    pattern are absolute and others are relative, and the errors of `home`.
    """
    pattern = str(text)
    if not pattern or not is_local(pattern) or pattern.startswith(_ROOTED):
        return home(pattern)
    if pattern.startswith("{") and (absolute_ones := _absolute_alternatives(pattern)) is not None:
        if absolute_ones:
            return pattern
        raise JobError(
            f"alternatives must all be absolute or all be relative, but {pattern} has both; write two patterns"
        )
    folder = _folder(text)
    if not is_local(folder):
        return _below(folder, pattern)
    # escape the folder for glob first, then for braceexpand, because `expand` undoes them in the other order
    return _below(re.sub(r"([\\{}])", r"\\\1", globbing.escape(folder)), pattern)


def _absolute_alternatives(pattern: str) -> bool | None:
    """True if all alternatives of a pattern are absolute, False if only some are, None if none is."""
    try:
        found = {name.startswith(_ROOTED) or not is_local(name) for name in braceexpand(pattern)}
    except ValueError:  # unbalanced braces: `expand` raises the error
        return None
    return None if found == {False} else found == {True}


def _folder(text: str) -> str:
    return text.folder if isinstance(text, FromFile) else os.getcwd()


def _below(folder: str, name: str) -> str:
    """The URL of a name in a folder, with ./ and ../ at the start of the name resolved."""
    # by hand: a URL is no path, and .. behind the first other part may follow a link
    while name in (".", "..") or name.startswith(("./", "../")):
        first, _, name = name.partition("/")
        if first == "..":
            folder = posixpath.dirname(folder.rstrip("/")) or "/"
    return join(folder, name) if name else folder


@dataclass(frozen=True)
class FileName:
    """Marks the type of an option that names files. root: makes one name absolute."""

    root: Callable[[str], str]

    def of(self, value: Any) -> Any:
        """A text or a list of texts, made absolute. Any other value stays unchanged; type checks come later."""
        if isinstance(value, str):
            return self.root(value)
        if isinstance(value, list | tuple):
            return [self.of(item) for item in value]
        return value


@dataclass(frozen=True, eq=False)  # hashable by identity: `|` of types hashes it, and a dict in `kind` has no hash
class OptionsOf:
    """Marks plain values that are the options of a dataclass, or of several dataclasses by key."""

    kind: Any


File = Annotated[str, FileName(rooted)]
"""The type of an option that names one file or folder."""

Files = Annotated[str | tuple[str, ...], FileName(rooted_pattern)]
"""The type of an option that names files by patterns of `expand`."""


def placed(kind: Any, value: Any) -> Any:
    """Plain values for a type, with all file names made absolute. Values that do not fit the type stay unchanged.

    kind: a dataclass, or a type built from dataclasses by Annotated, |, tuple and dict. Raises JobError for a name that
    cannot be made absolute.
    """
    try:
        return _placed(kind, value)
    except StorageError as error:
        raise JobError(str(error)) from error


def _placed(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        for mark in inner[1:]:
            if isinstance(mark, FileName):
                return mark.of(value)
            if isinstance(mark, OptionsOf):
                return _placed(mark.kind, value)
        return _placed(inner[0], value)
    if origin in (Union, types.UnionType):
        # each member changes only what fits it
        for one in inner:
            value = _placed(one, value)
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return [_placed(inner[0], item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if origin is dict or isinstance(kind, Mapping):
        kinds = kind if isinstance(kind, Mapping) else dict.fromkeys(value, inner[1])
        return {key: _placed(kinds.get(key), item) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        kinds = _kinds_of(kind)
        return {key: _placed(kinds.get(key), item) for key, item in value.items()}
    return value


def _kinds_of(kind: Any) -> dict[str, Any]:
    """The type of each field of a dataclass, by the field's name in job files (its alias, if it has one)."""
    described = getattr(kind, "__pydantic_fields__", {})
    hints = get_type_hints(kind, include_extras=True)
    return {getattr(described.get(name), "alias", None) or name: hint for name, hint in hints.items()}
