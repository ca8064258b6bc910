"""Writes sorted uids to a .npy file in DataComp's subset format, range by range.

This is a range partition: uids are exchanged by range, and one task sorts and commits each range. The driver only
concatenates the ranges behind one header. If a subset has a single range, its task commits the file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import BinaryIO, Protocol

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, shard_name
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.uid import UID, UID_ARROW, uids_from_bytes
from winnow.stages.kernels.uid_hash import hash_values

_RANGE_UIDS = 3_000_000  # uids that one task sorts: 48 MB, and a few copies
_RANGES = 64  # ranges of several subsets that share one exchange: 3 GB
_SAMPLES = 256  # sampled uids of each range, to find where it ends: sizes of ranges then differ by about 6 %
_SAMPLE_SEED = 1 << 62  # no cut uses it: survivors of a cut by a hash all have high hashes of its seed
_BLOCK_BYTES = 1 << 22
_KEY = np.dtype("S16")  # big-endian bytes: comparing them compares uids


@dataclass(frozen=True)
class Subset:
    """A file to write: `<name>.npy` with exactly `count` uids."""

    name: str
    count: int


class Chosen(Protocol):
    """Tells which uids are in each of several subsets; picklable."""

    def uids(self, item: ShardItem, subsets: Sequence[int]) -> Iterator[pa.Array]:
        """uids (16 bytes, no nulls) of one shard that are in each of these subsets in turn, in any order."""
        ...


def write_subsets(run: Run, out: Artifact, chosen: Chosen, subsets: Sequence[Subset], label: str) -> None:
    """Commit every subset's file: sorted uids; a repeated uid is repeated in the file.

    Each exchange takes up to 64 ranges of 3,000,000 uids; a subset is never divided between two exchanges. If a subset
    has more than one range, an earlier pass finds the quantiles of a sample, because uids need not be uniform. The
    ranges of such a subset also stay as files, `<name>/00000.npy` …
    Raises AccountingError if a subset does not have `count` uids.
    """
    for batch in _batches(subsets):
        wanted = [subsets[number] for number in batch]
        edges = _edges(run, chosen, batch, wanted, label)
        work = _UidRanges(chosen, out, tuple(batch), tuple(wanted), tuple(edges))
        written = {int(part): count for part, count in run.exchange(work, label, out).by_name("ranges").items()}
        for subset, ranges in zip(wanted, work.layout, strict=True):
            counts = {number: written[part] for number, part in enumerate(ranges) if part in written}
            if sum(counts.values()) != subset.count:
                raise AccountingError(
                    f"{subset.name}.npy must name {subset.count} samples, but {sum(counts.values())} were found; "
                    f"delete {out.folder} and run again"
                )
            if len(ranges) > 1 or not counts:
                _join(out, subset, counts)


def _batches(subsets: Sequence[Subset]) -> Iterator[list[int]]:
    """Numbers of the subsets that share an exchange."""
    batch: list[int] = []
    used = 0
    for number, subset in enumerate(subsets):
        if batch and used + _ranges(subset) > _RANGES:
            yield batch
            batch, used = [], 0
        batch.append(number)
        used += _ranges(subset)
    if batch:
        yield batch


def _ranges(subset: Subset) -> int:
    return max(1, -(-subset.count // _RANGE_UIDS))


def _edges(run: Run, chosen: Chosen, batch: Sequence[int], subsets: Sequence[Subset], label: str) -> list[np.ndarray]:
    """For each subset the first key of every range except the first one, ascending: (ranges - 1,) of _KEY."""
    ranges = [_ranges(subset) for subset in subsets]
    large = [at for at, count in enumerate(ranges) if count > 1]
    if not large:
        return [np.empty(0, _KEY) for _ in subsets]
    shares = tuple(_SAMPLES * ranges[at] / subsets[at].count for at in large)
    task = _Sample(chosen, tuple(batch[at] for at in large), shares)
    found: list[list[np.ndarray]] = [[np.empty(0, _KEY)] for _ in subsets]
    for samples in run.reduce(task, _merge_samples, run.items, f"{label} (ranges)"):
        for at, sample in zip(large, samples, strict=True):
            found[at].append(sample)
    return [_quantiles(np.concatenate(samples), count) for samples, count in zip(found, ranges, strict=True)]


def _merge_samples(parts: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.concatenate(samples) for samples in zip(*parts, strict=True)]


def _quantiles(sample: np.ndarray, ranges: int) -> np.ndarray:
    """Keys that divide sorted keys into equal ranges; fewer if there are few keys or equal ones."""
    at = np.arange(1, ranges) * len(sample) // ranges
    return np.unique(np.sort(sample)[at]) if len(sample) else sample


@dataclass(frozen=True)
class _Sample:
    """A sample of a shard's uids by a hash, as keys: the same for any sharding."""

    chosen: Chosen
    subsets: tuple[int, ...]
    shares: tuple[float, ...]

    def __call__(self, item: ShardItem) -> list[np.ndarray]:
        found = zip(self.chosen.uids(item, self.subsets), self.shares, strict=True)
        return [_keys(uids)[hash_values(uids_from_bytes(uids), _SAMPLE_SEED) < share] for uids, share in found]


