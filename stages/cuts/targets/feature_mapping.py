"""The cut `feature_mapping`: keeps the clusters that contain most of a target set."""

from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar, Self

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.stage import Stage, artifact_of
from winnow.pipeline.storage import Files
from winnow.stages.clusters.clusters import ClustersOption, clusters_of
from winnow.stages.cuts.contract.explained import Asked, Explained
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.targets.target import target_of
from winnow.stages.cuts.targets.votes import VotedCut, VotesStage, explain_votes
from winnow.stages.survivors import Survivors


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class FeatureMapping(VotedCut):
    """Feature mapping (DP4TL, Zhang et al. 2023, arXiv 2310.08782): the clusters with the most votes stay whole.

    by: encoder whose image vectors are clustered. target: images, which `by` embeds too, or vectors that it made.
    target_key: the column of parquet or array of npz. clusters: k, or known centroids. top: how many clusters stay.
    A cluster without a vote never stays, so they may be fewer. Equal votes: the lowest index first.
    """

    by: str
    target: Files
    clusters: ClustersOption
    top: int = Field(ge=1)
    target_key: str | None = None
    iterations: int = Field(default=100, ge=1)
    sample_per_cluster: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    kind: ClassVar[str] = "feature_mapping"

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The target's vectors, clusters of the survivors, then the votes; `image_based` shares all but the last."""
        target = target_of(survivors, self.by, self.target, self.target_key)
        clusters = clusters_of(survivors, self.by, self.clusters, self.iterations, self.sample_per_cluster, self.seed)
        made, voters = artifact_of(clusters, store), artifact_of(target, store)
        return [target, clusters, VotesStage(self.kind, survivors, made, voters, self.by, self.rule())]

    def rule(self) -> "Top":
        """Which clusters stay."""
        return Top(self.top)

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain."""
        return explain_votes(asked, None)

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "Keeps the clusters with the most votes of a target set."
        return Shown(about, "distance", "distance to the centroid of its cluster")

    def smaller(self, rows: int, samples: float) -> Self:
        """See Cut.smaller; `top` is at most the number of clusters."""
        found = super().smaller(rows, samples)
        return replace(found, top=min(found.top, found.clusters)) if isinstance(found.clusters, int) else found


@plain_dataclass(frozen=True)
class Top:
    """Keeps the clusters with the most votes, at most this many, and none without a vote."""

    clusters: int

    def kept(self, votes: np.ndarray) -> np.ndarray:
        """See Rule.kept; equal votes: the lowest index first."""
        stays = np.zeros(len(votes), bool)
        stays[np.argsort(-votes, kind="stable")[: self.clusters]] = True
        return stays & (votes > 0)
