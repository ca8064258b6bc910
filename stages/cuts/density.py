"""The cut `density` (density-based pruning): complex clusters keep more, and in each the farthest samples stay."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact, read_table, write_table
from winnow.pipeline.errors import JobError
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.pipeline.sums import Sums, dense, merge_sums
from winnow.stages.clusters.clustered import CLUSTER_FILES, ClusteredCut, by_distance, explain_distance
from winnow.stages.clusters.clusters import ClustersOption, Members, clusters_of, read_centroids
from winnow.stages.clusters.members import MemberDistance
from winnow.stages.cuts.contract.explained import Asked, Explained
from winnow.stages.cuts.contract.findings import Findings
from winnow.stages.cuts.contract.finished import Contents, CutRows, FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.orders import Ranking, Standings, as_many_as_asked, by_its_quotas, in_order
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Of
from winnow.stages.cuts.keeping import funnel, keep_by_quota
from winnow.stages.kernels.quota import complexity, inter_distance, quotas
from winnow.stages.survivors import Survivors, Tower

CONCEPTS = "density.parquet"
_TOLD = ("size", "quota", "complexity", "share")  # `winnow why` shows these for the cluster of a sample
_FIXED_POINT = 1 << 30  # units of distance: integer sums do not depend on the order of shards


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Density(ClusteredCut):
    """Density-based pruning (Abbas et al. 2024, arXiv 2401.04578).

    by: encoder whose vectors are clustered (distilled DINOv2 in the paper). tower: those of images or of captions.
    Exactly one of fraction and count. clusters: k (500 for LAION, 100 for DataComp Medium), or known centroids.
    temperature: tau of the softmax over complexities. neighbours: number of centroids that d_inter averages over. keep:
    the samples farthest from their centroid (hard), nearest to it (easy), or random ones (random). balance: lower bound
    of every quota as a share of N / k; 0 gave the paper's best result.
    """

    by: str
    clusters: ClustersOption
    fraction: float | None = None
    count: int | None = None
    temperature: float = 0.1
    neighbours: int = 20
    keep: Literal["hard", "easy", "random"] = "hard"
    balance: float = 0.0
    of: Of = "survivors"
    iterations: int = Field(default=100, ge=1)
    sample_per_cluster: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    tower: Tower = "image"
    kind: ClassVar[str] = "density"

    def __post_init__(self) -> None:
        self.amount()
        if self.temperature <= 0 or self.neighbours < 1 or not 0 <= self.balance <= 1:
            raise JobError(
                "density needs temperature > 0, neighbours >= 1 and balance in [0, 1], got "
                f"{self.temperature}, {self.neighbours}, {self.balance}"
            )

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, None, self.of)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """Clusters of the survivors, then the quotas. A job with another fraction reuses the clusters."""
        how = self.iterations, self.sample_per_cluster, self.seed
        clusters = clusters_of(survivors, self.by, self.clusters, *how, tower=self.tower)
        made = artifact_of(clusters, store)
        options = _Options(self.temperature, self.neighbours, self.keep, self.balance, self.seed)
        return [clusters, DensityStage(survivors, made, self.amount(), options)]

    def check(self, given: Given) -> None:
        """See Cut.check; captions need an encoder with text vectors."""
        super().check(given)
        if self.tower == "text":
            given.check_text(self.kind, self.by)

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "Complex clusters keep more samples. In each cluster, those far from its centroid stay."
        return Shown(about, "distance", "distance to the own centroid", concepts=CONCEPTS)

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain; adds the row of the sample's cluster in density.parquet."""
        [row] = read_table(asked.cut.artifact.meta(CONCEPTS)).slice(asked.values["cluster"], 1).to_pylist()
        return explain_distance(asked, self.keep, {name: row[name] for name in _TOLD})

    def contents(self) -> Mapping[str, Contents]:
        """See Cut.contents."""
        return {**CLUSTER_FILES, self.kind: Contents(beside=(CONCEPTS,))}

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterable[Ranking]:
        """See Cut.rankings: by distance in each cluster."""
        return [by_distance(rows, self.keep, self.seed)]

    def laws(self, cut: FinishedCut, run: Run, standings: Sequence[Standings]) -> Findings:
        """See Cut.laws: each cluster keeps its quota."""
        found = in_order(cut, run, standings) + as_many_as_asked(cut, standings[0])
        return found + by_its_quotas(cut, CONCEPTS, standings[0])


