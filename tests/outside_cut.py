"""A cut that winnow does not know: it says which stage decides, and takes every other answer by default."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pytest

from tests import plugins
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.keep_top import Rows
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary
from winnow.stages.cuts.contract.drawn import EPOCHS, drawn_report
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.contract.source import Source
from winnow.stages.cuts.cut import Amount, Cut
from winnow.stages.cuts.keeping import Ranked, funnel, keep_by_quota, one_group, value_column, write_kept
from winnow.stages.survivors import Survivors


@dataclass(frozen=True)
class Longest(Cut):
    """Keep the samples with the longest captions, or the shortest: a fraction or a count of what came."""

    fraction: float | None = None
    count: int | None = None
    threshold: float | None = None
    keep: Literal["longest", "shortest"] = "longest"
    kind: ClassVar[str] = "longest"

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        short = self.keep == "shortest"
        amount = Amount(self.fraction, self.count, self.threshold, lowest=short)
        return [Ranked(self.kind, Length(survivors, -1 if short else 1), survivors, amount)]


@dataclass(frozen=True)
class Length:
    survivors: Survivors
    sign: int

    def rows(self, item: ShardItem) -> Rows:
        captions = self.survivors.table(item.index, ["caption"])["caption"].to_pylist()
        value = np.array([self.sign * len(caption) for caption in captions], np.float32)
        return Rows(value, one_group(self.survivors.mask(item.index)), self.survivors.uids(item.index), item.index)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        return {"chars": value_column(Rows(rows.value * self.sign, rows.group, rows.uid, rows.shard))}


@dataclass(frozen=True)
class Odd(Cut):
    """Keep every other sample of each shard: it orders nothing."""

    kind: ClassVar[str] = "odd"

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        return [OddStage(survivors)]


@dataclass(frozen=True)
class OddStage:
    survivors: Survivors
    name: ClassVar[str] = "odd"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        return funnel(run.fill(_Mark(self.survivors, out), out, self.name))


@dataclass(frozen=True)
class _Mark:
    survivors: Survivors
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        before = self.survivors.mask(item.index)
        place = np.arange(len(before))
        return write_kept(self.out, item, before, before & (place % 2 == 1), {"place": pa.array(place, mask=~before)})


@dataclass(frozen=True)
class Briefest(Cut):
    """Of the captions whose length leaves the same remainder, keep those with the fewest characters."""

    each: int
    remainders: int = 3
    kind: ClassVar[str] = "briefest"

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        return [BriefestStage(self, survivors)]

    def ranked_by(self, cut: FinishedCut) -> Source:
        return Brevity(cut.before, self.remainders)

    def quotas(self, cut: FinishedCut) -> np.ndarray:
        return np.full(self.remainders, self.each, np.int64)


@dataclass(frozen=True)
class BriefestStage:
    options: Briefest
    survivors: Survivors
    name: ClassVar[str] = "briefest"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        quota = np.full(self.options.remainders, self.options.each, np.int64)
        return funnel(keep_by_quota(run, out, Brevity(self.survivors, self.options.remainders), quota, self.name))


@dataclass(frozen=True)
class Brevity:
    survivors: Survivors
    remainders: int

    def rows(self, item: ShardItem) -> Rows:
        rows = Length(self.survivors, -1).rows(item)
        return replace(rows, group=np.where(rows.group < 0, -1, -rows.value % self.remainders).astype(np.int32))

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        return {"chars": value_column(replace(rows, value=-rows.value)), "remainder": pa.array(rows.group)}


@dataclass(frozen=True)
class Slices(Cut):
    """Each shard gives its first `each` samples to the first epoch, the next ones to the second, and so on."""

    epochs: int
    each: int
    kind: ClassVar[str] = "slices"
    draws_epochs: ClassVar[bool] = True

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        return [SlicesStage(survivors, self.epochs, self.each)]


@dataclass(frozen=True)
class SlicesStage:
    survivors: Survivors
    epochs: int
    each: int
    name: ClassVar[str] = "slices"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        summaries = run.fill(_Give(self, out), out, self.name)
        return funnel(summaries, **drawn_report(self.epochs, self.each * len(run.items)))


@dataclass(frozen=True)
class _Give:
    stage: SlicesStage
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        before = self.stage.survivors.mask(item.index)
        epoch = np.where(before, (np.cumsum(before) - 1) // self.stage.each, self.stage.epochs)
        drawn = epoch < self.stage.epochs
        lists = pa.array([[e] if there else [] for e, there in zip(epoch, drawn, strict=True)], pa.list_(pa.int32()))
        return write_kept(self.out, item, before, drawn, {EPOCHS: lists})


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, version: str = "1.0") -> None:
    """A policy can name them until the test ends; folder: where the distribution's metadata lie."""
    kinds = {cut.kind: f"{cut.__module__}:{cut.__name__}" for cut in (Longest, Odd, Briefest, Slices)}
    plugins.install(monkeypatch, folder, "winnow-outside", {"winnow.cuts": kinds}, {}, version)
