"""The cut `normsim` (NormSim): keeps the samples that align best with a target set, or drops what is too near to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass as plain_dataclass
from functools import partial
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, array_if_whole
from winnow.pipeline.columns import column, scattered
from winnow.pipeline.keep_top import Rows
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.stages.cuts.contract.findings import Findings, looked, over, unequal
from winnow.stages.cuts.contract.finished import Check, Contents, FinishedCut
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Cut, Of
from winnow.stages.cuts.keeping import Ranked
from winnow.stages.cuts.score import Joined, joined_value
from winnow.stages.cuts.targets.target import TARGET_FILES, Target, check_width, read_names, read_target, target_of
from winnow.stages.kernels.products import gram, largest, lengths, nearest
from winnow.stages.survivors import Survivors

GRAM = "gram.npy"
NEAREST = "nearest"

P = Literal[2, "inf"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Normsim(Cut):
    """Keep the samples that align with a target set (Wang et al. 2024, arXiv 2405.19547): NormSim_p = ‖Z f_i‖_p.

    by: encoder. target: images, which `by` embeds too, or vectors that it made (stages/cuts/targets/): Z (m, d).
    target_key: the column of parquet or array of npz. p: 2, or inf, which is the largest |⟨z_j, f_i⟩|. keep: lowest
    with a threshold is decontamination: what is too near to an evaluation set goes, and for p = inf the nearest of its
    rows is named. Exactly one of fraction, count and threshold (the norm must be beyond it). of: the base of the
    fraction. The authors keep 30 % by negCLIPLoss, then 20 % of the pool by NormSim_inf.
    """

    by: str
    target: storage.Files
    target_key: str | None = None
    p: P = "inf"
    keep: Literal["highest", "lowest"] = "highest"
    fraction: float | None = None
    count: int | None = None
    threshold: float | None = None
    of: Of = "survivors"
    kind: ClassVar[str] = "normsim"

    def __post_init__(self) -> None:
        self.amount()

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, self.threshold, self.of, self.keep == "lowest")

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The target's vectors, the norm of every sample, then the selection. Another fraction reads no vectors."""
        target = target_of(survivors, self.by, self.target, self.target_key, self._names_nearest)
        made = NearestStage if self._names_nearest else NormsStage
        norms = made(survivors, artifact_of(target, store), self.by, self.p)
        joined = Joined(survivors, artifact_of(norms, store), self.keep)
        values = Near(joined) if self._names_nearest else joined
        return [target, norms, Ranked(self.kind, values, survivors, self.amount())]

    @property
    def _names_nearest(self) -> bool:
        return self.keep == "lowest" and self.p == "inf"

    def shown(self) -> Shown:
        """See Cut.shown."""
        least = self.keep == "lowest"
        about = f"Keeps the samples whose images are {'least' if least else 'most'} similar to a target set."
        return Shown(about, "value", "norm of the products with the target set", lowest=least)

    def contents(self) -> Mapping[str, Contents]:
        """See Cut.contents."""
        return TARGET_FILES

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """See Cut.checks."""
        return {NormsStage.name: check_norms}

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again."""
        found = joined_value(cut, item, NormsStage.name)
        return {**found, **nearest_name(cut.prepared[NormsStage.name], item)} if self._names_nearest else found


def check_norms(cut: FinishedCut, run: Run) -> Findings:
    """Check that NormSim, computed anew for a sample of the rows, is as stored."""
    return over(run, partial(_norms_of, cut, cast(Normsim, cut.options)), run.items, f"{cut.name}.{NormsStage.name}")


def _norms_of(cut: FinishedCut, options: Normsim, item: ShardItem) -> Findings:
    artifact = cut.prepared[NormsStage.name]
    stored = artifact.read(item.index, ["value"])
    rows = np.intersect1d(cut.pool.sampled(item.index), np.flatnonzero(cut.before.mask(item.index)))
    if not len(rows):
        return looked(samples=0)
    vectors = cut.before.vectors(item.index, item.url, options.by, "image", rows)
    if options.p == 2:
        made = lengths(vectors, _read_gram(artifact)).astype(np.float32)
    else:
        made = largest(vectors, read_target(cut.prepared[Target.name]))
    values = column(stored, "value", null=np.nan)[rows]
    found = unequal(item, f"{cut.name}.{NormsStage.name}", rows, made, values, cut.pool.who)
    if NEAREST in artifact.columns(item.index):
        target = cut.prepared[Target.name]
        named = _texts(read_names(target))[nearest(vectors, read_target(target))[1]]
        there = _texts(artifact.read(item.index, [NEAREST])[NEAREST])[rows]
        found += unequal(item, f"{cut.name}.{NEAREST}", rows, named, there, cut.pool.who)
    return looked(samples=len(rows)) + found


def _texts(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """numpy's texts, "" for null."""
    return np.array(column.fill_null("").to_pylist(), str)


