"""What a finished job's record and artifacts say of it as a whole: funnel, cuts, stages; reads no sample."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa

from winnow.jobs.run import job_url
from winnow.jobs.verify.finished import Finished, FinishedCut
from winnow.pipeline.artifact import Artifact, read_json, read_table

VALUES: dict[str, tuple[str, str]] = {
    "duplicates": ("cosine", "cosine with the sample that it repeats"),
    "similarity": ("cosine", "image-text cosine"),
    "negclip": ("contrast", "image-text cosine, less what random pairs have"),
    "density": ("distance", "distance to the own centroid"),
    "prototypes": ("distance", "distance to the own centroid"),
    "normsim": ("value", "norm of its products with the target set"),
    "image_based": ("distance", "distance to the own centroid"),
    "feature_mapping": ("distance", "distance to the own centroid"),
    "random": ("hash", "hash of the uid"),
    "score": ("value", "your score"),
}
"""Column of a cut's numbers in its files, and what people call it; coverage's column goes by its options."""

ABOUT: dict[str, str] = {
    "rules": "Samples stay that pass every rule given.",
    "duplicates": "One of every set of duplicates stays: the best.",
    "similarity": "The pairs stay whose image and text vectors are most alike.",
    "negclip": "The pairs stay that are more alike than their image and text are to others.",
    "density": "Concepts that hold much to learn keep more, and in each the samples far from its centroid stay.",
    "prototypes": "Samples stay by their distance to the centroid of their cluster.",
    "coverage": "The hardest go, and what is left is taken evenly from all ranges of the score.",
    "normsim": "The samples stay whose images are most like a target set.",
    "image_based": "The clusters stay that a target set votes for.",
    "feature_mapping": "The clusters stay that a target set votes for most.",
    "random": "A uniform sample stays.",
    "score": "Samples stay by a score that another program made.",
    "epochs": "The samples stay that some epoch of training has.",
}
"""What each cut does, in a sentence."""

_SLIDING = ("similarity", "negclip", "normsim", "random", "score")  # one order, one threshold


@dataclass(frozen=True)
class FunnelRow:
    """One way out of the pool, or what came in and what stays. lost: how many go. left: how many are still in."""

    name: str
    kind: str  # pool, rejected, cut or kept
    lost: int
    left: int


@dataclass(frozen=True)
class StageRow:
    """What one stage took. samples: None where it is not counted in them. files, size_bytes: of its folder."""

    label: str
    artifact: str
    seconds: float
    samples: int | None
    files: int
    size_bytes: int

    @property
    def rate(self) -> float | None:
        """Samples a second."""
        return self.samples / self.seconds if self.samples is not None and self.seconds > 0 else None


@dataclass(frozen=True)
class CutFacts:
    """One cut as a whole. place: in the policy, from 0. options: as written, defaults resolved, nulls left out.

    column, label: the number that it decided by, and what people call it; None where there is none.
    threshold: value of the last sample that stays. concepts: density.parquet, of a density cut.
    """

    finished: FinishedCut
    place: int
    options: Mapping[str, Any]
    came: int
    kept: int
    threshold: float | None
    concepts: pa.Table | None

    @property
    def name(self) -> str:
        """As the manifest has it."""
        return self.finished.name

    @property
    def kind(self) -> str:
        """What the policy calls it."""
        return self.finished.kind

    @property
    def about(self) -> str:
        """What it does."""
        return ABOUT.get(self.kind, "")

    @property
    def dropped(self) -> int:
        """How many go."""
        return self.came - self.kept

    @property
    def column(self) -> str | None:
        """Of its files."""
        if self.kind == "coverage":
            return "cosine" if self.options.get("by") else "value"
        return VALUES[self.kind][0] if self.kind in VALUES else None

    @property
    def label(self) -> str:
        """The number that it decided by, for people."""
        if self.kind == "coverage":
            return "image-text cosine" if self.options.get("by") else "your score"
        return VALUES[self.kind][1] if self.kind in VALUES else ""

    @property
    def slides(self) -> bool:
        """Whether another amount is another threshold on one order."""
        return self.kind in _SLIDING and self.threshold is not None and math.isfinite(self.threshold)

    @property
    def lowest(self) -> bool:
        """Whether the lowest values stay."""
        return self.options.get("keep") == "lowest"


@dataclass(frozen=True)
class Facts:
    """A finished job as a whole."""

    name: str
    counts: Mapping[str, Any]
    funnel: tuple[FunnelRow, ...]
    cuts: tuple[CutFacts, ...]
    stages: tuple[StageRow, ...]
    versions: Mapping[str, str]
    job: Mapping[str, Any]


def gather(finished: Finished) -> Facts:
    """Everything that the record and the reports of the stages say. Cost: a request or two for each stage.

    Raises WinnowError where one of them cannot be read.
    """
    record: dict[str, Any] = read_json(job_url(finished.job.store, finished.job.name))
    reports = {label: artifact.done() or {} for label, artifact in finished.artifacts.items()}
    return Facts(
        name=finished.job.name,
        counts=finished.counts,
        funnel=tuple(_funnel(finished.counts)),
        cuts=tuple(_cut(cut, place, reports[cut.name], record["job"]) for place, cut in enumerate(finished.cuts)),
        stages=tuple(_stage(label, finished.artifacts[label], reports[label], record) for label in reports),
        versions=record["versions"],
        job=record["job"],
    )


def _funnel(counts: Mapping[str, Any]) -> Iterator[FunnelRow]:
    left = counts["pool"]
    yield FunnelRow("pool", "pool", 0, left)
    for kind, lost in counts["rejected"].items():
        left -= lost
        yield FunnelRow(kind, "rejected", lost, left)
    for name, lost in counts["dropped"].items():
        left -= lost
        yield FunnelRow(name, "cut", lost, left)
    yield FunnelRow("kept", "kept", 0, counts["kept"])


def _cut(cut: FinishedCut, place: int, report: Mapping[str, object], job: Mapping[str, Any]) -> CutFacts:
    options = {key: value for key, value in job["policy"][place][cut.kind].items() if value is not None}
    return CutFacts(
        finished=cut,
        place=place,
        options=options,
        came=cast(int, report["in"]),
        kept=cast(int, report["kept"]),
        threshold=cast(float | None, report.get("threshold")),
        concepts=read_table(cut.artifact.meta("density.parquet")) if cut.kind == "density" else None,
    )


def _stage(label: str, artifact: Artifact, report: Mapping[str, Any], record: Mapping[str, Any]) -> StageRow:
    counted = next((report[name] for name in ("in", "samples", "rows") if name in report), None)
    if label in ("embeddings", "distinct", "manifest"):
        counted = record["counts"]["pool"]
    weight = report.get("files") or artifact.weight(report)
    return StageRow(label, artifact.name, record["seconds"][label], counted, weight["count"], weight["bytes"])


def kept_share(concepts: pa.Table) -> np.ndarray:
    """Share of each cluster that stays, float64 (k,); 0 for one without members."""
    size, quota = (np.asarray(concepts[name], np.float64) for name in ("size", "quota"))
    share: np.ndarray = np.divide(quota, size, out=np.zeros(len(size)), where=size > 0)
    return share
