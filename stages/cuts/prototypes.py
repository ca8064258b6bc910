"""The cut `prototypes` (SSP): keeps the samples farthest from their centroid, or the nearest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import JobError
from winnow.pipeline.keep_top import Rows, Thresholds, kept
from winnow.pipeline.order import WIDE_KEY
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.stages.clusters.clustered import CLUSTER_FILES, ClusteredCut, by_distance, explain_distance
from winnow.stages.clusters.clusters import ClustersOption, clusters_of, read_sizes
from winnow.stages.clusters.members import MemberDistance
from winnow.stages.cuts.contract.explained import Asked, Explained
from winnow.stages.cuts.contract.findings import Findings, violated
from winnow.stages.cuts.contract.finished import Contents, CutRows, FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.orders import LAST, Ranking, Standings, as_many_as_asked, comes_first, in_order
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Of
from winnow.stages.cuts.keeping import funnel, keep_by_quota, select
from winnow.stages.survivors import Survivors, Tower


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Prototypes(ClusteredCut):
    """Self-supervised prototypes (Sorscher et al. 2022, arXiv 2206.14486).

    by: encoder whose vectors are clustered (SwAV in the paper). tower: those of images or of captions. Exactly one of
    fraction and count.
    clusters: k, or known centroids. keep: of all clusters together, the samples farthest from their own centroid
    (hard, for plenty of data) or nearest to it (easy, for little data). balance: the least that a cluster keeps, as a
    share of what it would keep if the same fraction of every cluster stayed; 0.5 in the paper.
    """

    by: str
    clusters: ClustersOption
    fraction: float | None = None
    count: int | None = None
    keep: Literal["hard", "easy"] = "hard"
    balance: float = 0.0
    of: Of = "survivors"
    iterations: int = Field(default=100, ge=1)
    sample_per_cluster: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    tower: Tower = "image"
    kind: ClassVar[str] = "prototypes"

    def __post_init__(self) -> None:
        self.amount()
        if not 0 <= self.balance <= 1:
            raise JobError(f"prototypes.balance must be between 0 and 1, got {self.balance}; 0 sets no lower bound")

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, None, self.of)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """Clusters of the survivors, then the selection. A `density` cut with the same clusters shares them."""
        how = self.iterations, self.sample_per_cluster, self.seed
        clusters = clusters_of(survivors, self.by, self.clusters, *how, tower=self.tower)
        made = artifact_of(clusters, store)
        return [clusters, PrototypesStage(survivors, made, self.amount(), self.keep, self.balance)]

    def check(self, given: Given) -> None:
        """See Cut.check; captions need an encoder with text vectors."""
        super().check(given)
        if self.tower == "text":
            given.check_text(self.kind, self.by)

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "Keeps samples by their distance to the centroid of their cluster."
        return Shown(about, "distance", "distance to the centroid of its cluster")

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain."""
        return explain_distance(asked, self.keep, {})

    def contents(self) -> Mapping[str, Contents]:
        """See Cut.contents."""
        return CLUSTER_FILES

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterable[Ranking]:
        """See Cut.rankings: by distance in each cluster."""
        return [by_distance(rows, self.keep)]

    def laws(self, cut: FinishedCut, run: Run, standings: Sequence[Standings]) -> Findings:
        """See Cut.laws: each cluster keeps its floor, and beyond the floors the highest values of all clusters stay."""
        found = in_order(cut, run, standings) + as_many_as_asked(cut, standings[0])
        return found + _above_floors(cut, run, standings[0], self.amount().number(cut.before), self.balance)


def floors(size: np.ndarray, total: int, balance: float) -> np.ndarray:
    """The least that each cluster keeps: int64 (k,), int(balance · (total · size_j // Σ size)).

    size: int64 (k,), members. total: samples to keep, 0 to Σ size. balance: 0 to 1. Each floor is at most its size, and
    Σ floors <= total. The rest of total goes to the highest values of all clusters.
    """
    n = max(1, int(size.sum()))
    equal = [total * int(members) // n for members in size]  # Python integers, because total · size may exceed 2^63
    return np.array([int(balance * share) for share in equal], np.int64)


def _above_floors(cut: FinishedCut, run: Run, standing: Standings, total: int, balance: float) -> Findings:
    least = floors(standing.size, total, balance)
    first = np.array([min(standing.first.tolist(), default=LAST)], WIDE_KEY)
    found = Findings()
    for group in np.flatnonzero(standing.kept < least):
        found += violated(
            f"{cut.name}, group {group}: at least {least[group]} samples must be kept, but {standing.kept[group]} are"
        )
    for group in np.flatnonzero((standing.kept > least) & (standing.last > first[0])):
        found += comes_first(cut, run, f"group {group}", standing.last[group : group + 1], first)
    return found


@plain_dataclass(frozen=True)
class PrototypesStage:
    """Keeps the highest values of each cluster up to its floor, then the highest of all others up to the total."""

    survivors: Survivors
    clusters: Artifact
    amount: Amount
    keep: Literal["hard", "easy"]
    balance: float
    name: ClassVar[str] = "prototypes"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """Two passes for the floors if there are any, two for the rest, and one that commits."""
        wanted = self.amount.number(self.survivors)
        sizes = read_sizes(self.clusters)
        least = floors(sizes, wanted, self.balance)
        members = MemberDistance(self.survivors, self.clusters, self.keep, seed=0)
        met = select(run, members, least, "prototypes: floors")
        ensured = int(least.sum())
        quota = np.array([ensured, wanted - ensured], np.int64)
        totals = keep_by_quota(run, out, _Floored(members, met), quota, self.name)
        return funnel(totals, asked=wanted, ensured=ensured)


@plain_dataclass(frozen=True)
class _Floored:
    """Group 0: the rows that fill the floor of their cluster. Group 1: all others that are in."""

    members: MemberDistance
    met: Thresholds

    @property
    def survivors(self) -> Survivors:
        return self.members.survivors

    def rows(self, item: ShardItem) -> Rows:
        rows = self.members.rows(item)
        group = np.where(kept(rows, self.met), 0, 1)
        return replace(rows, group=np.where(rows.group < 0, -1, group).astype(np.int32))

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        return self.members.columns(item, rows)