@plain_dataclass(frozen=True)
class _Options:  # this name is in the fingerprint of the stage
    temperature: float
    neighbours: int
    keep: Literal["hard", "easy", "random"]
    balance: float
    seed: int


@plain_dataclass(frozen=True)
class DensityStage:
    """Computes quotas from the complexity of the clusters, then selects exactly inside every cluster."""

    survivors: Survivors
    clusters: Artifact
    amount: Amount
    options: _Options
    name: ClassVar[str] = "density"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """One pass for the moments of the clusters, two for the thresholds, and one that commits."""
        centroids = read_centroids(self.clusters)
        parts = run.reduce(_Moments(self.clusters), merge_sums, run.items, "density: moments")
        size, spread = sum_moments(parts, len(centroids))
        wanted = self.amount.number(self.survivors)
        table = concept_table(centroids, size, spread, wanted, self.options)
        write_table(out.meta(CONCEPTS), table)
        quota = np.asarray(table["quota"])
        source = MemberDistance(self.survivors, self.clusters, self.options.keep, self.options.seed)
        totals = keep_by_quota(run, out, source, quota, self.name)
        return funnel(totals, asked=wanted, clusters=len(centroids), saturated=int((quota == size).sum()))


def concept_table(
    centroids: np.ndarray, size: np.ndarray, spread: np.ndarray, wanted: int, options: _Options
) -> pa.Table:
    """The table density.parquet, with one row per cluster; the columns follow the algorithm of the paper.

    centroids: float32 (k, d). size: int64 (k,). spread: float64 (k,), sum of members' distances to their centroid.
    wanted: N. Columns: cluster, size, d_intra, d_inter, complexity, share, quota; quotas sum to N.
    """
    d_intra = np.divide(spread, size, out=np.zeros(len(size)), where=size > 0)
    d_inter = inter_distance(centroids, options.neighbours)
    c = complexity(d_intra, d_inter, size)
    share, quota = quotas(size, c, wanted, options.temperature, options.balance)
    return pa.table(
        {
            "cluster": pa.array(np.arange(len(size), dtype=np.int32)),
            "size": pa.array(size),
            "d_intra": pa.array(d_intra),
            "d_inter": pa.array(d_inter),
            "complexity": pa.array(c),
            "share": pa.array(share),
            "quota": pa.array(quota),
        }
    )


def cluster_moments(cluster: np.ndarray, distance: np.ndarray) -> Sums:
    """Sizes and sums of distances, in units of 2^-30, of the clusters in one shard.

    cluster: int32 (n,). distance: float32 (n,) in [0, 2]. Distances are summed as integers, because float sums would
    depend on the order of the shards. The sum of 2^31 samples at distance 2 still fits.
    """
    return Sums.of(cluster, np.rint(distance.astype(np.float64) * _FIXED_POINT).astype(np.int64))


def sum_moments(parts: Iterable[Sums], k: int) -> tuple[np.ndarray, np.ndarray]:
    """size int64 (k,) and sum of distances float64 (k,) over all shards. Both are the same for any sharding."""
    size, spread = dense(parts, k, 2)
    return size, spread / _FIXED_POINT


@plain_dataclass(frozen=True)
class _Moments:
    clusters: Artifact

    def __call__(self, item: ShardItem) -> Sums:
        members = Members.read(self.clusters, item.index)
        return cluster_moments(members.cluster, members.distance)
