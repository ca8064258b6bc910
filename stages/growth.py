"""How the time of a stage grows with the pool, where it is not by shards and samples alone; `plan --price` asks."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from winnow.pipeline.artifact import Artifact


@dataclass(frozen=True)
class Once:
    """The pass takes as long for any pool."""


@dataclass(frozen=True)
class KMeansFit:
    """The pass is k-means on one machine, over min(n, k · sample_per_cluster) of n samples. Time: n k d iterations."""

    k: int
    iterations: int
    sample_per_cluster: int


@dataclass(frozen=True)
class NearestOfK:
    """The pass over the shards finds the nearest of k centroids, and the `probes` next ones. Time: n k d."""

    k: int
    probes: int


@dataclass(frozen=True)
class PairsInCells:
    """The pass compares samples in pairs inside k cells; each sample is in one cell and visits `probes` others."""

    k: int
    probes: int

    def pairs(self, n: float) -> float:
        """How many of n samples are compared, at most: those of a cell with each other, and with those who visit it."""
        return (1 + 2 * self.probes) * n * n / (2 * self.k)


Growth = Once | KMeansFit | NearestOfK | PairsInCells


@runtime_checkable
class Growing(Protocol):
    """A stage with passes whose time does not grow by shards and samples alone.

    All other passes, and all stages that have no such method, are priced by what a shard and what a sample cost.
    """

    def growth(self, label: str, step: str) -> Growth | None:
        """How a pass grows; None: by shards and samples. label: of the pass. step: run, scatter, decide or settle."""
        ...

    def width(self, out: Artifact) -> int:
        """Numbers in a vector that it works on; out: its finished artifact."""
        ...
