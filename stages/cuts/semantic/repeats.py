"""Verifies that each sample dropped by `duplicates` repeats one that it kept, by bytes or with the stored cosine.

An exchange brings each dropped sample together with the kept sample that it names, by a hash of the uid. The shard of
the kept sample compares the two. Only a sample of the vectors travels, and only findings come back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, split_table
from winnow.pipeline.errors import DataError
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.uid import UID_ARROW, bytes_of, uids_from_bytes
from winnow.stages.cuts.contract.findings import Findings, looked, met, reading, violated_rows
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.semantic.sameness import What, hashes_of
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.survivors import Tower

_PART = 2_000_000  # uids that meet in one part
_VECTOR, _HASH = 1, 2  # what a proof holds: the image's vector, or the hash of its bytes; 0 means no proof

_SENT = pa.schema(
    [
        ("uid", UID_ARROW),
        ("shard", pa.int64()),
        ("row", pa.int64()),
        ("names", pa.bool_()),
        ("kind", pa.int8()),
        ("cosine", pa.float32()),
        ("proof", pa.binary()),
    ]
)
"""A kept sample under its own uid; or, if `names`, a dropped one under the uid that it names, with a proof or null."""

_ASKED = pa.schema([("mine", pa.int64()), *(_SENT.field(name) for name in ("shard", "row", "kind", "cosine", "proof"))])
"""Row `mine` of this shard is named by `row` of `shard`. mine = -1: `row` of this shard names no kept sample."""


@dataclass(frozen=True)
class Dropping:
    """One artifact that drops duplicates.

    limit: cosines of `by`'s vectors must be above it; None if only bytes are compared. exact: the earlier artifact that
    compared bytes and whose verdicts this one repeats. chained: the paper's rule, in which the cosine is not that with
    the named sample. what: of exact duplicates is the same. tower: whose vectors `by` compares.
    """

    cut: FinishedCut
    artifact: Artifact
    by: str | None = None
    limit: float | None = None
    exact: Artifact | None = None
    chained: bool = False
    what: What = "bytes"
    tower: Tower = "image"

    @property
    def dropped(self) -> int:
        """Number of samples that the artifact drops."""
        report = self.artifact.done() or {}
        return int(str(report.get("dropped", 0)))


def check_dropping(run: Run, dropping: Dropping) -> Findings:
    """Check that each dropped sample names a kept one with equal bytes, or with a cosine above the limit.

    Cosines are computed anew from the vectors of a sample of the dropped.
    """
    work = _MeetRepeats(dropping, dropping.dropped, max(1, -(-dropping.cut.pool.count // _PART)))
    return met(run, work, run.items, dropping.artifact.stage)


@dataclass(frozen=True)
class _MeetRepeats:
    """The exchange: kept samples and the dropped ones that name them meet by a hash of the uid."""

    dropping: Dropping
    dropped: int
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        with reading(item.url):
            kept, gone, table = self._read(item)
            uids = bytes_of(self.dropping.cut.before.table(item.index, ["uid"])["uid"])
            kind, proofs = self._proofs(item, gone, table)
            named = table["duplicate_of"].combine_chunks().take(pa.array(gone))
            known = np.flatnonzero(np.asarray(named.is_valid()))  # `settle` reports those that name nobody
            named = bytes_of(named.drop_null())
            n, m = len(kept), len(known)  # the first n rows are kept samples, the other m name one
            sent = pa.table(
                [
                    pa.concat_arrays([uids.take(pa.array(kept)), named]),
                    pa.array(np.full(n + m, item.index)),
                    pa.array(np.r_[kept, gone[known]]),
                    pa.array(np.arange(n + m) >= n),
                    pa.array(np.r_[np.zeros(n, np.int8), kind[known]]),
                    pa.concat_arrays(
                        [pa.nulls(n, pa.float32()), table["cosine"].combine_chunks().take(pa.array(gone[known]))]
                    ),
                    pa.array([*[None] * n, *(proofs.get(int(at)) for at in known)], pa.binary()),
                ],
                schema=_SENT,
            )
            part = (hash64(uids_from_bytes(sent["uid"]), 0) % np.uint64(self.parts)).astype(np.int64)
            return split_table(sent, part)

    def _read(self, item: ShardItem) -> tuple[np.ndarray, np.ndarray, pa.Table]:
        """The rows that are kept, the rows that this artifact dropped, and its table."""
        before = self.dropping.cut.before.mask(item.index)
        table = self.dropping.artifact.read(item.index, ["kept", "duplicate_of", "cosine"])
        kept = column(table, "kept")
        if len(kept) != len(before):
            raise DataError(f"{self.dropping.artifact.shard(item.index)} must have {len(before)} rows, got {len(kept)}")
        return np.flatnonzero(kept), np.flatnonzero(before & ~kept), table.combine_chunks()

    def _by_bytes(self, item: ShardItem, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Which rows repeat the bytes of the sample they name, and which exact duplicates got another name: bool (n,).

        A row gets another name if the sample that it named was dropped as a semantic duplicate.
        """
        n = len(table)
        if self.dropping.limit is None:
            return np.ones(n, bool), np.zeros(n, bool)
        if self.dropping.exact is None:
            return np.zeros(n, bool), np.zeros(n, bool)
        exact = self.dropping.exact.read(item.index, ["duplicate_of"])["duplicate_of"].combine_chunks()
        same = np.asarray(pc.fill_null(pc.equal(exact, table["duplicate_of"].combine_chunks()), False))
        return same, np.asarray(exact.is_valid()) & ~same

    def _proofs(self, item: ShardItem, gone: np.ndarray, table: pa.Table) -> tuple[np.ndarray, Mapping[int, bytes]]:
        """What each dropped row is compared by: kind int8 (m,), and the bytes of its proof, by index in `gone`.

        All hashes of bytes are compared, and a sample of the vectors. Rows are skipped if the stored cosine is not the
        one with the named sample: those with another name, and all if chained.
        """
        by_bytes, renamed = self._by_bytes(item, table)
        before = self.dropping.cut.before
        kind = np.where(by_bytes[gone], _HASH, 0).astype(np.int8)
        hashed = np.flatnonzero(kind == _HASH)
        found: dict[int, bytes] = {}
        if len(hashed):
            hashes = hashes_of(before, item.index, self.dropping.what).take(pa.array(gone[hashed]))
            found |= zip(hashed.tolist(), hashes.to_pylist(), strict=True)
        if not self.dropping.chained and self.dropping.limit is not None and self.dropping.by is not None:
            sampled = self.dropping.cut.pool.sample.mask(before.uids(item.index)[gone], self.dropped)
            drawn = np.flatnonzero(sampled & (kind == 0) & ~renamed[gone])
            kind[drawn] = _VECTOR
            vectors = before.vectors(item.index, item.url, self.dropping.by, self.dropping.tower, gone[drawn])
            found |= {int(at): vector.tobytes() for at, vector in zip(drawn, vectors, strict=True)}
        return kind, found

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """Tell the shard of each named sample who names it, and tell a shard which of its rows name no kept sample."""
        table = pa.concat_tables(tables).combine_chunks()
        uid, shard, row = uids_from_bytes(table["uid"]), column(table, "shard"), column(table, "row")
        names = column(table, "names")
        order = np.lexsort((row, shard, names, uid["f1"], uid["f0"]))  # by uid, the kept sample first in each group
        uid, names = uid[order], names[order]
        new = np.r_[True, uid[1:] != uid[:-1]]
        group, start = np.cumsum(new) - 1, np.flatnonzero(new)
        # (rows,): how many kept samples have this uid
        stay = np.bincount(group, weights=~names).astype(np.int64)[group]
        asks = np.flatnonzero(names)
        lost = asks[stay[asks] == 0]
        # if two kept samples have one uid, it is not clear which is meant, so nothing is compared
        sure = asks[(stay[asks] == 1) & (column(table, "kind")[order[asks]] > 0)]
        target = np.r_[shard[order[lost]], shard[order[start[group[sure]]]]]
        mine = np.r_[np.full(len(lost), -1), row[order[start[group[sure]]]]]
        asked = table.select(_ASKED.names[1:]).take(pa.array(order[np.r_[lost, sure]]))
        asked = asked.add_column(0, _ASKED.field("mine"), pa.array(mine))
        return split_table(asked, target)

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Findings:
        with reading(item.url):
            asked = pa.concat_tables([_ASKED.empty_table(), *tables]).combine_chunks()
            found = self._stated(item)
            lost = column(asked.filter(pc.less(asked["mine"], 0)), "row")
            found += violated_rows(
                item, np.sort(lost), lambda row: f"{self._said(item, row)} must name a sample that stays"
            )
            asked = asked.filter(pc.greater_equal(asked["mine"], 0)).sort_by(
                [("shard", "ascending"), ("row", "ascending")]
            )
            found += self._bytes(item, asked.filter(pc.equal(asked["kind"], _HASH)))
            return found + self._vectors(item, asked.filter(pc.equal(asked["kind"], _VECTOR)))

    def _said(self, item: ShardItem, row: int) -> str:
        name = self.dropping.artifact.read(item.index, ["duplicate_of"])["duplicate_of"][row].as_py()
        who = self.dropping.cut.pool.who(item, row)
        return f"{who}: {self.dropping.artifact.stage} dropped it for {name or 'none'}, but it"

    def _stated(self, item: ShardItem) -> Findings:
        """Check the columns alone: dropped samples, and no others, must name one, with a cosine that suffices."""
        kept, gone, table = self._read(item)
        names = np.asarray(table["duplicate_of"].is_valid() if len(table) else [], bool)
        expected = np.isin(np.arange(len(table)), gone)
        unclear = np.flatnonzero(names != expected)
        found = looked(samples=len(kept) + len(gone), duplicates=len(gone))
        found += violated_rows(
            item, unclear, lambda row: f"{self._said(item, row)} must name one if and only if it is dropped"
        )
        cosine = column(table, "cosine", null=np.inf)
        by_bytes, _ = self._by_bytes(item, table)
        least = np.float32(1 if self.dropping.limit is None else self.dropping.limit)
        wrong = np.flatnonzero(expected & ((cosine < least) | (by_bytes & (cosine != 1))))
        return found + violated_rows(
            item, wrong, lambda row: f"{self._said(item, row)} has cosine {cosine[row]}, not enough"
        )

    def _bytes(self, item: ShardItem, asked: pa.Table) -> Findings:
        dropping = self.dropping
        hashes = hashes_of(dropping.cut.before, item.index, dropping.what) if len(asked) else []
        mine, proofs = column(asked, "mine"), asked["proof"].to_pylist()
        wrong = [at for at, row in enumerate(mine) if hashes[int(row)].as_py() != proofs[at]]
        return looked(compared=len(asked)) + self._wrong(
            item, asked, wrong, ["other bytes" if dropping.what == "bytes" else "another caption"] * len(asked)
        )

    def _vectors(self, item: ShardItem, asked: pa.Table) -> Findings:
        by = self.dropping.by
        if not len(asked) or self.dropping.limit is None or by is None:
            return Findings()
        rows, back = np.unique(column(asked, "mine"), return_inverse=True)
        mine = self.dropping.cut.before.vectors(item.index, item.url, by, self.dropping.tower, rows)[back]
        theirs = np.frombuffer(b"".join(asked["proof"].to_pylist()), np.float16).reshape(len(asked), -1)
        made = (mine.astype(np.float64) * theirs.astype(np.float64)).sum(axis=1)
        stored = column(asked, "cosine")
        wrong = np.flatnonzero((made.astype(np.float32) != stored) | (made <= self.dropping.limit)).tolist()
        say = [f"a cosine of {cosine:.9g}, not {said:.9g}" for cosine, said in zip(made, stored, strict=True)]
        return looked(compared=len(asked)) + self._wrong(item, asked, wrong, say)

    def _wrong(self, item: ShardItem, asked: pa.Table, wrong: Sequence[int], say: Sequence[str]) -> Findings:
        """A violation for each entry of `asked` that is wrong: its row does not repeat the row that it names."""

        def say_of(at: int) -> str:
            mine, shard, row = (asked[name][at].as_py() for name in ("mine", "shard", "row"))
            other = self.dropping.cut.pool.who(ShardItem(shard, ""), row)
            return (
                f"{self.dropping.cut.pool.who(item, mine)}: {other} of shard {shard} must repeat it, but has {say[at]}"
            )

        return violated_rows(item, wrong, say_of)
