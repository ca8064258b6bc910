"""Appends whole samples to a tar: byte ranges of another tar, or members.

It decodes nothing. Headers, data and padding are copied as they are, unless a member needs another name.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from winnow.pipeline.errors import ShardError
from winnow.stages.pools.tars import tar_members
from winnow.stages.results.training_members import Entry, renamed, training_key, training_members

_RECORD = tarfile.RECORDSIZE
_REGULAR = b"0\0"  # types of regular members; tarfile knows two more, which no program writes
_SUM = re.compile(rb"[0-7]{6}\0 ")
_PACK_BYTES = 256 << 10  # bytes of one write: whole pages of a file that the processor's cache still holds
_KEPT_PACKS = 4  # buffers to keep for reuse after a large sample
_END = bytes(2 * tarfile.BLOCKSIZE)


def spans_of(sample: Mapping[str, object], length: int, url: str) -> list[tuple[int, int]]:
    """The byte ranges of a sample's members in its tar: (start, stop) of each run of members, in file order.

    sample: key, offset, size and extra_ranges, as a samples file has them. length: bytes of the tar at `url`.
    Raises ShardError if the tar ends before the sample does.
    """
    extra = sample["extra_ranges"] or []
    flat = [sample["offset"], sample["size"], *cast(list[int], extra)]
    numbers = cast(list[int], flat)
    spans = [(start, start + size) for start, size in zip(numbers[::2], numbers[1::2], strict=True)]
    if any(stop > length for _, stop in spans):
        raise ShardError(f"{url} must be as long as when it was embedded, but ends before {sample['key']}; run again")
    return spans


def check_block(block: memoryview, start: int, key: str, url: str) -> None:
    """Raise ShardError unless the block, at byte `start` of its tar, begins with a member of sample `key`."""
    raw = bytes(block[: tarfile.BLOCKSIZE])
    if _names_plainly(raw, key):
        return
    try:
        header = tar_members.read_header(raw)
    except tarfile.HeaderError:
        header = None
    # a long name is in an entry of its own, before the member that it names
    if header is None or (header.type in tarfile.REGULAR_TYPES and not header.name.startswith(f"{key}.")):
        raise ShardError(f"{url} must be as it was when it was embedded, but {key} is not at {start}; run again")


def _names_plainly(raw: bytes, key: str) -> bool:
    """Whether this header certainly is a regular member of `key`; False means that tarfile must decide.

    It costs a thirtieth of tarfile, which takes as long as copying the sample.
    """
    plain = len(raw) == tarfile.BLOCKSIZE and raw.isascii() and raw[156] in _REGULAR and not raw[345]
    if not plain or not raw[:100].startswith(f"{key}.".encode()) or not _SUM.fullmatch(raw, 148, 156):
        return False
    # The low half of Adler-32 is 1 + the sum of the bytes, modulo 65521, which ASCII bytes of one header cannot reach.
    total = zlib.adler32(raw[156:], zlib.adler32(b" " * 8, zlib.adler32(raw[:148]))) & 0xFFFF
    return total == int(raw[148:154], 8) + 1


@dataclass(frozen=True)
class JudgedPair:
    """The image and caption that the cuts judged, and that training must see.

    image: suffixes of pictures; the first that a sample has was judged. caption: the judged text, if it is not the
    `.txt`. plain: whether training reads this pair from the members as they are, so that they need no check.
    """

    image: tuple[str, ...]
    caption: str | None = None
    plain: bool = False


def members_of(blocks: Sequence[memoryview], judged: JudgedPair) -> list[Entry]:
    """The members in blocks of whole tar members, under the names that training reads."""
    members = _listed(blocks)[2]
    return members if judged.plain else training_members(members, judged.image, judged.caption)


def _listed(blocks: Sequence[memoryview]) -> tuple[memoryview, list[tar_members.Member], list[Entry]]:
    """A tar of these blocks, its list of members, and the same members as suffixes with contents."""
    padded = [part for block in blocks for part in (block, bytes(-len(block) % tarfile.BLOCKSIZE))]
    whole = memoryview(b"".join([*padded, _END]))
    listed = tar_members.list_members(whole, "a sample")[0]
    suffixes = [found.name.rpartition("/")[2].partition(".")[2] for found in listed]
    contents = [bytes(whole[found.data : found.data + found.size]) for found in listed]
    return whole, listed, list(zip(suffixes, contents, strict=True))


def _tarfile_agrees(whole: memoryview, listed: Sequence[tar_members.Member]) -> bool:
    """Whether tarfile, with which training reads, finds these members in a tar; it reads some headers wrongly."""
    try:
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:", encoding="utf-8", errors="backslashreplace") as tar:
            return [(info.name, info.size) for info in tar] == [(found.name, found.size) for found in listed]
    except tarfile.TarError:
        return False


class TarShard:
    """Appends whole samples to a tar; repeated keys are renamed, because readers would merge their samples.

    samples: their number. renamed: members that got another name, so that training reads the judged pair.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self._packs = [memoryview(bytearray(_PACK_BYTES))]  # the first is written next
        self._keys: set[str] = set()
        self.samples = self.renamed = 0

    def add_blocks(self, key: str, blocks: Sequence[memoryview], judged: JudgedPair) -> None:
        """Append a sample as blocks of whole tar members: header, data and padding, copied as they are.

        If training would read another pair of it, or none, the sample is written again under other names.
        """
        fresh = self.fresh([key]) and training_key(key) == key
        if not (fresh and judged.plain):
            whole, listed, members = _listed(blocks)
            named = training_members(members, judged.image, judged.caption)
            if not (fresh and named == members and _tarfile_agrees(whole, listed)):
                self.renamed += renamed(members, named)
                self.add_members(key, named)
                return
        self._keys.add(key)
        for block in blocks:
            self._append(block)
        self.samples += 1

    def fresh(self, keys: Sequence[str]) -> bool:
        """Whether each of these keys keeps its name in this tar."""
        return self._keys.isdisjoint(keys) and len(set(keys)) == len(keys)

    def room(self, size: int, ahead: int = 0) -> list[memoryview]:
        """Buffers, in order, for `size` bytes that begin `ahead` bytes after the current end."""
        found: list[memoryview] = []
        at = self._size % _PACK_BYTES + ahead
        while size:
            number, first = divmod(at, _PACK_BYTES)
            if number == len(self._packs):
                self._packs.append(memoryview(bytearray(_PACK_BYTES)))
            found.append(self._packs[number][first : first + size])
            at, size = at + len(found[-1]), size - len(found[-1])
        return found

    def add_room(self, key: str, size: int) -> None:
        """Append a sample with a fresh key, whose block of whole tar members is already in `room(size)`."""
        self._keys.add(key)
        self._fill(size)
        self._write(bytes(-self._size % tarfile.BLOCKSIZE))
        self.samples += 1

    def add_members(self, key: str, members: Sequence[Entry]) -> None:
        """Append a sample given as (suffix, content) pairs."""
        name = key = training_key(key)
        again = 1
        while name in self._keys:
            name, again = f"{key}_{again}", again + 1
        self._keys.add(name)
        for suffix, content in members:
            header = tarfile.TarInfo(f"{name}.{suffix}")
            header.size = len(content)
            self._append(header.tobuf(tarfile.GNU_FORMAT, "utf-8") + content)
        self.samples += 1

    def finish(self) -> None:
        """Write the end of a tar: two empty blocks, padded to a whole record."""
        self._write(_END)
        self._write(bytes(-self._size % _RECORD))
        self._flush()

    def break_off(self) -> None:
        """Write a member that is cut short, so that a reader of the tar sees a failure and not an end.

        tarfile takes an end of the file between two members for the end of the tar, and a reader of a pipe may never
        see how its writer ended.
        """
        header = tarfile.TarInfo("winnow.failed")
        header.size = tarfile.BLOCKSIZE
        self._write(header.tobuf(tarfile.GNU_FORMAT))
        self._flush()

    def _append(self, block: bytes | memoryview) -> None:
        self._write(block)
        self._write(bytes(-self._size % tarfile.BLOCKSIZE))

    def _write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            [place] = self.room(min(len(left), _PACK_BYTES - self._size % _PACK_BYTES))
            place[:] = left[: len(place)]
            left = left[len(place) :]
            self._fill(len(place))

    def _fill(self, size: int) -> None:
        """Advance by `size` bytes, which are already in the buffers, and write the buffers that are full."""
        full = (self._size % _PACK_BYTES + size) // _PACK_BYTES
        for pack in self._packs[:full]:
            self._file.write(pack)
        self._packs = [*self._packs[full:], *self._packs[: min(full, _KEPT_PACKS)]]
        self._size += size

    def _flush(self) -> None:
        self._file.write(self._packs[0][: self._size % _PACK_BYTES])
