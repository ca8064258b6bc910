"""Renames members of a kept sample so that open_clip's loader reads exactly the judged pair.

The loader takes the first of jpg, png, jpeg, webp, and `txt`. webdataset decodes every member whose suffix it knows,
and drops the sample if one fails. So the judged picture gets a suffix that the loader takes, and members that it
would take first, or that do not decode, get `.bin` after their name, which nothing decodes.
"""

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from numpy.lib import format as npy

from winnow.pipeline.errors import SampleError

Entry = tuple[str, bytes]
"""Suffix and content."""

PICTURES = ("jpg", "png", "jpeg", "webp")
"""Suffixes that the loader takes for the picture. If a sample has several, it takes the first in this list."""

CAPTION = "txt"
"""The suffix that it takes for the caption."""

ASIDE = ".bin"
"""Suffix added to the name of a member that would mislead the loader."""

_IMAGES = """
apng blp bmp bufr bw cur dcx dds dib emf eps fit fits flc fli ftc ftu gbr gif grib h5 hdf icb icns ico iim im j2c
j2k jfif jp2 jpc jpe jpeg jpf jpg jpx mpeg mpg msp pbm pcd pcx pgm png pnm ppm ps psd pxr ras rgb rgba sgi tga tif
tiff vda vst webp wmf xbm xpm
"""

IMAGES = frozenset(_IMAGES.split())
"""Last parts of suffixes that webdataset opens as pictures, whatever the content is."""

UNSHOWN = frozenset(("cbor", "mp", "msg", "pickle", "pth", "pyd", "tb", "ten"))
"""Suffixes that it decodes by running code, or with packages that may be missing, so success is unknown."""

_UNPACKED_BYTES = 1 << 24  # most bytes to unpack from gzip; a larger file counts as not decodable
_FAILED = (ValueError, RecursionError, EOFError, OSError, SampleError, zlib.error, zipfile.BadZipFile)


def training_members(members: Sequence[Entry], image: Sequence[str], caption: str | None) -> list[Entry]:
    """The members of a sample under the names that training reads; the same list where nothing has to be renamed.

    image: suffixes in lower case; the first that a member has is the judged picture. caption: the judged text, if it is
    not a member; it becomes the `txt` and replaces one with another text.
    """
    names = [suffix.lower() for suffix, _ in members]
    judged = next((suffix for suffix in image if suffix in names), None)
    before = PICTURES[: PICTURES.index(judged)] if judged in PICTURES else PICTURES[:1]
    found: list[Entry] = []
    for name, (suffix, content) in zip(names, members, strict=True):
        if name == judged:
            found.append((suffix if name in PICTURES else PICTURES[0], content))
        elif name == CAPTION and caption is not None:
            found += [(suffix, content)] if content == caption.encode() else []
        elif name == CAPTION or (name not in before and decodes(name, content)):
            found.append((suffix, content))
        else:
            found.append((_unused(suffix, names), content))
    if caption is not None and CAPTION not in [suffix.lower() for suffix, _ in found]:
        found.append((CAPTION, caption.encode()))
    return found


def renamed(before: Sequence[Entry], after: Sequence[Entry]) -> int:
    """The number of renamed members; a caption that was added does not count."""
    return sum(member not in before for member in after if member[0].lower() != CAPTION)


def training_key(key: str) -> str:
    """The key under which webdataset reads a sample: the same, except for the few that it skips.

    It reserves folders called `__…__`, and finds no key after a line break in a path.
    """
    if not key.startswith("__") and "\n" not in key:
        return key
    passed_over = re.match(r"__[^/]*__/", key) or not re.match(r"(?:.*/|)[^.]+$", key)  # its own rules
    return "./" + key.replace("\n", "_") if passed_over else key


def decodes(name: str, content: bytes) -> bool:
    """Whether webdataset keeps a sample with this member: the member decodes, or has no decoder.

    name: its suffix in small letters.
    """
    if name.startswith("__"):  # webdataset's own names
        return False
    kind = name.rpartition(".")[2]
    try:
        if kind == "gz":
            return decodes(name[:-3], _unpacked(content))
        if kind in UNSHOWN:
            return False
        if kind in IMAGES:
            _opened(content)
        elif kind in DECODERS:
            DECODERS[kind](content)
    except _FAILED:
        return False
    return True


def _unused(suffix: str, names: Sequence[str]) -> str:
    aside = suffix + ASIDE
    while aside.lower() in names:
        aside += ASIDE
    return aside


def _unpacked(content: bytes) -> bytes:
    with gzip.open(io.BytesIO(content)) as file:
        found = file.read(_UNPACKED_BYTES + 1)
    if len(found) > _UNPACKED_BYTES:
        raise ValueError("too large to be looked at")
    return found


def _opened(content: bytes) -> None:
    # PIL takes a while to import, and most samples have one picture
    from winnow.stages.encoders.pixels.opening import open_image

    with open_image(content) as image:
        image.load()
        image.convert("RGB")


def _text(content: bytes) -> None:
    content.decode("utf-8")


def _array(content: bytes) -> None:
    """Raise ValueError if numpy cannot read it without pickle, or if numbers are missing."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError("a version with names of fields that are no Latin-1")
    shape, _, dtype = readers[version](file)
    size = dtype.itemsize
    for side in shape:
        size *= side
    if dtype.hasobject or size > len(content) - file.tell():
        raise ValueError("a pickle, or cut off")


def _arrays(content: bytes) -> None:
    if content.startswith(npy.MAGIC_PREFIX):  # numpy goes by what is in the file
        _array(content)
    elif content.startswith((b"PK\3\4", b"PK\5\6")):
        zipfile.ZipFile(io.BytesIO(content)).close()
    else:
        raise ValueError("no archive")


DECODERS: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(("txt", "text", "transcript"), _text),
    **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), int),
    **dict.fromkeys(("json", "jsn"), json.loads),
    "npy": _array,
    "npz": _arrays,
}
"""For each other suffix, a check that webdataset can decode the content; it raises if not."""
