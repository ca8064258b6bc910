"""Lists the regular members of a tar, and the damage between them.

It unpacks nothing: names are only text, links and devices are skipped, and every size is checked against the file.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from winnow.pipeline.errors import ShardError
from winnow.stages.preview.foreign import HEAD_BYTES, foreign

BLOCK = tarfile.BLOCKSIZE  # 512 bytes: headers and padded data are multiples of it
_LONG_NAME = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENDED_BYTES = 1 << 20  # most bytes of a long name or a pax header; a name has at most a few KB
_MAGIC = b"ustar"  # in every header that tar programs have written since 1988
_MAGIC_AT = 257
_NAME_BYTES = 100
_SUM = slice(148, 156)
_GNU = b"ustar  "  # where POSIX has the folder of a long name, GNU headers have other fields, such as times
_PREFIX = slice(345, 500)
_STAR_PREFIX = slice(345, 476)  # star has two times after it
_STAR_END = slice(508, 512)
_SUM_DIGITS = frozenset(b"01234567 \0")
_TIMES = {"mtime", "atime", "ctime"}  # webdataset's own writer stores these for each member
_WINDOW = 1 << 20  # bytes searched at a time
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file of a tar; all numbers are bytes from the start of the shard.

    start: first byte of its headers, its own long-name and pax headers included, global pax headers not.
    data, size: the content. end: one past the padding, where the next entry starts.
    plain: whether the whole name is in the plain header, which every program reads alike.
    """

    name: str
    start: int
    data: int
    size: int
    end: int
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes `offset` to `offset + size` of a tar, in which no member can be read.

    rest: whether the damage reaches to the end of the file. name: that of the member which the end of the file cuts, if
    its header has it.
    """

    offset: int
    size: int
    message: str
    rest: bool
    name: str | None = None


class _Broken(Exception):
    """An entry that cannot be read to its end; the next one begins at `after` or later."""

    def __init__(self, message: str, after: int, name: str | None = None) -> None:
        self.after, self.name = after, name
        super().__init__(message)


def list_members(view: memoryview, url: str) -> tuple[list[Member], list[Damage]]:
    """Regular members in tar order, and the damage between or after them, in order. Only the last can be `rest`.

    tarfile itself stops silently at a broken header and at a missing end mark. Here both are damage, because samples
    may have been lost. After damage the list goes on at the next header with a correct checksum, at any byte. If that
    header lies inside the member before it, that member is not what its header says, so it counts as damage.
    Directories, links and devices are skipped. Cost: one header parse for each member; content is searched only after
    damage. Names that are not UTF-8 get backslash escapes, so they stay distinct.
    Raises ShardError if there is no header at all, or if the file is compressed.
    """
    if kind := next((name for magic, name in _COMPRESSED.items() if view[: len(magic)] == magic), None):
        raise _no_tar(url, f"it begins like a {kind} file", lasting=True)
    members: list[Member] = []
    damage: list[Damage] = []
    offset = 0
    while True:
        try:
            entry = _entry(view, offset)
        except _Broken as found:
            broken, ended = found, False
        else:
            if entry is not None:
                member, offset = entry
                members += [] if member is None else [member]
                continue
            broken, ended = _after_the_end(view, offset), True
        following = _next_header(view, _search_from(members, offset, broken))
        if following is None:
            if ended and not np.frombuffer(view[offset:], np.uint8).any():
                return members, damage
            if not (members or damage or ended) and broken.after == 1:
                told = foreign(bytes(view[:HEAD_BYTES]))
                if told and view[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:  # with the magic it is a truncated tar
                    message = f"{url}: a webdataset shard must be an uncompressed tar, but it is {told}"
                    raise ShardError(message, lasting=True)
                raise _no_tar(url, str(broken))
            return members, [*damage, Damage(offset, len(view) - offset, str(broken), True, broken.name)]
        while members and members[-1].end > following:
            offset = members.pop().start
        damage.append(Damage(offset, following - offset, str(broken), rest=False))
        offset = following


def whole_members(block: memoryview) -> Iterator[Member]:
    """The regular members of bytes that begin and end with whole members, up to damage. Only headers are read."""
    offset = 0
    while offset < len(block):
        try:
            entry = _entry(block, offset)
        except _Broken:
            return
        if entry is None:
            return
        member, offset = entry
        if member is not None:
            yield member


def _no_tar(url: str, came: str, *, lasting: bool = False) -> ShardError:
    return ShardError(
        f"{url}: a webdataset shard must be an uncompressed tar, but {came}; "
        "fetch it again, or unpack it if it is compressed",
        lasting=lasting,
    )


def _search_from(members: list[Member], offset: int, broken: _Broken) -> int:
    """Where the search for the next header begins, after the broken entry at `offset`."""
    # if bytes are missing inside a member, the end in its header lies inside what follows, so search from its data
    header_is_broken = broken.after == offset + 1
    return members[-1].data if header_is_broken and members and members[-1].end == offset else broken.after


def _next_header(view: memoryview, start: int) -> int | None:
    """The first byte from `start` on at which a header with a correct checksum lies.

    Headers whose name is empty, looks truncated or has replaced characters are skipped, because the extended header
    with the whole name is lost.
    """
    for magic in _magics(view, start + _MAGIC_AT):
        block = bytes(view[magic - _MAGIC_AT : magic - _MAGIC_AT + BLOCK])
        name, last = block[:_NAME_BYTES], block[_NAME_BYTES - 1 :][:1]
        whole = name[:1] != b"\0" and last == b"\0" and b"?" not in name
        if whole and _SUM_DIGITS.issuperset(block[_SUM]):  # a cheap test first: a file may be full of the magic word
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
            except tarfile.HeaderError:
                continue
            return magic - _MAGIC_AT
    return None


def _magics(view: memoryview, start: int) -> Iterator[int]:
    for low in range(start, len(view), _WINDOW):
        window = bytes(view[low : low + _WINDOW + len(_MAGIC) - 1])
        at = window.find(_MAGIC)
        while at >= 0:
            yield low + at
            at = window.find(_MAGIC, at + 1)


def _entry(view: memoryview, start: int) -> tuple[Member | None, int] | None:
    """The member at `start` (None if not a regular file) and where the next entry starts; None at the end."""
    long_name: str | None = None
    pax: dict[str, str] = {}
    at = start
    while (info := _header(view, at)) is not None:
        name = pax.get("path") or long_name or info.name  # an empty pax record cancels an earlier one
        extends = info.type in (*_LONG_NAME, *_PAX, tarfile.XGLTYPE)
        size = info.size if extends else _pax_size(pax, info.size)
        data = at + BLOCK
        carries = extends or info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        end = data + -(-size // BLOCK) * BLOCK if carries else data
        if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in pax):
            raise _Broken(f"the entry at byte {start} is a sparse file; repack without --sparse", at + BLOCK, name)
        if size < 0 or end > len(view):
            known = None if extends else name
            raise _Broken(f"the entry at byte {start} needs bytes up to {end} of {len(view)}", at + BLOCK, known)
        if not extends:
            plain = long_name is None and pax.keys() <= _TIMES and not view[at + _PREFIX.start]
            return (Member(name, start, data, size, end, plain) if info.isreg() else None), end
        if size > _EXTENDED_BYTES:
            message = f"the extended header at byte {at} must have at most {_EXTENDED_BYTES} bytes, but has {size}"
            raise _Broken(message, end + 1)
        if info.type == tarfile.XGLTYPE:
            start = end if at == start else start
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            long_name = _until_nul(bytes(view[data : data + size]))
        elif info.type in _PAX:
            pax = _pax_records(bytes(view[data : data + size]), start, end + 1)
        at = end
    if at != start:
        raise _Broken(f"the extended header at byte {start} is followed by no member", at + 1)
    return None


def _header(view: memoryview, at: int) -> tarfile.TarInfo | None:
    block = bytes(view[at : at + BLOCK])
    if block and not any(block):  # the end mark, or a part of it
        return None
    try:
        return read_header(block)
    except tarfile.HeaderError as error:
        if not block:
            raise _Broken(f"the file ends at byte {at} without the mark that ends a tar", at + 1) from None
        raise _Broken(f"the header at byte {at} is broken ({error})", at + 1) from None


def read_header(block: bytes) -> tarfile.TarInfo:
    """A header with the name as tar and libarchive read it; tarfile reads the names of some headers wrongly.

    Only POSIX headers have the folder of a long name after the other fields. There, GNU headers have times (`tar
    --incremental`), and headers of 1979 have nothing. tarfile takes anything in that place for a folder.
    Raises tarfile.HeaderError for a block that is not a header.
    """
    info = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    magic = block[_MAGIC_AT : _MAGIC_AT + len(_GNU)]
    posix = magic.startswith(_MAGIC) and magic != _GNU
    star = posix and block[_STAR_END] == b"tar\0"
    if block[_PREFIX.start] and (star or not posix):
        name = _until_nul(block[:_NAME_BYTES])
        info.name = f"{_until_nul(block[_STAR_PREFIX])}/{name}" if star else name
    return info


def _until_nul(raw: bytes) -> str:
    return _text(raw.partition(b"\0")[0])


def _after_the_end(view: memoryview, offset: int) -> _Broken:
    # a failed copy can leave a hole of zeros, which looks like the end mark but is followed by more data
    message = f"the end mark at byte {offset} is followed by more data, of {len(view)} bytes"
    return _Broken(message, offset + BLOCK)


def _pax_records(payload: bytes, start: int, after: int) -> dict[str, str]:
    """Records `length SP keyword = value LF` of one pax header."""
    records: dict[str, str] = {}
    payload = payload.rstrip(b"\0")
    at = 0
    while at < len(payload):
        digits, _, _ = payload[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 20 else 0
        record = payload[at + len(digits) + 1 : at + length]
        keyword, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or at + length > len(payload):
            raise _Broken(f"the pax header at byte {start} is broken", after)
        records[_text(keyword)] = _text(value[:-1])
        at += length
    return records


def _pax_size(pax: dict[str, str], size: int) -> int:
    stated = pax.get("size", "")
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 20 else size


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
