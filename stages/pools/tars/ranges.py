"""Reads samples of a tar again by their byte ranges, and checks that they are still there.

For each gap between samples it either reads through the gap or starts another read behind it. So it reads the whole
shard if all gaps are small, and ranges of it if they are large.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline import storage
from winnow.pipeline.columns import column
from winnow.pipeline.errors import ShardError
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.tars.tar_groups import key_and_suffix
from winnow.stages.pools.tars.tar_members import whole_members
from winnow.stages.preview.head import Head
from winnow.stages.results.tar_shard import JudgedPair, TarShard, check_block, spans_of

LOCAL_GAP_BYTES = 64 << 10
"""Gaps up to this size are read through in a local file: a guess, about a system's readahead (docs/loading.md)."""

REMOTE_GAP_BYTES = 1 << 20
"""The same for an object store: another request takes about 20 ms, in which a connection delivers about 1 MiB."""

_LOCAL_PIECE_BYTES = 256 << 10  # of one read; the processor's cache still holds it when it is written
_BUFFERS = 1000  # buffers of one preadv; systems allow 1024
_TOLD_BYTES = 8 << 20  # readahead: bytes of later reads that the system is told to fetch
_REMOTE_PIECE_BYTES = 8 << 20  # of one read, while the next one is prefetched; a larger sample is read whole


@dataclass(frozen=True, slots=True)
class Read:
    """One read: bytes `start` to `stop` of a shard, which hold the spans `first` to `last - 1`."""

    start: int
    stop: int
    first: int
    last: int


def plan_reads(spans: Sequence[tuple[int, int]], gap_bytes: int, piece_bytes: int = _REMOTE_PIECE_BYTES) -> list[Read]:
    """The cheapest reads, if another read costs as much as reading `gap_bytes` more bytes.

    spans: (start, stop), ascending, without overlap. piece_bytes: larger reads are divided between spans, at no cost.
    Cost: O(spans).
    """
    reads: list[Read] = []
    for number, (start, stop) in enumerate(spans):
        last = reads[-1] if reads else None
        if last and start - last.stop <= gap_bytes and stop - last.start <= piece_bytes:
            reads[-1] = Read(last.start, stop, last.first, number + 1)
        else:
            reads.append(Read(start, stop, number, number + 1))
    return reads


def append_samples(
    writer: TarShard, image: tuple[str, ...], url: str, places: pa.Table, gap_bytes: int | None = None
) -> None:
    """Append samples of a tar to another; arguments and errors as sample_blocks."""
    if _read_straight(url, places):
        _append_straight(writer, image, url, places, LOCAL_GAP_BYTES if gap_bytes is None else gap_bytes)
    else:
        for key, blocks, judged in sample_blocks(image, url, places, gap_bytes):
            writer.add_blocks(key, blocks, judged)


def sample_blocks(
    image: tuple[str, ...], url: str, places: pa.Table, gap_bytes: int | None = None
) -> Iterator[tuple[str, list[memoryview], JudgedPair]]:
    """For each sample its key, blocks of whole tar members, and the image and caption that were judged.

    image: suffixes of pictures. If a sample has several, the first in this list was judged. places: rows of an
    samples file with the reader's place_columns, in its order. gap_bytes: gaps up to this size are read through, not
    skipped; None for the default of the storage.
    Raises ShardError if the tar ends before a sample does, or if something else is in its place.
    """
    keys = places["key"].to_pylist()
    captions = places["caption"].to_pylist() if "caption" in places.column_names else [None] * len(keys)
    found = _apart(url, places) if _are_apart(places) else _together(url, places, gap_bytes)
    for key, caption, plain, placed in zip(keys, captions, _plain(places), found, strict=True):
        for start, block in placed:
            check_block(block, start, key, url)
        yield key, [block for _, block in placed], JudgedPair(image, caption, plain)


def described(url: str, places: pa.Table) -> Iterator[dict[str, Any]]:
    """The json member of each sample; {} if there is none or it is no object. Arguments and errors: sample_blocks.

    Of a local shard only headers and json members are read, of a remote one the whole samples.
    """
    mapped = storage.local_path(url) is not None or _are_apart(places)
    for key, placed in zip(places["key"].to_pylist(), (_apart if mapped else _together)(url, places), strict=True):
        for start, block in placed:
            check_block(block, start, key, url)
        yield _json_of([block for _, block in placed])


def _json_of(blocks: Sequence[memoryview]) -> dict[str, Any]:
    for block in blocks:
        for member in whole_members(block):
            if key_and_suffix(member.name)[1] == "json":
                try:
                    fields = json.loads(bytes(block[member.data : member.data + member.size]))
                except (ValueError, RecursionError):
                    return {}
                return fields if isinstance(fields, dict) else {}
    return {}


def cut_tar(url: str, samples: Iterable[Sample | Reject], folder: Path) -> Head:
    """A copy of the first bytes, up to the last of these samples, ended as a tar; the whole tar if there are none."""
    end = rows = 0
    for sample in samples:
        rows += 1
        extra = sample.extra_ranges if isinstance(sample, Sample) else ()
        spans = [(sample.offset, sample.size if isinstance(sample, Sample) else 0)]
        spans += zip(extra[::2], extra[1::2], strict=True)
        end = max([end, *[start + size for start, size in spans]])
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / storage.name_of(url)
    with storage.local_view(url) as view:
        whole = len(view)
        end = end or whole
        content = bytes(view[:end])
    target.write_bytes(content + bytes(-len(content) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))
    return Head(str(target), url, ((str(target), url),), rows, end, rows * max(1.0, whole / end), whole)


