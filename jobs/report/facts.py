"""Reads the funnel, the cuts and the stages of a finished job from its record and artifacts."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from pyarrow.types import is_floating, is_integer

from winnow.jobs.run import job_url
from winnow.jobs.verify.finished import Finished
from winnow.pipeline.artifact import Artifact, read_json, read_schema, read_table
from winnow.pipeline.totals import samples_of
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.contract.shown import Shown


@dataclass(frozen=True)
class FunnelRow:
    """One row of the funnel: the pool, a kind of reject, a cut, or the kept samples.

    lost: samples that this row removes. left: samples that remain after it.
    """

    name: str
    kind: str  # pool, rejected, cut or kept
    lost: int
    left: int


@dataclass(frozen=True)
class StageRow:
    """Time and size of one stage. samples: None if the stage counts none. files, size_bytes: of its folder."""

    label: str
    artifact: str
    seconds: float
    samples: int | None
    files: int
    size_bytes: int

    @property
    def rate(self) -> float | None:
        """Samples per second."""
        return self.samples / self.seconds if self.samples is not None and self.seconds > 0 else None


@dataclass(frozen=True)
class CutFacts:
    """One cut as a whole.

    place: among all cuts of the page, from 0; those in the list of another come before it. options: with defaults,
    without nulls. shown: how the cut describes itself.
    column: the number that it decided by, None if there is none. threshold: value of the last kept sample. concepts: a
    row for each cluster, None if the cut has no clusters. told: what its stages say, such as how many names of a list
    the pool lacks; "" for nothing.
    """

    finished: FinishedCut
    place: int
    options: Mapping[str, Any]
    came: int
    kept: int
    threshold: float | None
    shown: Shown
    column: str | None
    concepts: pa.Table | None
    told: str = ""

    @property
    def name(self) -> str:
        """Its name in the manifest."""
        return self.finished.name

    @property
    def kind(self) -> str:
        """Its kind in the policy."""
        return self.finished.kind

    @property
    def part_of(self) -> str | None:
        """The cut that has it in its list; None for a cut of the policy itself."""
        return self.finished.part_of

    @property
    def about(self) -> str:
        """What it does."""
        return self.shown.about

    @property
    def dropped(self) -> int:
        """Number of samples that it drops."""
        return self.came - self.kept

    @property
    def label(self) -> str:
        """Label of the number that it decided by."""
        return self.shown.label or self.column or ""

    @property
    def slides(self) -> bool:
        """Whether keeping another amount only moves a threshold along the same order."""
        return self.column is not None and self.threshold is not None and math.isfinite(self.threshold)

    @property
    def asks_a_fraction(self) -> bool:
        """Whether the cut has the option `fraction`."""
        return hasattr(self.finished.options, "fraction")


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
    """Read the record and the reports of all stages. Cost: one or two requests for each stage.

    Raises WinnowError if one of them cannot be read.
    """
    record: dict[str, Any] = read_json(job_url(finished.job.store, finished.job.name))
    reports = {label: artifact.done() or {} for label, artifact in finished.artifacts.items()}
    return Facts(
        name=finished.job.name,
        counts=finished.counts,
        funnel=tuple(_funnel(finished.counts)),
        cuts=tuple(_cut(cut, place, reports, record["job"]) for place, cut in enumerate(finished.judged)),
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


def _cut(cut: FinishedCut, place: int, reports: Mapping[str, Mapping[str, Any]], job: Mapping[str, Any]) -> CutFacts:
    report = reports[cut.name]
    stages = [made for label, made in reports.items() if label == cut.name or label.startswith(f"{cut.name}.")]
    given: Any = job
    for step in cut.path.split("."):
        given = given[int(step)] if isinstance(given, list) else given[step]
    options = {} if cut.options.nests else {key: value for key, value in given.items() if value is not None}
    shown = cut.options.shown()
    return CutFacts(
        finished=cut,
        place=place,
        options=options,
        came=cast(int, report["in"]),
        kept=cast(int, report["kept"]),
        threshold=cast(float | None, report.get("threshold")),
        shown=shown,
        column=shown.column or _first_number(cut.artifact),
        concepts=None if shown.concepts is None else read_table(cut.artifact.meta(shown.concepts)),
        told="; ".join(made["told"] for made in stages if made.get("told")),
    )


def _first_number(artifact: Artifact) -> str | None:
    """The name of the first numeric column in a cut's files."""
    kinds = {field.name: field.type for field in read_schema(artifact.shard(0))}
    return next((name for name, kind in kinds.items() if is_integer(kind) or is_floating(kind)), None)


def _stage(label: str, artifact: Artifact, report: Mapping[str, Any], record: Mapping[str, Any]) -> StageRow:
    counted = samples_of(report)
    weight = report.get("files") or artifact.weight(report)
    return StageRow(label, artifact.name, record["seconds"][label], counted, weight["count"], weight["bytes"])


def kept_share(concepts: pa.Table) -> np.ndarray:
    """float64 (k,): the share of each cluster that is kept; 0 for an empty cluster."""
    size, quota = (np.asarray(concepts[name], np.float64) for name in ("size", "quota"))
    share: np.ndarray = np.divide(quota, size, out=np.zeros(len(size)), where=size > 0)
    return share
