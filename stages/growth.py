"""How the time of a stage grows with the pool, if it depends on more than shards and samples; for `plan --price`."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from winnow.pipeline.artifact import Artifact


@dataclass(frozen=True)
class Once:
    """The pass takes the same time for any pool."""


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
        """The most pairs compared among n samples: members of a cell with each other and with its visitors."""
        return (1 + 2 * self.probes) * n * n / (2 * self.k)


Growth = Once | KMeansFit | NearestOfK | PairsInCells


@runtime_checkable
class Growing(Protocol):
    """A stage with passes whose time depends on more than the number of shards and samples.

    All other passes, and stages without these methods, are priced by the cost of a shard and of a sample.
    """

    def growth(self, label: str, step: str) -> Growth | None:
        """How a pass grows; None: with shards and samples. label: of the pass. step: run, scatter, decide or settle."""
        ...

    def width(self, out: Artifact) -> int:
        """Width of the vectors that the stage works on. out: its finished artifact."""
        ...


PartOfPool = Literal["whole", "kept"]


@runtime_checkable
class ReadsPool(Protocol):
    """A stage that reads the input shards themselves, whole or what it copies; mapped bytes are not counted as read."""

    reads_pool: ClassVar[PartOfPool]


@runtime_checkable
class Embedding(Protocol):
    """A stage that may decode the images of the pool and embed them, on workers that have what the job gives them."""

    @property
    def embeds(self) -> bool:
        """Whether it does."""
        ...
