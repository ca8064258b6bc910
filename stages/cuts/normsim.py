"""The cut `normsim` (NormSim): keeps the samples that align best with a target set."""

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
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.stages.cuts.contract.findings import Findings, looked, over, unequal
from winnow.stages.cuts.contract.finished import Check, Contents, FinishedCut
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Cut, Of
from winnow.stages.cuts.keeping import Ranked
from winnow.stages.cuts.score import Joined, joined_value
from winnow.stages.cuts.targets.target import TARGET_FILES, Target, check_width, read_target, target_of
from winnow.stages.kernels.float16 import widened
from winnow.stages.survivors import Survivors

GRAM = "gram.npy"

_ROWS = 1024
_TARGETS = 8192  # rows of the target at once: with _ROWS, 32 MB of products
_NEAR = 1e-5  # float32 products of unit vectors in different orders differ by less
_PAIRS = 256  # pairs whose float64 copies stay in cache
_EXACT_ROWS = 16  # the sum of this many products, each up to 1 and a multiple of 2^-48, fits into 53 bits
_GRAM_ROWS = 32  # rows that share one reading of the Gram matrix, which is larger than the cache

P = Literal[2, "inf"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Normsim(Cut):
    """Keep the samples that align with a target set (Wang et al. 2024, arXiv 2405.19547): NormSim_p = ‖Z f_i‖_p.

    by: encoder. target: images, which `by` embeds too, or vectors that it made (stages/cuts/targets/): Z (m, d).
    target_key: the column of parquet or array of npz. p: 2, or inf, which is the largest |⟨z_j, f_i⟩|. Exactly one of
    fraction, count and threshold (the norm must be greater). of: the base of the fraction. The authors keep 30 % by
    negCLIPLoss, then 20 % of the pool by NormSim_inf.
    """

    by: str
    target: storage.Files
    target_key: str | None = None
    p: P = "inf"
    fraction: float | None = None
    count: int | None = None
    threshold: float | None = None
    of: Of = "survivors"
    kind: ClassVar[str] = "normsim"

    def __post_init__(self) -> None:
        self.amount()

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, self.threshold, self.of)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The target's vectors, the norm of every sample, then the selection. Another fraction reads no vectors."""
        target = target_of(survivors, self.by, self.target, self.target_key)
        norms = NormsStage(survivors, artifact_of(target, store), self.by, self.p)
        values = Joined(survivors, artifact_of(norms, store), "highest")
        return [target, norms, Ranked(self.kind, values, survivors, self.amount())]

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "Keeps the samples whose images are most similar to a target set."
        return Shown(about, "value", "norm of the products with the target set")

    def contents(self) -> Mapping[str, Contents]:
        """See Cut.contents."""
        return TARGET_FILES

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """See Cut.checks."""
        return {NormsStage.name: check_norms}

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again."""
        return joined_value(cut, item, NormsStage.name)


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
    return looked(samples=len(rows)) + found


def largest(vectors: np.ndarray, target: np.ndarray) -> np.ndarray:
    """NormSim_inf of each row: max_j |⟨z_j, f_i⟩|, float32 (n,) in [0, 1].

    vectors: float16 (n, d), or float32 of the same numbers. target: float16 (m, d), m >= 1. Both of unit norm.
    float32 products only propose candidates. Those within 1e-5 of the largest are computed again in float64, where they
    are exact: products of float16 are multiples of 2^-48, and their sums over unit vectors stay below 2, so 53 bits
    hold them. No block, BLAS or number of threads can change a bit. Cost: O(n m d); 40 MB beside the arguments.
    """
    values = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _ROWS):
        values[start : start + _ROWS] = _largest(vectors[start : start + _ROWS], target)
    return values


def _largest(vectors: np.ndarray, target: np.ndarray) -> np.ndarray:
    rows = widened(vectors)
    proposed = np.zeros(len(rows), np.float32)
    exact = np.zeros(len(rows))
    for start in range(0, len(target), _TARGETS):
        part = widened(target[start : start + _TARGETS])
        products = rows @ part.T  # (b, d) @ (d, t)
        np.abs(products, out=products)
        proposed = np.maximum(proposed, products.max(axis=1))
        i, j = np.nonzero(products > proposed[:, None] - np.float32(_NEAR))
        for low in range(0, len(i), _PAIRS):
            a, b = i[low : low + _PAIRS], j[low : low + _PAIRS]
            np.maximum.at(exact, a, np.abs(np.vecdot(rows[a].astype(np.float64), part[b].astype(np.float64))))
    return exact.astype(np.float32)


def gram(target: np.ndarray) -> np.ndarray:
    """ZᵀZ of float16 (m, d) of unit norm: float64 (d, d).

    Products of 16 rows are exact in float64, and they are added in order, so every BLAS gives the same bits.
    Cost: O(m d²), 0.12 s per 1,000 rows at d = 768 on one core.
    """
    product = np.zeros((target.shape[1], target.shape[1]))
    for start in range(0, len(target), _EXACT_ROWS):
        rows = target[start : start + _EXACT_ROWS].astype(np.float64)
        product += rows.T @ rows  # (d, 16) @ (16, d) = (d, d)
    return product


def lengths(vectors: np.ndarray, product: np.ndarray) -> np.ndarray:
    """NormSim_2 of each row: ‖Z f_i‖ = sqrt(f_iᵀ G f_i), float64 (n,) from 0 to sqrt(m).

    vectors: float16 (n, d), or float32 of the same numbers, of unit norm. product: G = ZᵀZ, float64 (d, d).
    Each number of G f_i is computed as a separate dot product, because the last bits of a matrix product depend on the
    other rows. Cost: O(n d²) for any m, 60 to 80 µs a row at d = 768 on one core, 2.7 times the matrix product.
    """
    values = np.empty(len(vectors))
    for start in range(0, len(vectors), _GRAM_ROWS):
        rows = vectors[start : start + _GRAM_ROWS].astype(np.float64)
        images = np.vecdot(rows[:, None, :], product)  # (b, 1, d) · (d, d) -> (b, d)
        values[start : start + _GRAM_ROWS] = np.sqrt(np.maximum(np.vecdot(rows, images), 0))
    return values


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
