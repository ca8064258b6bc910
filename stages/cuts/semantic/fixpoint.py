"""The stage `duplicates` by image vectors: compares and decides in turn until every sample is kept or removed.

It compares the vectors of every cell, decides in rounds, and compares again for samples whose list of links was too
short. docs/semantic.md explains why this ends. Each step leaves a folder in `steps/`, and a step
that is finished is not done again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow.compute as pc

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, json_if_whole, write_json
from winnow.pipeline.columns import column
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.executors.contract import Exchange
from winnow.pipeline.stage import Run, ShardItem, Summary, total
from winnow.stages.clusters.clusters import Members, read_centroids, read_sizes
from winnow.stages.cuts.keeping import funnel
from winnow.stages.cuts.semantic.buckets import Buckets
from winnow.stages.cuts.semantic.compare import Closeness, Compare, appearances
from winnow.stages.cuts.semantic.decide import Decide
from winnow.stages.cuts.semantic.naming import Name
from winnow.stages.cuts.semantic.state import CUT_OFF, read_state
from winnow.stages.growth import Growth, PairsInCells
from winnow.stages.survivors import Survivors

Method = Literal["greedy", "semdedup"]

_COMPARE = "duplicates: compare"
_LINKS = 8  # that a sample keeps at a time, for thousands may be alike; who needs more is compared again
_BLOCK_BYTES = 64 << 20  # float16 vectors of one block of a giant cell
_PART_BYTES = 256 << 20  # of float16 vectors that one worker compares at a time, or more where there are
_PARTS = 2048  # such parts, for the driver holds a reference for each of them and block of shards
_PART_ROWS = 1_000_000  # of links and answers: about 100 bytes each, several times


@dataclass(frozen=True)
class SemanticStage:
    """In every cell, a sample too close to one that stays is dropped.

    exact: artifact of the exact duplicates before, which are repeated in this one; None where bytes are not compared.
    probes: how many other cells a sample may visit, as the clusters were made for. k: how many cells were asked for, 1
    where the centroids are known ones; only a price goes by it.
    """

    survivors: Survivors
    exact: Artifact | None
    clusters: Artifact
    by: str
    epsilon: float
    method: Method
    probes: int = field(default=0, metadata={"fingerprint": False})
    k: int = field(default=1, metadata={"fingerprint": False})
    name: ClassVar[str] = "duplicates"
    version: ClassVar[int] = 2

    def make(self, run: Run, out: Artifact) -> Summary:
        """Exchanges that compare and decide, in turn, then one that names the kept sample of each duplicate.

        Raises AccountingError where samples wait and none of them can be decided, which links to better ones rule out.
        """
        chained = self.method == "semdedup"
        order = "distance" if chained else "quality"
        what = Closeness(self.survivors, self.clusters, self.by, self.epsilon, order, 1 if chained else _LINKS)
        steps = _Steps(run, out)
        buckets = self._buckets(run)
        links = state = cells = None
        while True:
            # the first time everybody looks for links, then only those that are CUT_OFF, in the cells that see them
            compare = Compare(what, buckets, steps.folder, links, state, cells)
            left = steps.take(compare, _COMPARE)
            links = state = compare.target
            parts = max(1, -(-left["links"] // _PART_ROWS))
            # each round decides at least the best sample that waits, unless it hangs on one that is CUT_OFF
            while left["waiting"] and left.get("changed", 1):
                decide = Decide(links, state, steps.folder, parts, what.most, chained)
                left = steps.take(decide, "duplicates: decide")
                state = decide.target
            if not left["waiting"] + left["cut"]:
                break
            if not left["cut"]:
                raise AccountingError(f"{out.name}: {left['waiting']} samples wait for none; delete it and run again")
            cells = self._cells_of_cut_off(run, what, state, len(buckets.blocks))
        parts = max(1, -(-self.survivors.count() // _PART_ROWS))
        name = Name(self.survivors, self.exact, state, out, parts)
        return funnel(run.exchange(name, "duplicates: name"), epsilon=self.epsilon, steps=steps.number)

    def growth(self, label: str, step: str) -> Growth | None:
        """See Growing.growth; pairs are compared where the rows of a cell have come together."""
        return PairsInCells(self.k, self.probes) if step == "decide" and label.startswith(_COMPARE) else None

    def width(self, out: Artifact) -> int:
        """See Growing.width."""
        return int(read_centroids(self.clusters).shape[1])

    def _buckets(self, run: Run) -> Buckets:
        centroids = read_centroids(self.clusters)
        rows = read_sizes(self.clusters) * (1 + self.probes)
        row_bytes = 2 * centroids.shape[1]
        part_rows = max(1, _PART_BYTES // row_bytes, int(rows.sum()) // _PARTS)
        return Buckets.of(rows, max(1, _BLOCK_BYTES // row_bytes), part_rows)

    def _cells_of_cut_off(self, run: Run, what: Closeness, state: str, k: int) -> np.ndarray:
        """Which cells see a sample that is CUT_OFF: bool (k,)."""
        cells = np.zeros(k, bool)
        for _, found in run.each(_CutOff(what, state), run.items, "duplicates: who is cut off"):
            cells[found] = True
        return cells


class _Steps:
    """The exchanges of one stage, numbered; one that was finished before a crash is not done again."""

    def __init__(self, run: Run, out: Artifact) -> None:
        self._run, self._out = run, out
        self.number = 0

    @property
    def folder(self) -> str:
        """Where the next step leaves its files."""
        return self._out.meta(f"steps/{self.number:02d}")

    def take(self, work: Exchange[ShardItem, Summary], label: str) -> Mapping[str, int]:
        """Do the next step; the sums of what its shards report."""
        done = storage.join(self.folder, "done.json")
        self.number += 1
        if (known := json_if_whole(done)) is not None:
            return cast(Mapping[str, int], known)
        summaries = self._run.exchange(work, f"{label} (step {self.number})")
        sums = {name: total(summaries, name) for name in (summaries[0] if summaries else ("waiting", "cut"))}
        write_json(done, sums)
        return sums


@dataclass(frozen=True)
class _CutOff:
    """The cells that samples of one shard which are CUT_OFF are seen in, at home or as visitors."""

    what: Closeness
    state: str

    def __call__(self, item: ShardItem) -> np.ndarray:
        found = read_state(self.state, item.index)
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