@dataclass(frozen=True)
class _UidRanges:
    """Partitions uids by subset and range. Each range sends its size to the first shard, and `settle` returns it."""

    chosen: Chosen
    out: Artifact
    numbers: tuple[int, ...]
    subsets: tuple[Subset, ...]
    edges: tuple[np.ndarray, ...]

    @property
    def layout(self) -> list[range]:
        """The parts that are the ranges of each subset."""
        return [range(a, b) for a, b in pairwise(accumulate((len(edges) + 1 for edges in self.edges), initial=0))]

    @property
    def parts(self) -> int:
        return self.layout[-1].stop

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        found: dict[int, pa.Table] = {}
        for uids, edges, ranges in zip(self.chosen.uids(item, self.numbers), self.edges, self.layout, strict=True):
            keys = np.sort(_keys(uids))
            stops = [0, *np.searchsorted(keys, edges).tolist(), len(keys)]
            pieces = zip(ranges, pairwise(stops), strict=True)
            found |= {part: pa.table({"uid": _column(keys[a:b])}) for part, (a, b) in pieces if a < b}
        return found

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        keys = np.concatenate([_keys(table["uid"].combine_chunks()) for table in tables])
        keys.sort(kind="stable")  # each shard sent sorted keys, and a stable sort merges such runs
        [(subset, ranges)] = [found for found in zip(self.subsets, self.layout, strict=True) if part in found[1]]
        url = _file(self.out, subset) if len(ranges) == 1 else _range_file(self.out, subset, part - ranges.start)
        with storage.committing(url) as file:
            _write_header(file, len(keys))
            file.write(keys.view(">u8").astype("<u8").data)
        return {0: pa.table({"part": [part], "count": [len(keys)]})}

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        return {"ranges": {str(row["part"]): row["count"] for table in tables for row in table.to_pylist()}}


def _join(out: Artifact, subset: Subset, counts: Mapping[int, int]) -> None:
    """Commit the file of a subset from those of its ranges; counts: uids of each range that has any, ascending."""
    with storage.committing(_file(out, subset)) as file:
        _write_header(file, subset.count)
        for number, count in counts.items():
            url = _range_file(out, subset, number)
            with storage.open_read(url) as piece:
                _copy(piece, file, count, url)


def _copy(piece: BinaryIO, file: BinaryIO, count: int, url: str) -> None:
    np.lib.format.read_magic(piece)
    np.lib.format.read_array_header_1_0(piece)
    copied = 0
    while block := piece.read(_BLOCK_BYTES):
        copied += file.write(block)
    if copied != count * UID.itemsize:
        raise AccountingError(f"{url} must hold {count} uids, but has {copied} bytes of them; delete it and run again")


def _keys(uids: pa.Array) -> np.ndarray:
    """(n,) of _KEY over the same memory as a column of 16-byte uids."""
    if uids.type != UID_ARROW or uids.null_count:
        raise AccountingError(f"uids must be {UID_ARROW} without nulls, got {uids.type} with {uids.null_count} nulls")
    if not len(uids):
        return np.empty(0, _KEY)
    return np.frombuffer(uids.buffers()[1], _KEY, len(uids), 16 * uids.offset)


def _column(keys: np.ndarray) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(UID_ARROW, len(keys), [None, pa.py_buffer(keys)])


def _file(out: Artifact, subset: Subset) -> str:
    return out.meta(f"{subset.name}.npy")


def _range_file(out: Artifact, subset: Subset, number: int) -> str:
    return out.meta(f"{subset.name}/{shard_name(number, '.npy')}")


def _write_header(file: BinaryIO, count: int) -> None:
    """The .npy header of an array of `count` uids."""
    header = {"descr": np.lib.format.dtype_to_descr(UID), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
