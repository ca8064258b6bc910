"""Refuses a file that is no tar; lists the regular members of one that is, with the bytes each occupies."""

import tarfile
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ShardError

BLOCK = tarfile.BLOCKSIZE  # 512 bytes: headers and padded data are multiples of it
_LONG_NAME = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file of a tar; all numbers are bytes from the start of the shard.

    start: first byte of its headers, its own long-name and pax headers included, global pax headers not.
    data, size: the content. end: one past the padding, where the next entry starts.
    """

    name: str
    start: int
    data: int
    size: int
    end: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a tar stops being readable: the broken entry's `offset`, and its `name` if its header told."""

    offset: int
    name: str | None
    message: str


class _Broken(Exception):
    """An entry that cannot be read to its end."""

    def __init__(self, message: str, name: str | None = None) -> None:
        self.name = name
        super().__init__(message)


def list_members(view: memoryview, url: str) -> tuple[list[Member], Damage | None]:
    """Regular members in tar order, and the damage that ended the list early, if any.

    tarfile itself ends silently at a broken header and at a missing end mark; here both are damage, because
    samples may have been lost there. Directories, links and devices are passed over. Cost: one header parse
    a member, no content is read. Names that are no UTF-8 come with backslash escapes, so they stay distinct.
    Raises ShardError when not even the first header is one.
    """
    members: list[Member] = []
    offset = 0
    while True:
        try:
            entry = _entry(view, offset)
        except _Broken as broken:
            if offset == 0 and _header_is_broken(view):
                raise ShardError(
                    f"{url}: a webdataset shard must be an uncompressed tar, but {broken}; "
                    "fetch it again, or unpack it if it is compressed"
                ) from None
            return members, Damage(offset, broken.name, str(broken))
        if entry is None:
            return members, _after_the_end(view, offset)
        member, offset = entry
        if member is not None:
            members.append(member)


def _entry(view: memoryview, start: int) -> tuple[Member | None, int] | None:
    """The member at `start` (None if no regular file) and where the next entry starts; None at the end."""
    long_name: str | None = None
    pax: dict[str, str] = {}
    at = start
    while (info := _header(view, at)) is not None:
        name = pax.get("path", long_name or info.name)
        extends = info.type in (*_LONG_NAME, *_PAX, tarfile.XGLTYPE)
        size = info.size if extends else _pax_size(pax, info.size)
        data = at + BLOCK
        carries = extends or info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        end = data + -(-size // BLOCK) * BLOCK if carries else data
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise _Broken(f"the entry at byte {start} is a GNU sparse file; repack without --sparse", name)
        if size < 0 or end > len(view):
            known = None if extends else name
            raise _Broken(f"the entry at byte {start} needs bytes up to {end} of {len(view)}", known)
        if not extends:
            regular = Member(name, start, data, size, end) if info.isreg() else None
            return regular, end
        if info.type == tarfile.XGLTYPE:
            start = end if at == start else start
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            long_name = _text(bytes(view[data : data + size]).split(b"\0")[0])
        elif info.type in _PAX:
            pax = _pax_records(bytes(view[data : data + size]), start)
        at = end
    if at != start:
        raise _Broken(f"the extended header at byte {start} is followed by no member")
    return None


def _header(view: memoryview, at: int) -> tarfile.TarInfo | None:
    block = bytes(view[at : at + BLOCK])
    if block and not any(block):  # the end mark, or what is left of it
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        if not block:
            raise _Broken(f"the file ends at byte {at} without the mark that ends a tar") from None
        raise _Broken(f"the header at byte {at} is broken ({error})") from None


def _header_is_broken(view: memoryview) -> bool:
    try:
        _header(view, 0)
    except _Broken:
        return True
    return False


def _after_the_end(view: memoryview, offset: int) -> Damage | None:
    # a hole of zeros that a failed copy left looks like the end mark: what follows it tells
    if not np.frombuffer(view[offset:], np.uint8).any():
        return None
    return Damage(offset, None, f"the end mark at byte {offset} is followed by more data, of {len(view)} bytes")


def _pax_records(payload: bytes, start: int) -> dict[str, str]:
    """Records `length SP keyword = value LF` of one pax header."""
    records: dict[str, str] = {}
    while payload.strip(b"\0"):
        digits, _, rest = payload.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 20 else 0
        keyword, equals, value = rest[: max(length - len(digits) - 1, 0)].partition(b"=")
        if not equals or not value.endswith(b"\n") or length > len(payload):
            raise _Broken(f"the pax header at byte {start} is broken")
        records[_text(keyword)] = _text(value[:-1])
        payload = payload[length:]
    return records


def _pax_size(pax: dict[str, str], size: int) -> int:
    stated = pax.get("size", "")
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 20 else size


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
