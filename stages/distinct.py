"""The stage `distinct`: rejects samples that have the same uid as an earlier one.

All later stages name samples by uid: cuts break ties by it, uids.npy lists it, and training data is joined by it. So a
uid must name exactly one sample of the pool, and this stage makes sure of that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact, read_schema
from winnow.pipeline.columns import column, places_in, split_rows
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.uid import UID_ARROW, bytes_of, uids_from_bytes
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.pools.sample import Reject
from winnow.stages.rejects import write_rejects

REPEATED = "repeated-uid"
"""Kind of the reject for a sample with the uid of an earlier sample."""

_PART_ROWS = 2_000_000  # rows (uid, place) of one part: 32 bytes each

_PLACED = pa.schema([("uid", UID_ARROW), ("shard", pa.int64()), ("position", pa.int64())])
_FIRST = pa.schema([("position", pa.int64()), ("first_shard", pa.int64()), ("first_position", pa.int64())])


@dataclass(frozen=True)
class Distinct:
    """Of all samples with one uid, the first in the order of the pool stays. The others are rejects.

    If the uid is a hash of image and caption, these are copies of the same pair. If the pool has its own uids, they may
    be different pairs, but samples with the same name cannot be accounted for. Cost: one exchange.
    """

    embeddings: Artifact
    name: ClassVar[str] = "distinct"
    version: ClassVar[int] = 1

    def rejecting(self, made: Artifact) -> tuple[Artifact, ...]:
        """See Rejecting.rejecting."""
        return self.embeddings, made

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard: `kept` for every row of the embeddings file."""
        embedded = self.embeddings.done()
        if embedded is None:
            raise AccountingError(f"{self.embeddings.name} must be finished before its uids are compared")
        parts = max(1, -(-cast(int, embedded["kept"]) // _PART_ROWS))
        totals = run.exchange(_Compare(self.embeddings, out, parts), self.name, out)
        came, kept = totals.number("rows"), totals.number("kept")
        return {"kept": kept, "rejected": came - kept, "rejects": {REPEATED: came - kept} if came > kept else {}}


@dataclass(frozen=True)
class _Compare:
    embeddings: Artifact
    out: Artifact
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        table = self.embeddings.read(item.index, ["uid", "position"])
        shard = pa.array(np.full(len(table), item.index))
        placed = pa.table([bytes_of(table["uid"]), shard, table["position"]], schema=_PLACED)
        if self.parts == 1:
            return {0: placed}
        part = (hash64(uids_from_bytes(placed["uid"]), 0) % np.uint64(self.parts)).astype(np.int64)
        return {number: placed.take(pa.array(at)) for number, at in split_rows(part)}

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
        return {index: found.take(pa.array(rows)) for index, rows in split_rows(shard[again])}

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        table = self.embeddings.read(item.index, ["position"])
        found = pa.concat_tables([_FIRST.empty_table(), *tables]).sort_by("position")
        kept = np.ones(len(table), bool)
        rows = places_in(column(table, "position"), column(found, "position"))
        kept[rows] = False
        kinds = {}
        if len(rows):
            write_rejects(self.out, item.index, self._rejects(item, rows, found))
            kinds[REPEATED] = len(rows)
        summary = {"rows": len(kept), "in": len(kept), "kept": int(kept.sum()), "rejects": kinds}
        self.out.write(item.index, pa.table({"kept": pa.array(kept)}), summary)
        return summary

    def _rejects(self, item: ShardItem, rows: np.ndarray, found: pa.Table) -> list[Reject]:
        schema = read_schema(self.embeddings.shard(item.index))  # it has `offset` if the shard is a tar
        columns = [name for name in ("position", "key", "uid", "offset") if name in schema.names]
        places = self.embeddings.read(item.index, columns).take(pa.array(rows))
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
