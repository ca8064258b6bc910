"""What cuts on clusters share: checks of clusters and distances, and rankings by distance in a cluster."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal, Protocol, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, scattered
from winnow.pipeline.stage import Run, ShardItem
from winnow.stages.clusters.centroids import CENTROIDS
from winnow.stages.clusters.clusters import CLUSTER_SIZES, Members, read_centroids, tower_of
from winnow.stages.cuts.contract.explained import Asked, Explained, at_least, at_most
from winnow.stages.cuts.contract.findings import Findings, looked, of_shard, over, unequal
from winnow.stages.cuts.contract.finished import Check, Contents, CutRows, FinishedCut
from winnow.stages.cuts.contract.orders import Ranking
from winnow.stages.cuts.cut import Cut
from winnow.stages.kernels.nearest import Nearest
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.survivors import Survivors

CLUSTERS = "clusters"
"""Name of the stage that makes clusters."""

CLUSTER_FILES = {CLUSTERS: Contents(beside=(CENTROIDS, CLUSTER_SIZES))}
"""For Cut.contents of a cut that prepares clusters."""

Keep = Literal["hard", "easy", "random"]


class _Clustered(Protocol):
    @property
    def by(self) -> str: ...


def check_clusters(cut: FinishedCut, run: Run, last: Artifact | None = None) -> Findings:
    """Check that the clusters hold the survivors, and that each sampled row has the stored cluster and distance.

    last: the artifact whose survivors were clustered; None for that of the cut before.
    """
    if CLUSTERS not in cut.prepared:
        return Findings()
    survivors = replace(cut.before, last=last or cut.before.last)
    label = f"{cut.name}.{CLUSTERS}"
    return over(run, _CheckMembers(cut, survivors, label), run.items, label)


@dataclass(frozen=True)
class _CheckMembers:
    """See check_clusters. A worker reads the centroids once: 100 MB for 50,000 of 512 numbers."""

    cut: FinishedCut
    survivors: Survivors
    label: str

    def open(self) -> Callable[[ShardItem], Findings]:
        centroids = read_centroids(self.cut.prepared[CLUSTERS])
        nearest = lru_cache(1)(partial(Nearest, centroids))
        return partial(_clusters_of, self.cut, self.survivors, self.label, len(centroids), nearest)


def _clusters_of(
    cut: FinishedCut, survivors: Survivors, label: str, k: int, nearest: Callable[[int], Nearest], item: ShardItem
) -> Findings:
    """k: number of centroids. nearest: the assignment with so many probes."""
    artifact = cut.prepared[CLUSTERS]
    members = Members.read(artifact, item.index)
    inside = np.flatnonzero(survivors.mask(item.index))
    if not np.array_equal(members.rows, inside):
        return of_shard(item, f"{artifact.name} must have the {len(inside)} rows that were in, but has others")
    chosen = np.flatnonzero(np.isin(members.rows, cut.pool.sampled(item.index)))
    rows = members.rows[chosen]
    found = looked(samples=len(rows), centroids=0 if item.index else k)
    if not len(rows):  # a shard without vectors has none to compare with the centroids
        return found
    by = cast(_Clustered, cut.options).by
    vectors = survivors.vectors(item.index, item.url, by, tower_of(artifact), rows)
    probes = np.empty((len(inside), 0), np.int32) if members.probes is None else members.probes
    cluster, distance, near = nearest(probes.shape[1])(vectors)
    told = partial(unequal, item, who=cut.pool.who)
    found += told(f"{label}: cluster", rows, cluster, members.cluster[chosen])
    found += told(f"{label}: distance", rows, distance, members.distance[chosen])
    return found + told(f"{label}: probes", rows, near, probes[chosen])


def member_columns(cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
    """`cluster` and `distance` of every row of a shard, from the clusters artifact; null for rows that were out."""
    members, n = Members.read(cut.prepared[CLUSTERS], item.index), len(cut.before.mask(item.index))
    found = {"cluster": members.cluster, "distance": members.distance}
    return {name: scattered(values, members.rows, n) for name, values in found.items()}


def by_distance(rows: CutRows, keep: Keep, seed: int = 0) -> Ranking:
    """One group for each cluster: the farthest first (hard), the nearest first (easy), or by a hash of uid and seed."""
    value, _ = rows.numbers("distance", keep == "easy")
    return Ranking(hash_values(rows.uids, seed) if keep == "random" else value, cluster_of(rows), rows.kept)


def cluster_of(rows: CutRows) -> np.ndarray:
    """The cluster of every row: int32 (n,), -1 for rows that were out before."""
    return np.where(rows.before, column(rows.table, "cluster", null=-1), -1)


def explain_distance(asked: Asked, keep: Keep, facts: Mapping[str, Any]) -> Explained:
    """The sample's distance, beside that of the last kept sample of its cluster if a pass over the shards was made."""
    facts = {"cluster": asked.values["cluster"], **asked.rank_facts("cluster_"), **facts}
    if keep == "random":
        return Explained(facts=facts)
    limit = at_most if keep == "easy" else at_least
    return Explained((limit("distance", asked.values["distance"], asked.last(keep == "easy")),), facts)


class ClusteredCut(Cut):
    """A cut whose columns are `cluster` and `distance`, copied from the clusters artifact."""

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """See Cut.checks."""
        return {CLUSTERS: check_clusters}

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again."""
        return member_columns(cut, item)