@plain_dataclass(frozen=True)
class NormsStage:
    """One pass: computes the norm of every row that is still in, null for the others."""

    survivors: Survivors
    target: Artifact
    by: str
    p: P
    name: ClassVar[str] = "norms"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """For p = 2, one worker first computes the Gram matrix. Else every worker holds the target, 2 m d bytes."""
        if self.p == 2 and array_if_whole(out.meta(GRAM)) is None:
            for _ in run.each(_Gram(self.target, out), ["the target set"], "norms: Gram matrix"):
                pass
        return {"rows": run.fill_task(_Norms(self, out), out, self.name).number("rows")}


@plain_dataclass(frozen=True)
class NearestStage(NormsStage):
    """The same for p = inf, and the name of the nearest row of the target, which must be a NamedTarget."""

    def make(self, run: Run, out: Artifact) -> Summary:
        """Every worker holds the target and its names."""
        return {"rows": run.fill_task(_Nearest(self, out), out, self.name).number("rows")}


@plain_dataclass(frozen=True)
class Near:
    """A joined value with the name of the nearest row of the target beside it."""

    joined: Joined

    @property
    def survivors(self) -> Survivors:
        """See Source.survivors."""
        return self.joined.survivors

    def rows(self, item: ShardItem) -> Rows:
        """See Source.rows."""
        return self.joined.rows(item)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """See Source.columns."""
        return {**self.joined.columns(item, rows), **nearest_name(self.joined.scores, item)}


def nearest_name(norms: Artifact, item: ShardItem) -> Mapping[str, pa.Array]:
    """Column `nearest` of every row of a shard, as NearestStage wrote it."""
    return {NEAREST: norms.read(item.index, [NEAREST])[NEAREST].combine_chunks()}


@plain_dataclass(frozen=True)
class _Gram:
    target: Artifact
    out: Artifact

    def __call__(self, item: str) -> Summary:
        target = read_target(self.target)
        with storage.committing(self.out.meta(GRAM)) as file:
            np.save(file, gram(target))
        return {"rows": len(target)}


def _read_gram(norms: Artifact) -> np.ndarray:
    with storage.open_read(norms.meta(GRAM)) as file:
        return cast(np.ndarray, np.load(file, allow_pickle=False))


@plain_dataclass(frozen=True)
class _Norms:
    """Commits `value` of one shard: float32."""

    stage: NormsStage
    out: Artifact

    def open(self) -> Callable[[ShardItem], Summary]:
        return partial(self._norms, self._against())

    def _against(self) -> np.ndarray:
        if self.stage.p == 2:
            return _read_gram(self.out)
        target = read_target(self.stage.target)
        new = np.r_[True, (target[1:] != target[:-1]).any(axis=1)]  # sorted, so equal rows are adjacent
        return target[new]

    def _norms(self, against: np.ndarray, item: ShardItem) -> Summary:
        stage = self.stage
        mask = stage.survivors.mask(item.index)
        rows = np.flatnonzero(mask)
        values, done = np.empty(len(rows), np.float32), 0
        for vectors in stage.survivors.blocks(item.index, item.url, stage.by, "image", rows):
            check_width(against.shape[1], vectors.shape[1], stage.by)
            found = lengths(vectors, against) if stage.p == 2 else largest(vectors, against)
            values[done : done + len(vectors)] = found
            done += len(vectors)
        summary = {"rows": len(rows)}
        self.out.write(item.index, pa.table({"value": scattered(values, rows, len(mask))}), summary)
        return summary


@plain_dataclass(frozen=True)
class _Nearest:
    """Commits `value` (float32) and `nearest` (string) of one shard."""

    stage: NormsStage
    out: Artifact

    def open(self) -> Callable[[ShardItem], Summary]:
        return partial(self._near, read_target(self.stage.target), read_names(self.stage.target))

    def _near(self, target: np.ndarray, names: pa.Array, item: ShardItem) -> Summary:
        stage, mask = self.stage, self.stage.survivors.mask(item.index)
        rows = np.flatnonzero(mask)
        found = [(np.empty(0, np.float32), np.empty(0, np.int64))]
        for vectors in stage.survivors.blocks(item.index, item.url, stage.by, "image", rows):
            check_width(target.shape[1], vectors.shape[1], stage.by)
            found.append(nearest(vectors, target))
        values, at = (np.concatenate(parts) for parts in zip(*found, strict=True))
        named = names.take(scattered(at, rows, len(mask)))
        summary = {"rows": len(rows)}
        self.out.write(item.index, pa.table({"value": scattered(values, rows, len(mask)), NEAREST: named}), summary)
        return summary