def _together(url: str, places: pa.Table, gap_bytes: int | None = None) -> Iterator[list[tuple[int, memoryview]]]:
    """For each sample the byte where it begins, and its one block. The shard is read in pieces."""
    spans = _spans(places)
    local = storage.local_path(url) is not None
    gap = gap_bytes if gap_bytes is not None else LOCAL_GAP_BYTES if local else REMOTE_GAP_BYTES
    with storage.open_exact(url) as file:
        _check_length(file, spans, url)
        reads = plan_reads(spans, gap, _LOCAL_PIECE_BYTES if local else _REMOTE_PIECE_BYTES)
        found = ((read, _bytes(file, read)) for read in _told(file, reads)) if local else _ahead(file, reads)
        for read, piece in found:
            yield from _cut(read, piece, spans, url)


def _are_apart(places: pa.Table) -> bool:
    """Whether other members lie between those of a sample."""
    return bool(pc.sum(pc.list_value_length(places["extra_ranges"])).as_py())


def _plain(places: pa.Table) -> list[bool]:
    """For each sample, whether its members may stay as they are; False for files that do not have this column yet."""
    told: list[bool] = places["plain"].to_pylist() if "plain" in places.column_names else [False] * len(places)
    return told


def _spans(places: pa.Table) -> list[tuple[int, int]]:
    """Start and stop of each sample; its members must be adjacent."""
    starts = column(places, "offset")
    return list(zip(starts.tolist(), (starts + column(places, "size")).tolist(), strict=True))


def _check_length(file: BinaryIO, spans: Sequence[tuple[int, int]], url: str) -> None:
    length = file.seek(0, io.SEEK_END)
    if spans and spans[-1][1] > length:
        raise ShardError(f"{url} must be as long as when it was embedded, but has {length} bytes; run again")


def _cut(
    read: Read, piece: memoryview, spans: Sequence[tuple[int, int]], url: str
) -> Iterator[list[tuple[int, memoryview]]]:
    if len(piece) < read.stop - read.start:  # the file was truncated after its length was checked
        raise ShardError(f"{url} must stay as long as it was, but ends in byte {read.stop}; run again")
    for start, stop in spans[read.first : read.last]:
        yield [(start, piece[start - read.start : stop - read.start])]


def _read_straight(url: str, places: pa.Table) -> bool:
    """True if the file is local, every sample is one block of it, and captions are members."""
    local = hasattr(os, "preadv") and storage.local_path(url) is not None
    return local and "caption" not in places.column_names and not _are_apart(places)


def _append_straight(writer: TarShard, image: tuple[str, ...], url: str, places: pa.Table, gap_bytes: int) -> None:
    """Append samples of a local tar without a copy: each is read into the buffer from which it is written."""
    keys, spans, plain = places["key"].to_pylist(), _spans(places), _plain(places)
    with storage.open_exact(url) as file:
        _check_length(file, spans, url)
        reads = plan_reads(spans, gap_bytes, _LOCAL_PIECE_BYTES)
        over = memoryview(bytearray(_LOCAL_PIECE_BYTES))
        for read in _told(file, reads):
            named, inside = keys[read.first : read.last], spans[read.first : read.last]
            if all(plain[read.first : read.last]) and writer.fresh(named) and _read_to(writer, file, inside, over):
                for key, (start, stop) in zip(named, inside, strict=True):
                    check_block(writer.room(tarfile.BLOCKSIZE)[0][: stop - start], start, key, url)
                    writer.add_room(key, stop - start)
            else:
                for number, [(start, block)] in enumerate(_cut(read, _bytes(file, read), spans, url), read.first):
                    check_block(block, start, keys[number], url)
                    writer.add_blocks(keys[number], [block], JudgedPair(image, None, plain[number]))


def _read_to(writer: TarShard, file: BinaryIO, spans: Sequence[tuple[int, int]], over: memoryview) -> bool:
    """Read spans into the writer's buffers with one call; False if it needs more calls, or if the file ends.

    over: a buffer for the bytes of gaps, which are thrown away.
    """
    places: list[memoryview] = []
    ahead, at = 0, spans[0][0]
    for start, stop in spans:
        if start > at:
            places.append(over[: start - at])
        places += writer.room(stop - start, ahead)
        ahead += stop - start
        at = stop
    return len(places) <= _BUFFERS and os.preadv(file.fileno(), places, spans[0][0]) == at - spans[0][0]


def _apart(url: str, places: pa.Table) -> Iterator[list[tuple[int, memoryview]]]:
    """As `_together`, for samples whose members lie apart. The shard is mapped, or held in memory if it is remote."""
    with storage.local_view(url) as view:
        for sample in places.to_pylist():
            yield [(start, view[start:stop]) for start, stop in spans_of(sample, len(view), url)]


def _told(file: BinaryIO, reads: Sequence[Read]) -> Iterator[Read]:
    """Each read of a local file in turn. The system is told of the next ones, so that it can read ahead."""
    told = 0 if hasattr(os, "posix_fadvise") else len(reads)
    ahead = 0  # bytes that the system was told of and that are not read yet
    for read in reads:
        ahead -= read.stop - read.start
        while told < len(reads) and ahead < _TOLD_BYTES:
            start, size = reads[told].start, reads[told].stop - reads[told].start
            os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
            told, ahead = told + 1, ahead + size
        yield read


def _ahead(file: BinaryIO, reads: Sequence[Read]) -> Iterator[tuple[Read, memoryview]]:
    """The bytes of each read in turn. The next read is prefetched while the caller uses the current one."""
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
