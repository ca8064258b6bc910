"""Reads the members of single samples from their byte ranges with Python's tarfile, for checks and for pictures.

This is a second opinion: copies for training shards are read by `tar_members`, which recognises more kinds of damage.
"""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from winnow.pipeline import storage
from winnow.pipeline.errors import DataError

NamedMember = tuple[str, str, bytes]
"""Key, suffix in its original case, and content of a member."""

_END = bytes(2 * tarfile.BLOCKSIZE)
_DAMAGE = (tarfile.TarError, ArithmeticError, EOFError, LookupError, ValueError)  # raised for damaged bytes


def samples_at(url: str, places: Iterable[Mapping[str, Any]]) -> Iterator[tuple[bytes, list[NamedMember] | Exception]]:
    """For each sample the bytes of its tar members, and the members, or the error if tarfile cannot read them.

    places: with key, offset, size and extra_ranges. Raises DataError if the tar ends before a sample does.
    """
    with storage.open_read(url) as file:
        length = file.seek(0, io.SEEK_END)
        for place in places:
            blocks = b"".join(_ranges(file, length, url, place))
            try:
                yield blocks, _named(blocks)
            except _DAMAGE as error:
                yield blocks, error


def _ranges(file: BinaryIO, length: int, url: str, place: Mapping[str, Any]) -> Iterator[bytes]:
    flat = [place["offset"], place["size"], *(place["extra_ranges"] or [])]
    for start, size in zip(flat[::2], flat[1::2], strict=True):
        if start < 0 or size < 0 or start + size > length:
            raise DataError(f"{url} must have {size} bytes of {place['key']} from {start} on, but ends at {length}")
        file.seek(start)
        yield file.read(size)


def _named(blocks: bytes) -> list[NamedMember]:
    whole = io.BytesIO(blocks + _END)
    found = []
    with tarfile.open(fileobj=whole, mode="r:", encoding="utf-8", errors="backslashreplace") as tar:
        for info in tar:
            folder, slash, base = info.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            found.append((folder + slash + stem, suffix, blocks[info.offset_data : info.offset_data + info.size]))
    return found
