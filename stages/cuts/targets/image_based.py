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
    """Image-based filtering (Gadre et al. 2023, arXiv 2304.14108): keeps clusters that are nearest to a target image.

    by: encoder whose image vectors are clustered (CLIP ViT-L/14 in DataComp). target: images, which `by` embeds too, or
    vectors that it made (ImageNet's training images in DataComp). target_key: the column of parquet or array of npz.
    clusters: k, or known centroids (100,000 in DataComp). min_votes: a cluster stays whole if it is the nearest one of
    at least this many target vectors; 1 in DataComp.
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
        """The target's vectors, clusters of the survivors, then the votes."""
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
        about = "Keeps the clusters with enough votes of a target set."
        return Shown(about, "distance", "distance to the centroid of its cluster")


@plain_dataclass(frozen=True)
class AtLeast:
    """Keeps clusters with at least this many votes."""

    min_votes: int

    def kept(self, votes: np.ndarray) -> np.ndarray:
        """See Rule.kept."""
        return np.asarray(votes >= self.min_votes)
