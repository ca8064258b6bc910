"""Names the kept sample that each removed one repeats, and commits the shards of a duplicates artifact.

An exact duplicate names the best sample with the same bytes. If that sample was removed as a semantic duplicate, the
exact duplicate names the sample that it repeats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, places_in, split_table
from winnow.pipeline.order import key_uids, keys_from_bytes
from winnow.pipeline.stage import ShardItem, Summary
from winnow.pipeline.uid import UID_ARROW, bytes_of, hex_of, uids_from_bytes, uids_to_bytes
from winnow.stages.cuts.keeping import write_kept
from winnow.stages.cuts.semantic.state import REMOVED, read_state
from winnow.stages.survivors import Survivors

DUPLICATES = pa.schema([("row", pa.int64()), ("duplicate_of", UID_ARROW), ("cosine", pa.float32())])
"""One row for each removed sample of a shard, with the kept one that it repeats."""


@dataclass(frozen=True)
class Name:
    """The last exchange, by uid: exact duplicates ask what became of the sample that they name.

    exact: artifact of the exact duplicates, None if bytes are not compared. state: folder of the last state.
    """

    survivors: Survivors
    exact: Artifact | None
    state: str
    out: Artifact
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        if self.exact is None:  # nobody asks, and `settle` reads the semantic duplicates from the state
            return {}
        exact = exact_rows(self.exact, item.index)
        removed = _removed(self.state, item.index)
        uids = self.survivors.uids(item.index)[column(removed, "row")]
        # A question and its answer meet under the uid of the sample that the exact duplicate names.
        asked = exact.append_column("shard", pa.array(np.full(len(exact), item.index)))
        asked = asked.append_column("uid", exact["duplicate_of"])
        # shard -1 marks an answer
        told = removed.append_column("shard", pa.array(np.full(len(removed), -1)))
        told = told.append_column("uid", uids_to_bytes(uids))
        both = pa.concat_tables([asked, told]).combine_chunks()
        part = uids_from_bytes(both["uid"])["f1"] % np.uint64(self.parts)
        return split_table(both, part.astype(np.int64))

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        table = pa.concat_tables(tables).combine_chunks()
        shard, uids = column(table, "shard"), uids_from_bytes(table["uid"])
        told, asked = np.flatnonzero(shard < 0), np.flatnonzero(shard >= 0)
        told = told[np.argsort(uids[told], kind="stable")]
        at = places_in(uids[told], uids[asked])  # (asked,): the answer to each question, -1 if that sample is kept
        gone = at >= 0
        found = table.select(["duplicate_of", "cosine"]).take(pa.array(told[at[gone]]))
        found = found.add_column(0, "row", table["row"].take(pa.array(asked[gone])))
        return split_table(found, shard[asked[gone]])

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        before = self.survivors.mask(item.index)
        found = [_removed(self.state, item.index)]
        if self.exact is not None:
            exact = exact_rows(self.exact, item.index)
            before[column(exact, "row")] = True  # exact duplicates were in before this cut
            renamed = pa.concat_tables([DUPLICATES.empty_table(), *tables])
            same = ~np.isin(column(exact, "row"), column(renamed, "row"))
            found += [exact.filter(pa.array(same)), renamed]
        return commit_duplicates(self.out, item, before, found)


def exact_rows(exact: Artifact, index: int) -> pa.Table:
    """Columns DUPLICATES of the exact duplicates of one shard."""
    table = exact.read(index, ["duplicate_of", "cosine"])
    rows = np.flatnonzero(np.asarray(table["duplicate_of"].is_valid()))
    found = table.take(pa.array(rows))
    return pa.table([pa.array(rows), bytes_of(found["duplicate_of"]), found["cosine"]], schema=DUPLICATES)


def _removed(folder: str, index: int) -> pa.Table:
    """Columns DUPLICATES of the semantic duplicates of one shard."""
    state = read_state(folder, index)
    state = state.filter(pc.equal(state["status"], REMOVED)).combine_chunks()
    named = uids_to_bytes(key_uids(keys_from_bytes(state["named"])))
    return pa.table([state["row"], named, state["cosine"]], schema=DUPLICATES)


def commit_duplicates(out: Artifact, item: ShardItem, before: np.ndarray, tables: Sequence[pa.Table]) -> Summary:
    """Commit one shard of a duplicates artifact.

    before: bool (n,), the rows that were in before this cut. tables: columns DUPLICATES, together one row for each
    sample that the cut removes.
    """
    after = before.copy()
    found = pa.concat_tables([DUPLICATES.empty_table(), *[table.select(DUPLICATES.names) for table in tables]])
    rows = column(found, "row")
    after[rows] = False
    at = np.full(len(before), len(rows))  # (n,): the entry of `found` for each row; len(rows) means null
    at[rows] = np.arange(len(rows))
    index = pa.array(at, mask=at == len(rows))
    named, cosine = (found[name].combine_chunks().take(index) for name in ("duplicate_of", "cosine"))
    return write_kept(out, item, before, after, {"duplicate_of": hex_of(named), "cosine": cosine})
