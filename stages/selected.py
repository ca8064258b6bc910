"""The kept samples of an input shard, read from where they lie, for training without exported shards; writes no file.

A shard is planned from columns of its manifest and embeddings files: which samples, how often, in which reads. Reading
over a gap and asking again behind it are one choice, made for every gap: the whole shard is read where all gaps are
small, and ranges of it where they are large.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.artifact import Artifact
from pipeline.columns import column
from pipeline.errors import AccountingError, DataError, ShardError
from stages.formats import ImageReader, Parquet, Webdataset
from stages.tar_shard import Member, TarShard, check_block, members_of, spans_of
from stages.unchanged import check_unchanged

LOCAL_GAP_BYTES = 64 << 10
"""A gap up to this is read over in a file: a guess, about what a system reads ahead by itself (docs/loading.md)."""

REMOTE_GAP_BYTES = 1 << 20
"""The same in an object store: one more request takes some 20 ms, in which a connection brings about a MiB."""

_PIECE_BYTES = 8 << 20  # of one read, and another is under way; a sample that is larger is read whole
_PLACE = ("position", "key", "caption", "offset", "size", "extra_ranges")


@dataclass(frozen=True)
class Plan:
    """What is read of one input shard.

    places: the kept rows of its embeddings file, in order. times: int64 (m,), how often each is read, at least once.
    """

    index: int
    url: str
    places: pa.Table
    times: np.ndarray

    @property
    def samples(self) -> int:
        """How many samples come, each as often as it is read."""
        return int(self.times.sum())

    def rounds(self) -> Iterator[pa.Table]:
        """The samples that are read at least once, then those that are twice …: none is its own neighbour."""
        for number in range(int(self.times.max(initial=0))):
            yield self.places.filter(pa.array(self.times > number))


@dataclass(frozen=True, slots=True)
class Read:
    """One read: bytes `start` to `stop` of a shard, which hold the spans `first` to `last - 1`."""

    start: int
    stop: int
    first: int
    last: int


def plan_reads(spans: Sequence[tuple[int, int]], gap_bytes: int, piece_bytes: int = _PIECE_BYTES) -> list[Read]:
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


@dataclass(frozen=True)
class Selected:
    """The samples that a finished job keeps, in the shards of its pool; picklable, and nothing is held open.

    embeddings: where each sample lies. manifest: its weight is how often a sample is read. epochs: the artifact of the
    cut `epochs` where only those of `epoch` are wanted. gap_bytes: that are read over rather than asked for around
    them; None for what the storage is like.
    """

    embeddings: Artifact
    manifest: Artifact
    reader: ImageReader
    epochs: Artifact | None = None
    epoch: int = 0
    gap_bytes: int | None = None

    def plan(self, index: int) -> Plan:
        """The plan of input shard `index`, from some columns of two or three files; its url is "" where it has no row.

        Raises AccountingError where the files are not of one job, DataError for weights that are no repeat counts.
        """
        verdicts = self.manifest.read(index, ["shard", "key", "weight"])
        has_caption = isinstance(self.reader, Webdataset) and self.reader.caption != "txt"
        asked = [name for name in _PLACE if name != "caption" or has_caption]
        places = self.embeddings.read(index, asked)
        positions = column(places, "position")
        if len(positions) and (positions[-1] >= len(verdicts) or not _same_keys(places, verdicts, positions)):
            raise AccountingError(
                f"{self.manifest.shard(index)} must have a row for each sample of {self.embeddings.shard(index)}, but "
                f"they name others; run the job again"
            )
        times = _repeats(column(verdicts, "weight"), self.manifest.shard(index))[positions]
        if self.epochs is not None:
            times = times * self._drawn(self.epochs, index)
        read = np.flatnonzero(times)
        url = verdicts["shard"][0].as_py() if len(verdicts) else ""
        return Plan(index, url, places.take(pa.array(read)), times[read])

    def _drawn(self, epochs: Artifact, index: int) -> np.ndarray:
        """How often each row is in the epoch: int64 (n,)."""
        lists = epochs.read(index, ["epochs"])["epochs"].combine_chunks()
        rows = np.asarray(pc.list_parent_indices(lists))[np.asarray(lists.flatten()) == self.epoch]
        return np.bincount(rows, minlength=len(lists))

    def write_tar(self, plan: Plan, file: BinaryIO) -> int:
        """A whole tar of the plan's samples; how many there are.

        A sample that comes again, or whose key does, gets `_1`, `_2` …
        Raises ShardError where the shard is no longer what it was; the tar is then broken off so that a reader sees it.
        """
        writer = TarShard(file)
        try:
            for places in plan.rounds():
                if isinstance(self.reader, Parquet):
                    for key, members in self._rows(self.reader, plan, places):
                        writer.add_members(key, members)
                else:
                    for key, blocks, caption in self._blocks(plan, places):
                        writer.add_ranges(key, blocks, caption)
        except BrokenPipeError:
            raise
        except BaseException:
            writer.break_off()
            raise
        writer.finish()
        return writer.samples

    def samples(self, plan: Plan) -> Iterator[tuple[str, list[Member]]]:
        """Key and members of each sample of the plan; raises as write_tar."""
        for places in plan.rounds():
            if isinstance(self.reader, Parquet):
                yield from self._rows(self.reader, plan, places)
            else:
                for key, blocks, caption in self._blocks(plan, places):
                    yield key, members_of(blocks, caption)

    def _rows(self, reader: Parquet, plan: Plan, places: pa.Table) -> Iterator[tuple[str, list[Member]]]:
        check_unchanged(self.embeddings, plan.index, plan.url, reader)
        yield from reader.members(plan.url, column(places, "position"))

    def _blocks(self, plan: Plan, places: pa.Table) -> Iterator[tuple[str, list[memoryview], str | None]]:
        """Key, blocks of whole tar members, and the caption where it is none of them."""
        check_unchanged(self.embeddings, plan.index, plan.url, self.reader)
        apart = pc.sum(pc.list_value_length(places["extra_ranges"])).as_py()
        keys = places["key"].to_pylist()
        captions = places["caption"].to_pylist() if "caption" in places.column_names else [None] * len(keys)
        found = self._apart(plan, places) if apart else self._together(plan, places)
        for key, caption, (start, blocks) in zip(keys, captions, found, strict=True):
            check_block(blocks[0], start, key, plan.url)
            yield key, blocks, caption

    def _together(self, plan: Plan, places: pa.Table) -> Iterator[tuple[int, list[memoryview]]]:
        """Where each sample begins, and its one block, read piece by piece."""
        starts = column(places, "offset")
        spans = list(zip(starts.tolist(), (starts + column(places, "size")).tolist(), strict=True))
        gap = self.gap_bytes
        if gap is None:
            gap = REMOTE_GAP_BYTES if "://" in plan.url else LOCAL_GAP_BYTES
        with storage.open_exact(plan.url) as file:
            length = file.seek(0, io.SEEK_END)
            if spans and spans[-1][1] > length:
                raise ShardError(
                    f"{plan.url} must be as long as when it was embedded, but has {length} bytes; run again"
                )
            for read, piece in _ahead(file, plan_reads(spans, gap)):
                if len(piece) < read.stop - read.start:  # it was cut since its length was looked at
                    raise ShardError(f"{plan.url} must stay as long as it was, but ends in byte {read.stop}; run again")
                for start, stop in spans[read.first : read.last]:
                    yield start, [piece[start - read.start : stop - read.start]]

    def _apart(self, plan: Plan, places: pa.Table) -> Iterator[tuple[int, list[memoryview]]]:
        """The same for a shard in which members of one sample lie apart: all of it is mapped, or held where remote."""
        with storage.local_view(plan.url) as view:
            for sample in places.to_pylist():
                spans = spans_of(sample, len(view), plan.url)
                yield spans[0][0], [view[start:stop] for start, stop in spans]


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


def _same_keys(places: pa.Table, verdicts: pa.Table, positions: np.ndarray) -> bool:
    named = verdicts["key"].take(pa.array(positions))
    return bool(pc.all(pc.equal(places["key"], named), skip_nulls=False).as_py())


def _repeats(weight: np.ndarray, url: str) -> np.ndarray:
    """Weights as repeat counts: int64 (n,)."""
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0) & (weight == np.floor(weight))))
    if len(wrong):
        raise DataError(
            f"{url}: a weight is how often a sample is read, so a whole number from 0, but row {wrong[0]} has "
            f"{weight[wrong[0]]}; round it"
        )
    return weight.astype(np.int64)
