"""The stage `duplicates` by vectors: compares and decides in turn until every sample is kept or removed.

It compares the vectors of every cell, decides in rounds, and compares again for samples whose list of links was too
short. docs/semantic.md explains why this ends. Each step leaves a folder in `steps/`, and a later run skips the steps
that are finished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow.compute as pc

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, json_if_whole, write_json
from winnow.pipeline.columns import column
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.exchange.work import Exchange
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.stages.clusters.clusters import Members, read_centroids, read_sizes, tower_of
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
_LINKS = 8  # links of a sample: thousands may be alike, so the list is short; samples that need more compare again
_BLOCK_BYTES = 64 << 20  # float16 vectors of one block of a giant cell
_PART_BYTES = 256 << 20  # float16 vectors that one worker compares at a time
_PART_ROWS = 1_000_000  # links and answers of one part: about 100 bytes each, in several copies


@dataclass(frozen=True)
class SemanticStage:
    """Drops samples that are too close to a better sample that is kept.

    exact: artifact of the exact duplicates, which this one repeats; None if bytes are not compared.
    probes: how many other cells a sample may visit; the clusters were made with the same number. k: number of cells
    asked for, 1 if the centroids are given; only price estimates use it.
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
        """Run exchanges that compare and decide in turn, then one that names the kept sample of each duplicate.

        Raises AccountingError if samples wait and none of them can be decided. That cannot happen while all links lead
        to better samples.
        """
        chained = self.method == "semdedup"
        order = "distance" if chained else "quality"
        most, tower = 1 if chained else _LINKS, tower_of(self.clusters)
        what = Closeness(self.survivors, self.clusters, self.by, self.epsilon, order, most, tower)
        steps = _Steps(run, out)
        buckets = self._buckets(run)
        links = state = cells = None
        while True:
            # First every sample looks for links. Later only CUT_OFF samples do, in the cells in which they appear.
            compare = Compare(what, buckets, steps.folder, links, state, cells)
            left = steps.take(compare, _COMPARE)
            links = state = compare.target
            parts = max(1, -(-left["links"] // _PART_ROWS))
            # Each round decides at least the best waiting sample, unless it depends on one that is CUT_OFF.
            while left["waiting"] and left.get("changed", 1):
                decide = Decide(links, state, steps.folder, parts, what.most, chained)
                left = steps.take(decide, "duplicates: decide")
                state = decide.target
            if not left["waiting"] + left["cut"]:
                break
            if not left["cut"]:
                raise AccountingError(
                    f"{out.name}: each round must decide a sample, but the last decided none of {left['waiting']} that "
                    f"wait; delete the folders of this artifact and run again"
                )
            cells = self._cells_of_cut_off(run, what, state, len(buckets.blocks))
        parts = max(1, -(-self.survivors.count() // _PART_ROWS))
        name = Name(self.survivors, self.exact, state, out, parts)
        return funnel(run.exchange(name, "duplicates: name", out), epsilon=self.epsilon, steps=steps.number)

    def growth(self, label: str, step: str) -> Growth | None:
        """See Growing.growth. Only the decide step of a comparing exchange compares pairs."""
        return PairsInCells(self.k, self.probes) if step == "decide" and label.startswith(_COMPARE) else None

    def width(self, out: Artifact) -> int:
        """See Growing.width."""
        return int(read_centroids(self.clusters).shape[1])

    def _buckets(self, run: Run) -> Buckets:
        centroids = read_centroids(self.clusters)
        rows = read_sizes(self.clusters) * (1 + self.probes)  # (k,), as if every sample made all its visits
        row_bytes = 2 * centroids.shape[1]  # d float16 numbers
        part_rows = max(1, _PART_BYTES // row_bytes)
        return Buckets.of(rows, max(1, _BLOCK_BYTES // row_bytes), part_rows)

    def _cells_of_cut_off(self, run: Run, what: Closeness, state: str, k: int) -> np.ndarray:
        """The cells in which a CUT_OFF sample appears: bool (k,)."""
        cells = np.zeros(k, bool)
        for found in run.reduce(_CutOff(what, state), _merge_cells, run.items, "duplicates: who is cut off"):
            cells[found] = True
        return cells


class _Steps:
    """Numbers the exchanges of one stage, and skips those that were finished before a crash."""

    def __init__(self, run: Run, out: Artifact) -> None:
        self._run, self._out = run, out
        self.number = 0

    @property
    def folder(self) -> str:
        """The folder of the next step."""
        return self._out.meta(f"steps/{self.number:02d}")

    def take(self, work: Exchange[ShardItem, Summary], label: str) -> Mapping[str, int]:
        """Do the next step, unless it is done; return the sums of what its shards report."""
        done = storage.join(self.folder, "done.json")
        self.number += 1
        if (known := json_if_whole(done)) is not None:
            return cast(Mapping[str, int], known)
        totals = self._run.exchange(work, f"{label} (step {self.number})", self._out)
        sums = {name: totals.number(name) for name in totals.fields or ("waiting", "cut")}
        write_json(done, sums)
        return sums


def _merge_cells(parts: Sequence[np.ndarray]) -> np.ndarray:
    found: np.ndarray = np.unique(np.concatenate(parts))
    return found


@dataclass(frozen=True)
class _CutOff:
    """Returns the cells in which the CUT_OFF samples of one shard appear, at home or as visitors."""

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
        vectors = what.survivors.vectors(item.index, item.url, what.by, what.tower, members.rows)
        return np.unique(appearances(vectors, members, what)[1])
