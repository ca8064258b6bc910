"""Appends whole samples to a tar, as byte ranges of another tar or as members; refuses bytes that are not the sample's.

Nothing is decoded: headers, data and padding go over as they are, wherever nothing has to be renamed.
"""

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, cast

from pipeline.errors import ShardError
from stages.formats.tar_members import list_members

Member = tuple[str, bytes]
"""Suffix and content."""

_RECORD = tarfile.RECORDSIZE
_END = bytes(2 * tarfile.BLOCKSIZE)


def spans_of(sample: Mapping[str, object], length: int, url: str) -> list[tuple[int, int]]:
    """Where a sample's members lie in its tar: (start, stop) bytes of each run of them, in the order of the file.

    sample: key, offset, size and extra_ranges, as an embeddings file has them. length: bytes of the tar at `url`.
    Raises ShardError where the tar ends before the sample does.
    """
    extra = sample["extra_ranges"] or []
    flat = [sample["offset"], sample["size"], *cast(list[int], extra)]
    numbers = cast(list[int], flat)
    spans = [(start, start + size) for start, size in zip(numbers[::2], numbers[1::2], strict=True)]
    if any(stop > length for _, stop in spans):
        raise ShardError(f"{url} must be as long as when it was embedded, but ends before {sample['key']}; run again")
    return spans


def check_block(block: memoryview, start: int, key: str, url: str) -> None:
    """Raises ShardError unless a member of sample `key` begins the block, which lies at byte `start` of its tar."""
    try:
        header = tarfile.TarInfo.frombuf(bytes(block[: tarfile.BLOCKSIZE]), "utf-8", "backslashreplace")
    except tarfile.HeaderError:
        header = None
    # a long name stands in a member of its own before the one that it names
    if header is None or (header.type in tarfile.REGULAR_TYPES and not header.name.startswith(f"{key}.")):
        raise ShardError(f"{url} must be as it was when it was embedded, but {key} is not at {start}; run again")


def members_of(blocks: Sequence[memoryview], caption: str | None) -> list[Member]:
    """The members in blocks of whole tar members.

    caption: where it is not the `.txt`, the text that becomes it, in place of one that says something else: training
        reads that member, and must see the caption that the cuts judged.
    """
    found = [member for block in blocks for member in _members(block)]
    if caption is None:
        return found
    return [*((suffix, content) for suffix, content in found if suffix.lower() != "txt"), ("txt", caption.encode())]


def _members(block: memoryview) -> Iterator[Member]:
    whole = memoryview(bytes(block) + _END)
    for member in list_members(whole, "a sample")[0]:
        suffix = member.name.rpartition("/")[2].partition(".")[2]
        yield suffix, bytes(whole[member.data : member.data + member.size])


class TarShard:
    """Appends whole samples to a tar; keys that come again in it are renamed, for readers would merge them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self._keys: set[str] = set()
        self.samples = 0

    def add_ranges(self, key: str, blocks: Sequence[memoryview], caption: str | None) -> None:
        """A sample as blocks of whole tar members, header, data and padding, which are copied as they are.

        caption: as for members_of.
        """
        if key in self._keys or caption is not None:
            self.add_members(key, members_of(blocks, caption))
            return
        self._keys.add(key)
        for block in blocks:
            self._append(block)
        self.samples += 1

    def add_members(self, key: str, members: Sequence[Member]) -> None:
        """A sample as (suffix, content) pairs."""
        name, again = key, 1
        while name in self._keys:
            name, again = f"{key}_{again}", again + 1
        self._keys.add(name)
        for suffix, content in members:
            header = tarfile.TarInfo(f"{name}.{suffix}")
            header.size = len(content)
            self._append(header.tobuf(tarfile.GNU_FORMAT) + content)
        self.samples += 1

    def finish(self) -> None:
        """The end of a tar: two empty blocks, filled up to a whole record."""
        self._write(_END)
        self._write(bytes(-self._size % _RECORD))

    def break_off(self) -> None:
        """A member that is cut short: whoever reads the tar to here sees that it failed, and did not just end.

        tarfile takes an end of the file between two members for the end of the tar, and a reader of a pipe may never
        see how its writer ended.
        """
        header = tarfile.TarInfo("winnow.failed")
        header.size = tarfile.BLOCKSIZE
        self._write(header.tobuf(tarfile.GNU_FORMAT))

    def _append(self, block: bytes | memoryview) -> None:
        self._write(block)
        self._write(bytes(-self._size % tarfile.BLOCKSIZE))

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._size += len(data)
