"""Checks that uids.npy, and each subset file of a cut, is sorted and holds exactly the uids that it should.

The file and the manifest are compared by a shuffle on a hash of the uid, so memory grows with one part, not with the
pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.jobs.verify.finished import Finished
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, split_table
from winnow.pipeline.errors import DataError
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.uid import UID, bytes_of, uids_from_bytes, uids_to_bytes, uids_to_hex
from winnow.stages.cuts.contract.findings import (
    Findings,
    looked,
    met,
    reading,
    unless_equal,
    violated,
    violated_rows,
)
from winnow.stages.cuts.contract.finished import NamedRows
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.results.manifest import UIDS

_CHUNK = 1_000_000  # uids of a file that one task reads: 16 MB
_PART = 2_000_000  # uids of each side in one part of the shuffle: 32 bytes each, a few times over

_SENT = pa.schema([("row", pa.int64()), ("uid", pa.binary(16)), ("repeated", pa.int64())])
"""A row whose uid has no partner on the other side. If repeated > 0, instead: how many uids occur more than once."""


@dataclass(frozen=True)
class _KeptInManifest:
    manifest: Artifact

    def of(self, index: int) -> tuple[np.ndarray, pa.Array]:
        table = self.manifest.read(index, ["uid", "kept"])
        kept = column(table, "kept")
        return np.flatnonzero(kept), bytes_of(table["uid"].filter(pa.array(kept)))


def uids(job: Finished, run: Run) -> Findings:
    """uids.npy is sorted and holds the uid of each kept row of the manifest once; the same for subset files of cuts."""
    found = _compared(run, job.manifest.meta(UIDS), _KeptInManifest(job.manifest))
    for cut in job.judged:
        for file, named in cut.options.subsets(cut).items():
            found += _compared(run, cut.artifact.meta(file), named)
    return found


@dataclass(frozen=True)
class _Chunk:
    """Entries first to last - 1 of a file of uids. start: byte of the file at which its entries begin."""

    index: int
    url: str
    start: int
    first: int
    last: int

    def read(self, first: int, last: int) -> np.ndarray:
        """Entries first to last - 1 of the file, dtype UID."""
        with storage.open_read(self.url) as file:
            file.seek(self.start + first * UID.itemsize)
            content = file.read((last - first) * UID.itemsize)
        if len(content) != (last - first) * UID.itemsize:
            raise DataError(f"{self.url} must have at least {last} uids, as its header says, but it ends earlier")
        return np.frombuffer(content, UID)


def _compared(run: Run, url: str, named: NamedRows) -> Findings:
    with reading(url):
        start, entries, size = _header(url)
    found = unless_equal(f"{url}: its size", start + entries * UID.itemsize, size)
    firsts = range(0, entries, _CHUNK)
    chunks = [
        _Chunk(len(run.shards) + i, url, start, first, min(entries, first + _CHUNK)) for i, first in enumerate(firsts)
    ]
    items: list[ShardItem | _Chunk] = [*run.items, *chunks]
    work = _MeetEntries(url, named, max(1, -(-entries // _PART)))
    found += met(run, work, items, storage.name_of(url))
    if repeated := found.sums.get("repeated", 0):
        found += violated(f"{url}: a uid must name one sample, but {repeated} of its uids name more than one")
    return found


def _header(url: str) -> tuple[int, int, int]:
    """(first byte of the entries, number of entries, bytes of the file)."""
    with storage.open_read(url) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise DataError(f"{url} must be a .npy of version (1, 0), but is of {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        if len(shape) != 1 or dtype != UID:
            raise DataError(f"{url} must hold a one-dimensional array of {UID}, but holds {dtype} of shape {shape}")
        return start, int(shape[0]), file.seek(0, 2)


@dataclass(frozen=True)
class _MeetEntries:
    """Shuffles the manifest's rows and the file's entries by a hash of the uid, and pairs them in each part."""

    url: str
    named: NamedRows
    parts: int

    def scatter(self, item: ShardItem | _Chunk) -> Mapping[int, pa.Table]:
        with reading(item.url):
            if isinstance(item, _Chunk):
                found = item.read(item.first, item.last)
                rows, raw = np.arange(item.first, item.last), uids_to_bytes(found)
            else:
                rows, raw = self.named.of(item.index)
                found = uids_from_bytes(raw)
            table = pa.table(
                {
                    "row": pa.array(rows, pa.int64()),
                    "uid": raw,
                    "item": pa.array(np.full(len(rows), item.index)),
                    "entry": pa.array(np.full(len(rows), isinstance(item, _Chunk))),
                }
            )
            part = (hash64(found, 0) % np.uint64(self.parts)).astype(np.int64)
            return split_table(table, part)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """The rows and entries of one part that have no partner, returned to the items that they came from."""
        table = pa.concat_tables(tables).combine_chunks()
        uid, item, row = uids_from_bytes(table["uid"]), column(table, "item"), column(table, "row")
        side = column(table, "entry").astype(np.int64)  # (n,): 0 for a row of the manifest, 1 for an entry of the file
        # sort by uid, then by side: each uid is one run, its rows first and its entries after them
        order = np.lexsort((row, item, side, uid["f1"], uid["f0"]))
        uid, side = uid[order], side[order]
        new = np.r_[True, uid[1:] != uid[:-1]]
        group = np.cumsum(new) - 1  # (n,): number of the uid
        count = np.zeros((group[-1] + 1, 2), np.int64)  # (uids, 2): how often each side has each uid
        np.add.at(count, (group, side), 1)
        # place (n,): number of the row or entry inside its own side of its uid
        place = np.arange(len(order)) - np.flatnonzero(new)[group] - np.where(side == 1, count[group, 0], 0)
        # the i-th of one side is the partner of the i-th of the other; those beyond the other's count have none
        lost = order[place >= count[group, 1 - side]]
        sent = pa.table([pa.array(row[lost]), table["uid"].take(pa.array(lost)), np.zeros(len(lost), np.int64)], _SENT)
        found = split_table(sent, item[lost])
        if repeated := int((count[:, 0] > 1).sum()):
            note = pa.table([[-1], pa.array([bytes(16)], pa.binary(16)), [repeated]], _SENT)
            found[0] = pa.concat_tables([note, *([found[0]] if 0 in found else [])])
        return found

    def settle(self, item: ShardItem | _Chunk, tables: Sequence[pa.Table]) -> Findings:
        with reading(item.url):
            every = pa.concat_tables([_SENT.empty_table(), *tables])
            found = Findings(sums={"repeated": int(column(every, "repeated").sum())})
            lost = every.filter(pc.equal(every["repeated"], 0)).sort_by("row")
            rows, texts = column(lost, "row"), uids_to_hex(uids_from_bytes(lost["uid"]))
            of = dict(zip(rows.tolist(), texts, strict=True))
            if isinstance(item, _Chunk):
                found += violated_rows(
                    _as_item(item), rows, lambda row: f"entry {row}: uid {of[row]} is of none of its samples"
                )
                return found + _sorted(item) + looked(uids=item.last - item.first)
            return found + violated_rows(
                item, rows, lambda row: f"row {row}: uid {of[row]} must be in {self.url}, but is not"
            )


def _as_item(chunk: _Chunk) -> ShardItem:
    return ShardItem(chunk.index, chunk.url)


def _sorted(chunk: _Chunk) -> Findings:
    """Find entries that are smaller than the entry before them."""
    first = max(0, chunk.first - 1)
    high, low = (chunk.read(first, chunk.last)[half] for half in ("f0", "f1"))
    wrong = (high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] < low[:-1]))
    at = first + 1 + np.flatnonzero(wrong)
    return violated_rows(
        _as_item(chunk), at, lambda row: f"entry {row}: uids must be sorted, but it is below the one before"
    )
