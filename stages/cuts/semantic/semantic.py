"""Leaves `duplicates-…/`: which samples mean the same as a better one (SemDeDup), and the kept one that each repeats.

Clusters bring together what may be close. `links.py` compares, `verdicts.py` decides, and this stage repeats them
until every sample has its verdict; what is done of it is in `steps/` and is not done again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, json_if_whole, write_json
from winnow.pipeline.columns import column, places_in, split_rows
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.executors.contract import Regroup
from winnow.pipeline.order import key_uids, keys_from_bytes
from winnow.pipeline.stage import Run, ShardItem, Summary, total
from winnow.pipeline.uid import UID_ARROW, bytes_of, hex_of, uids_from_bytes, uids_to_bytes
from winnow.stages.clusters.clusters import Members, read_centroids, read_sizes
from winnow.stages.cuts.cut import funnel, write_kept
from winnow.stages.cuts.semantic.cells import Buckets
from winnow.stages.cuts.semantic.links import CUT_OFF, REMOVED, Compare, Semantic, appearances, read_state
from winnow.stages.cuts.semantic.verdicts import Decide
from winnow.stages.survivors import Survivors

Method = Literal["greedy", "semdedup"]

VERDICTS = pa.schema([("row", pa.int64()), ("duplicate_of", UID_ARROW), ("cosine", pa.float32())])
"""What is said of each sample that is a duplicate."""

_LINKS = 8  # that a sample keeps at a time, for thousands may be alike; who needs more is compared again
_BLOCK_BYTES = 64 << 20  # float16 vectors of one block of a giant cell
_PART_BYTES = 256 << 20  # of float16 vectors that one worker compares at a time, or more where there are
_PARTS = 2048  # such parts, for the driver holds a reference for each of them and block of shards
_PART_ROWS = 1_000_000  # of links, verdicts or questions: about 100 bytes each, several times


@dataclass(frozen=True)
class SemanticStage:
    """In every cell, a sample too close to one that stays is dropped.

    exact: the stage before, whose verdicts are carried on in this artifact; None where bytes are not compared.
    probes: how many other cells a sample may visit, as the clusters were made for.
    """

    survivors: Survivors
    exact: Artifact | None
    clusters: Artifact
    by: str
    epsilon: float
    method: Method
    probes: int = field(default=0, metadata={"fingerprint": False})
    name: ClassVar[str] = "duplicates"
    version: ClassVar[int] = 2

    def make(self, run: Run, out: Artifact) -> Summary:
        """One regroup that compares, one or more that decide, and one that names the kept sample of each duplicate."""
        chained = self.method == "semdedup"
        order = "distance" if chained else "quality"
        what = Semantic(self.survivors, self.clusters, self.by, self.epsilon, order, 1 if chained else _LINKS)
        steps = _Steps(run, out)
        buckets = self._buckets(run)
        links = state = cells = None
        while True:
            compare = Compare(what, buckets, steps.folder, links, state, cells)
            left = steps.take(compare, "duplicates: compare")
            links = state = compare.target
            parts = max(1, -(-left["links"] // _PART_ROWS))
            while left["waiting"] and left.get("changed", 1):
                decide = Decide(links, state, steps.folder, parts, what.most, chained)
                left = steps.take(decide, "duplicates: decide")
                state = decide.target
            if not left["waiting"] + left["cut"]:
                break
            if not left["cut"]:
                raise AccountingError(f"{out.name}: {left['waiting']} samples wait for none; delete it and run again")
            cells = self._cells_of_cut_off(run, what, state, len(buckets.blocks))
        commit = _Commit(self, state, out, max(1, -(-self.survivors.count() // _PART_ROWS)))
        return funnel(run.regroup(commit, "duplicates: name"), epsilon=self.epsilon, steps=steps.number)

    def _buckets(self, run: Run) -> Buckets:
        centroids = read_centroids(self.clusters)
        rows = read_sizes(self.clusters) * (1 + self.probes)
        row_bytes = 2 * centroids.shape[1]
        part_rows = max(1, _PART_BYTES // row_bytes, int(rows.sum()) // _PARTS)
        return Buckets.of(rows, max(1, _BLOCK_BYTES // row_bytes), part_rows)

    def _cells_of_cut_off(self, run: Run, what: Semantic, at: str, k: int) -> np.ndarray:
        """Which cells hold a sample that is cut off: bool (k,)."""
        cells = np.zeros(k, bool)
        for _, found in run.each(_CutOff(what, at), run.items, "duplicates: who is cut off"):
            cells[found] = True
        return cells


class _Steps:
    """The regroups of one stage, numbered; one that was finished before a crash is not done again."""

    def __init__(self, run: Run, out: Artifact) -> None:
        self._run, self._out = run, out
        self.number = 0

    @property
    def folder(self) -> str:
        """Where the next step leaves its files."""
        return self._out.meta(f"steps/{self.number:02d}")

    def take(self, work: Regroup[ShardItem, Summary], label: str) -> Mapping[str, int]:
        """Do the next step; the sums of what its shards report."""
        done = storage.join(self.folder, "done.json")
        self.number += 1
        if (known := json_if_whole(done)) is not None:
            return cast(Mapping[str, int], known)
        summaries = self._run.regroup(work, f"{label} (step {self.number})")
        sums = {name: total(summaries, name) for name in (summaries[0] if summaries else ("waiting", "cut"))}
        write_json(done, sums)
        return sums


@dataclass(frozen=True)
class _CutOff:
    """The cells that the samples of one shard which are cut off must be seen in."""

    what: Semantic
    at: str

    def __call__(self, item: ShardItem) -> np.ndarray:
        found = read_state(self.at, item.index)
        rows = column(found.filter(pc.equal(found["status"], CUT_OFF)), "row")
        if not len(rows):
            return np.empty(0, np.int64)
        what = self.what
        members = Members.read(what.clusters, item.index)
        there = np.isin(members.rows, rows)
        probes = None if members.probes is None else members.probes[there]
        members = Members(members.rows[there], members.cluster[there], members.distance[there], probes)
        vectors = what.survivors.vectors(item.index, item.url, what.by, "image", members.rows)
        return np.unique(appearances(vectors, members, what)[1])


@dataclass(frozen=True)
class _Commit:
    """Commits the verdicts; an exact duplicate whose kept one has gone names, by its uid, whom that one repeats."""

    stage: SemanticStage
    at: str
    out: Artifact
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        if self.stage.exact is None:
            return {}
        exact = _exact(self.stage.exact, item.index)
        semantic = _semantic(self.at, item.index)
        uids = self.stage.survivors.uids(item.index)[column(semantic, "row")]
        asked = exact.append_column("shard", pa.array(np.full(len(exact), item.index)))
        asked = asked.append_column("uid", exact["duplicate_of"])
        told = semantic.append_column("shard", pa.array(np.full(len(semantic), -1)))
        told = told.append_column("uid", uids_to_bytes(uids))
        both = pa.concat_tables([asked, told]).combine_chunks()
        part = uids_from_bytes(both["uid"])["f1"] % np.uint64(self.parts)
        return {number: both.take(pa.array(at)) for number, at in split_rows(part.astype(np.int64))}

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        table = pa.concat_tables(tables).combine_chunks()
        shard, uids = column(table, "shard"), uids_from_bytes(table["uid"])
        told, asked = np.flatnonzero(shard < 0), np.flatnonzero(shard >= 0)
        told = told[np.argsort(uids[told], kind="stable")]
        at = places_in(uids[told], uids[asked])
        gone = at >= 0
        found = table.select(["duplicate_of", "cosine"]).take(pa.array(told[at[gone]]))
        found = found.add_column(0, "row", table["row"].take(pa.array(asked[gone])))
        return {index: found.take(pa.array(rows)) for index, rows in split_rows(shard[asked[gone]])}

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        before = self.stage.survivors.mask(item.index)
        verdicts = [_semantic(self.at, item.index)]
        if self.stage.exact is not None:
            exact = _exact(self.stage.exact, item.index)
            before[column(exact, "row")] = True
            renamed = pa.concat_tables([VERDICTS.empty_table(), *tables])
            same = ~np.isin(column(exact, "row"), column(renamed, "row"))
            verdicts += [exact.filter(pa.array(same)), renamed]
        return commit_verdicts(self.out, item, before, verdicts)


def _exact(exact: Artifact, index: int) -> pa.Table:
    """Columns VERDICTS of the exact duplicates of one shard."""
    table = exact.read(index, ["duplicate_of", "cosine"])
    rows = np.flatnonzero(np.asarray(table["duplicate_of"].is_valid()))
    found = table.take(pa.array(rows))
    return pa.table([pa.array(rows), bytes_of(found["duplicate_of"]), found["cosine"]], schema=VERDICTS)


def _semantic(at: str, index: int) -> pa.Table:
    """Columns VERDICTS of the semantic duplicates of one shard."""
    state = read_state(at, index)
    state = state.filter(pc.equal(state["status"], REMOVED)).combine_chunks()
    named = uids_to_bytes(key_uids(keys_from_bytes(state["named"])))
    return pa.table([state["row"], named, state["cosine"]], schema=VERDICTS)


def commit_verdicts(out: Artifact, item: ShardItem, before: np.ndarray, tables: Sequence[pa.Table]) -> Summary:
    """Commit one shard of a duplicates artifact; before: bool (n,), in before this cut; tables: columns VERDICTS."""
    after = before.copy()
    found = pa.concat_tables([VERDICTS.empty_table(), *[table.select(VERDICTS.names) for table in tables]])
    rows = column(found, "row")
    after[rows] = False
    at = np.full(len(before), len(rows))
    at[rows] = np.arange(len(rows))
    index = pa.array(at, mask=at == len(rows))
    named, cosine = (found[name].combine_chunks().take(index) for name in ("duplicate_of", "cosine"))
    return write_kept(out, item, before, after, {"duplicate_of": hex_of(named), "cosine": cosine})
