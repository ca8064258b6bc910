"""Keeps whole clusters by the votes of a target set: each of its vectors votes for its nearest centroid."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact, read_table, write_table
from winnow.pipeline.columns import column, scattered
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.sums import Sums, dense
from winnow.stages.clusters.clustered import CLUSTER_FILES, ClusteredCut, cluster_of
from winnow.stages.clusters.clusters import Members, read_centroids, read_sizes
from winnow.stages.cuts.contract.explained import Asked, Explained, at_least
from winnow.stages.cuts.contract.findings import Findings, unless_equal
from winnow.stages.cuts.contract.finished import Contents, CutRows, FinishedCut
from winnow.stages.cuts.contract.orders import Ranking, Standings, by_group
from winnow.stages.cuts.keeping import funnel, write_kept
from winnow.stages.cuts.targets.target import TARGET_FILES, Target, check_width, read_target, target_shape
from winnow.stages.kernels.nearest import assign
from winnow.stages.survivors import Survivors

VOTES = "votes.parquet"
_TARGETS = 1 << 16  # target vectors in one task


class Rule(Protocol):
    """Decides which clusters stay. A frozen dataclass, because it is part of a fingerprint."""

    def kept(self, votes: np.ndarray) -> np.ndarray:
        """Which clusters stay: bool (k,). votes: int64 (k,)."""
        ...


def _by_votes(cut: FinishedCut, rule: Rule, standing: Standings) -> Findings:
    """Check that each target vector voted once, and that clusters stay whole or go whole, as votes.parquet says."""
    table = read_table(cut.artifact.meta(VOTES))
    votes, kept = column(table, "votes"), column(table, "kept")
    voters, _ = target_shape(cut.prepared[Target.name])
    found = unless_equal(f"{cut.name}: votes of {VOTES}", voters, int(votes.sum()))
    wrong = np.flatnonzero(rule.kept(votes) != kept).tolist()
    found += unless_equal(f"{cut.name}: clusters that {VOTES} keeps against its votes", [], wrong)
    return found + by_group(cut, VOTES, table, standing, np.where(kept, column(table, "size"), 0))


def explain_votes(asked: Asked, least: int | None) -> Explained:
    """The votes for the sample's cluster. least: votes that are needed; None: the fewest of any cluster that stays."""
    table = read_table(asked.cut.artifact.meta(VOTES))
    [row] = table.slice(asked.values["cluster"], 1).to_pylist()
    if least is None:
        stay = column(table, "votes")[column(table, "kept")]
        least = int(stay.min()) if len(stay) else None
    return Explained((at_least("votes", row["votes"], least),), row)


class VotedCut(ClusteredCut):
    """A cut that keeps whole clusters by the votes of a target set; `rule` decides which."""

    ranks: ClassVar[bool] = False  # a cluster stays or goes whole

    def rule(self) -> Rule:
        """Which clusters stay."""
        raise NotImplementedError

    def contents(self) -> Mapping[str, Contents]:
        """See Cut.contents."""
        return {**CLUSTER_FILES, **TARGET_FILES, self.kind: Contents(beside=(VOTES,))}

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterable[Ranking]:
        """See Cut.rankings: one group for each cluster, in which all values are equal."""
        group = cluster_of(rows)
        return [Ranking(np.zeros(len(group), np.float32), group, rows.kept)]

    def laws(self, cut: FinishedCut, run: Run, standings: Sequence[Standings]) -> Findings:
        """See Cut.laws."""
        return _by_votes(cut, self.rule(), standings[0])


@dataclass(frozen=True)
class VotesStage:
    """Each vector of the target votes for its nearest centroid. The samples of clusters that the rule selects stay.

    name: the name of the cut.
    """

    name: str
    survivors: Survivors
    clusters: Artifact
    target: Artifact
    by: str
    rule: Rule
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """Count the votes, 65,536 vectors in a task, then commit in one pass. No vector of the pool is read.

        Cost: O(m k d) for the votes. Memory of a worker: the target's 2 m d bytes, and 12 k d bytes for centroids.
        """
        centroids = read_centroids(self.clusters)
        m, width = target_shape(self.target)
        check_width(width, centroids.shape[1], self.by)
        parts = run.each_task(_Vote(self.clusters, self.target), range(0, m, _TARGETS), f"{self.name}: votes")
        [votes] = dense((part for _, part in parts), len(centroids))
        size = read_sizes(self.clusters)
        stays = self.rule.kept(votes)
        write_table(out.meta(VOTES), _table(size, votes, stays))
        totals = run.fill(_Keep(self, stays, out), out, self.name)
        report = funnel(totals, clusters=len(stays), voted=int((votes > 0).sum()), clusters_kept=int(stays.sum()))
        if report["kept"] != int(size[stays].sum()):
            raise AccountingError(
                f"{out.name}: all {int(size[stays].sum())} samples of the clusters that stay must be kept, but "
                f"{report['kept']} were; delete this folder and run again"
            )
        return report


def _table(size: np.ndarray, votes: np.ndarray, stays: np.ndarray) -> pa.Table:
    cluster = np.arange(len(size), dtype=np.int32)
    return pa.table({"cluster": cluster, "size": size, "votes": votes, "kept": stays})


@dataclass(frozen=True)
class _Vote:
    """Returns the clusters that the _TARGETS vectors from `item` on vote for, and their votes, which add up exactly."""

    clusters: Artifact
    target: Artifact

    def open(self) -> Callable[[int], Sums]:
        return partial(self._vote, read_target(self.target), read_centroids(self.clusters))

    def _vote(self, target: np.ndarray, centroids: np.ndarray, item: int) -> Sums:
        cluster, _ = assign(target[item : item + _TARGETS], centroids)
        return Sums.of(cluster)


@dataclass(frozen=True)
class _Keep:
    """Commits one shard's verdicts; stays: bool (k,)."""

    stage: VotesStage
    stays: np.ndarray
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        before = self.stage.survivors.mask(item.index)
        members = Members.read(self.stage.clusters, item.index)
        after = np.zeros(len(before), bool)
        after[members.rows] = self.stays[members.cluster]
        columns = {
            "cluster": scattered(members.cluster, members.rows, len(before)),
            "distance": scattered(members.distance, members.rows, len(before)),
        }
        return write_kept(self.out, item, before, after, columns)
