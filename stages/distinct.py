"""The stage `distinct`: rejects samples that have no vector of an encoder, or the same uid as an earlier one.

All later stages name samples by uid: cuts break ties by it, uids.npy lists it, and training data is joined by it. So a
uid must name exactly one sample of the pool, and this stage makes sure of that.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact, read_schema
from winnow.pipeline.columns import column, places_in, split_table
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.uid import UID_ARROW, bytes_of, uids_from_bytes
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.pools.sample import Reject
from winnow.stages.rejects import REPEATED, read_rejects, rejects_report, write_rejects

_PART_ROWS = 2_000_000  # rows (uid, place) of one part: 32 bytes each

_PLACED = pa.schema([("uid", UID_ARROW), ("shard", pa.int64()), ("position", pa.int64())])
_FIRST = pa.schema([("position", pa.int64()), ("first_shard", pa.int64()), ("first_position", pa.int64())])


@dataclass(frozen=True)
class Distinct:
    """Of all samples with one uid, the first in the order of the pool stays. The others are rejects.

    vectors: artifacts of the encoders. A sample that one of them rejects is out before uids are compared; its reject
    is told again here, once, so that this artifact and that of the samples have every reject of the job.

    If the uid is a hash of image and caption, these are copies of the same pair. If the pool has its own uids, they may
    be different pairs, but samples with the same name cannot be accounted for. Cost: one exchange.
    """

    samples: Artifact
    vectors: tuple[Artifact, ...] = ()
    name: ClassVar[str] = "distinct"
    version: ClassVar[int] = 1

    def rejecting(self, made: Artifact) -> tuple[Artifact, ...]:
        """See Rejecting.rejecting."""
        return self.samples, made

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard: `kept` for every row of the samples file."""
        read = self.samples.done()
        if read is None:
            raise AccountingError(f"{self.samples.name} must be finished before its uids are compared")
        parts = max(1, -(-cast(int, read["kept"]) // _PART_ROWS))
        return rejects_report(run.exchange(_Compare(self.samples, self.vectors, out, parts), self.name, out))


@dataclass(frozen=True)
class _Compare:
    samples: Artifact
    vectors: tuple[Artifact, ...]
    out: Artifact
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        table = self.samples.read(item.index, ["uid", "position"])
        there = self._there(item, len(table))
        if not there.all():
            table = table.filter(pa.array(there))
        shard = pa.array(np.full(len(table), item.index))
        placed = pa.table([bytes_of(table["uid"]), shard, table["position"]], schema=_PLACED)
        if self.parts == 1:
            return {0: placed}
        part = (hash64(uids_from_bytes(placed["uid"]), 0) % np.uint64(self.parts)).astype(np.int64)
        return split_table(placed, part)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        table = pa.concat_tables(tables)
        uid = uids_from_bytes(table["uid"])
        at = _perhaps_repeated(uid)
        # Tables come in the order of the pool and the sort is stable, so the first of equal uids is first in the pool.
        at = at[np.lexsort((uid["f1"][at], uid["f0"][at]))]
        new = np.r_[True, uid[at[1:]] != uid[at[:-1]]][: len(at)]
        first = at[new][np.cumsum(new) - 1]  # (m,): for each row the first row with its uid
        shard, position = column(table, "shard"), column(table, "position")
        again, first = at[~new], first[~new]
        found = pa.table([position[again], shard[first], position[first]], schema=_FIRST)
        return split_table(found, shard[again])

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        position = column(self.samples.read(item.index, ["position"]), "position")
        found = pa.concat_tables([_FIRST.empty_table(), *tables]).sort_by("position")
        kept = self._there(item, len(position))
        lost = self._lost(item) if not kept.all() else []
        rows = places_in(position, column(found, "position"))
        kept[rows] = False
        rejects = sorted([*lost, *self._rejects(item, rows, found)], key=lambda reject: reject.position)
        if rejects:
            write_rejects(self.out, item.index, rejects)
        kinds = dict(sorted(Counter(reject.kind for reject in rejects).items()))
        summary = {"rows": len(kept), "in": len(kept), "kept": int(kept.sum()), "rejects": kinds}
        self.out.write(item.index, pa.table({"kept": pa.array(kept)}), summary)
        return summary

    def _there(self, item: ShardItem, rows: int) -> np.ndarray:
        """Which rows every encoder has a vector of: bool (n,)."""
        there = np.ones(rows, bool)
        for vectors in self.vectors:
            kept = column(vectors.read(item.index, ["kept"]), "kept")
            if len(kept) != rows:
                raise AccountingError(
                    f"{vectors.name}: shard {item.url} must have {rows} rows, but has {len(kept)}; delete its file "
                    f"{vectors.shard(item.index)} to have it made anew"
                )
            there &= kept
        return there

    def _lost(self, item: ShardItem) -> list[Reject]:
        """A reject for each row without a vector: that of the first encoder of the job that has one."""
        first: dict[int, Reject] = {}
        for vectors in self.vectors:
            for row in read_rejects(vectors, item.index).to_pylist():
                first.setdefault(row["position"], Reject(**row))
        return list(first.values())

    def _rejects(self, item: ShardItem, rows: np.ndarray, found: pa.Table) -> list[Reject]:
        if not len(rows):
            return []
        schema = read_schema(self.samples.shard(item.index))  # it has `offset` if the shard is a tar
        columns = [name for name in ("position", "key", "uid", "offset") if name in schema.names]
        places = self.samples.read(item.index, columns).take(pa.array(rows))
        return [
            Reject(
                place["position"],
                place["key"],
                REPEATED,
                f"a uid names one sample, but {place['uid']} is that of sample {first['first_position']} of shard "
                f"{first['first_shard']} of the pool too, which is before this one and stays",
                place.get("offset", -1),
            )
            for place, first in zip(places.to_pylist(), found.to_pylist(), strict=True)
        ]


def _perhaps_repeated(uid: np.ndarray) -> np.ndarray:
    """Rows whose uid has the same 64-bit hash as that of another row, ascending: mostly none. Costs one sort."""
    hashes = hash64(uid, 0)
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(np.isin(hashes, twice)) if len(twice) else np.empty(0, np.int64)
