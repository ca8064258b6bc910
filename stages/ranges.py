"""Reads the samples of a tar from where they lie, and refuses what is no longer there; writes no file.

Reading over a gap and asking again behind it are one choice, made for every gap: the whole shard is read where all gaps
are small, and ranges of it where they are large.
"""

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.columns import column
from pipeline.errors import ShardError
from stages.formats import ImageReader, Parquet, Webdataset
from stages.tar_shard import TarShard, check_block, spans_of

LOCAL_GAP_BYTES = 64 << 10
"""A gap up to this is read over in a file: a guess, about what a system reads ahead by itself (docs/loading.md)."""

REMOTE_GAP_BYTES = 1 << 20
"""The same in an object store: one more request takes some 20 ms, in which a connection brings about a MiB."""

_LOCAL_PIECE_BYTES = 256 << 10  # of one read, which the processor's cache still holds when it is written
_TOLD_AHEAD = 4  # such reads, for a disk that has them to fetch
_REMOTE_PIECE_BYTES = 8 << 20  # and another is under way; a sample that is larger is read whole


@dataclass(frozen=True, slots=True)
class Read:
    """One read: bytes `start` to `stop` of a shard, which hold the spans `first` to `last - 1`."""

    start: int
    stop: int
    first: int
    last: int


def plan_reads(spans: Sequence[tuple[int, int]], gap_bytes: int, piece_bytes: int = _REMOTE_PIECE_BYTES) -> list[Read]:
    """The reads that cost least where one more of them costs as much as `gap_bytes` bytes more.

    spans: (start, stop), ascending, without overlap. piece_bytes: a read that is larger is divided, between spans and
    at no cost. Cost O(spans).
    """
    reads: list[Read] = []
    for number, (start, stop) in enumerate(spans):
        last = reads[-1] if reads else None
        if last and start - last.stop <= gap_bytes and stop - last.start <= piece_bytes:
            reads[-1] = Read(last.start, stop, last.first, number + 1)
        else:
            reads.append(Read(start, stop, number, number + 1))
    return reads


def place_columns(reader: ImageReader) -> list[str]:
    """The columns of an embeddings file that say where the samples of its shard lie, and what cannot be read there."""
    if isinstance(reader, Parquet):
        return ["position", "key"]
    caption = ["caption"] if isinstance(reader, Webdataset) and reader.caption != "txt" else []
    return ["position", "key", *caption, "offset", "size", "extra_ranges"]


def append_samples(
    writer: TarShard, reader: ImageReader, url: str, places: pa.Table, gap_bytes: int | None = None
) -> None:
    """Append samples of a shard to a tar; arguments and errors as sample_blocks, which reads those of a tar."""
    if isinstance(reader, Parquet):
        for key, members in reader.members(url, column(places, "position")):
            writer.add_members(key, members)
    else:
        for key, blocks, caption in sample_blocks(url, places, gap_bytes):
            writer.add_ranges(key, blocks, caption)


def sample_blocks(
    url: str, places: pa.Table, gap_bytes: int | None = None
) -> Iterator[tuple[str, list[memoryview], str | None]]:
    """Of each sample its key, blocks of whole tar members, and the caption where it is none of them.

    places: rows of an embeddings file with place_columns, in its order. gap_bytes: that are read over rather than asked
    for around them; None for what the storage is like.
    Raises ShardError where the tar ends before a sample does, or something else lies in its place.
    """
    apart = pc.sum(pc.list_value_length(places["extra_ranges"])).as_py()
    keys = places["key"].to_pylist()
    captions = places["caption"].to_pylist() if "caption" in places.column_names else [None] * len(keys)
    found = _apart(url, places) if apart else _together(url, places, gap_bytes)
    for key, caption, placed in zip(keys, captions, found, strict=True):
        for start, block in placed:
            check_block(block, start, key, url)
        yield key, [block for _, block in placed], caption


def _together(url: str, places: pa.Table, gap_bytes: int | None) -> Iterator[list[tuple[int, memoryview]]]:
    """Of each sample where it begins, and its one block, read piece by piece."""
    starts = column(places, "offset")
    spans = list(zip(starts.tolist(), (starts + column(places, "size")).tolist(), strict=True))
    local = storage.local_path(url) is not None
    gap = gap_bytes if gap_bytes is not None else LOCAL_GAP_BYTES if local else REMOTE_GAP_BYTES
    with storage.open_exact(url) as file:
        length = file.seek(0, io.SEEK_END)
        if spans and spans[-1][1] > length:
            raise ShardError(f"{url} must be as long as when it was embedded, but has {length} bytes; run again")
        reads = plan_reads(spans, gap, _LOCAL_PIECE_BYTES if local else _REMOTE_PIECE_BYTES)
        for read, piece in _each(file, reads) if local else _ahead(file, reads):
            if len(piece) < read.stop - read.start:  # it was cut since its length was looked at
                raise ShardError(f"{url} must stay as long as it was, but ends in byte {read.stop}; run again")
            for start, stop in spans[read.first : read.last]:
                yield [(start, piece[start - read.start : stop - read.start])]


def _apart(url: str, places: pa.Table) -> Iterator[list[tuple[int, memoryview]]]:
    """The same for a shard in which members of one sample lie apart: all of it is mapped, or held where remote."""
    with storage.local_view(url) as view:
        for sample in places.to_pylist():
            yield [(start, view[start:stop]) for start, stop in spans_of(sample, len(view), url)]


def _each(file: BinaryIO, reads: Sequence[Read]) -> Iterator[tuple[Read, memoryview]]:
    """The bytes of each read of a local file in turn; the system is told of those that come next."""
    told = 0 if hasattr(os, "posix_fadvise") else len(reads)
    for number, read in enumerate(reads):
        for coming in reads[told : number + 1 + _TOLD_AHEAD]:
            os.posix_fadvise(file.fileno(), coming.start, coming.stop - coming.start, os.POSIX_FADV_WILLNEED)
            told += 1
        yield read, _bytes(file, read)


def _ahead(file: BinaryIO, reads: Sequence[Read]) -> Iterator[tuple[Read, memoryview]]:
    """The bytes of each read in turn; the next one is under way while what came is used."""
    with ThreadPoolExecutor(1, "winnow-read") as thread:
        coming = [thread.submit(_bytes, file, read) for read in reads[:1]]
        for read, following in zip(reads, [*reads[1:], None], strict=True):
            piece = coming.pop().result()
            if following is not None:
                coming.append(thread.submit(_bytes, file, following))
            yield read, piece


def _bytes(file: BinaryIO, read: Read) -> memoryview:
    file.seek(read.start)
    return memoryview(file.read(read.stop - read.start))
