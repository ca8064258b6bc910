"""The cut `image_based`: keeps every cluster that contains enough of a target set."""

from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

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
class ImageBased(VotedCut):
    """Image-based filtering (Gadre et al. 2023, arXiv 2304.14108): clusters that are the nearest of some target image.

    by: encoder whose image vectors are clustered (CLIP ViT-L/14 in DataComp). target: images, which `by` embeds too, or
    vectors that it made (ImageNet's training images there). target_key: the column of parquet or array of npz.
    clusters: k, or known centroids (100,000 there). min_votes: a cluster stays whole that is the nearest one of so
    many vectors of the target; 1 there.
    """

    by: str
    target: Files
    clusters: ClustersOption
    target_key: str | None = None
    min_votes: int = Field(default=1, ge=1)
    iterations: int = Field(default=100, ge=1)
    sample_per_cluster: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    kind: ClassVar[str] = "image_based"

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The target's vectors, clusters of what is still in, then the votes."""
        target = target_of(survivors, self.by, self.target, self.target_key)
        clusters = clusters_of(survivors, self.by, self.clusters, self.iterations, self.sample_per_cluster, self.seed)
        made, voters = artifact_of(clusters, store), artifact_of(target, store)
        return [target, clusters, VotesStage(self.kind, survivors, made, voters, self.by, self.rule())]

    def rule(self) -> "AtLeast":
        """Which clusters stay."""
        return AtLeast(self.min_votes)

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain."""
        return explain_votes(asked, self.min_votes)

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "The clusters stay that a target set votes for."
        return Shown(about, "distance", "distance to the own centroid")


@plain_dataclass(frozen=True)
class AtLeast:
    """Clusters of so many votes or more stay."""

    min_votes: int

    def kept(self, votes: np.ndarray) -> np.ndarray:
        """See Rule.kept."""
        return np.asarray(votes >= self.min_votes)
