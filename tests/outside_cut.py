"""A cut that winnow does not know: it says which stage decides, and takes every other answer by default."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from winnow.pipeline.keep_top import Rows
from winnow.pipeline.stage import ShardItem, Stage
from winnow.stages.cuts.cut import Amount, Cut, Ranked, one_group, value_column
from winnow.stages.policy import CUTS
from winnow.stages.survivors import Survivors


@dataclass(frozen=True)
class Longest(Cut):
    """Keep the samples with the longest captions: a fraction or a count of what came."""

    fraction: float | None = None
    count: int | None = None
    kind: ClassVar[str] = "longest"

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        return [Ranked(self.kind, Length(survivors), survivors, Amount(self.fraction, self.count))]


@dataclass(frozen=True)
class Length:
    survivors: Survivors

    def rows(self, item: ShardItem) -> Rows:
        captions = self.survivors.table(item.index, ["caption"])["caption"].to_pylist()
        value = np.array([len(caption) for caption in captions], np.float32)
        return Rows(value, one_group(self.survivors.mask(item.index)), self.survivors.uids(item.index), item.index)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        return {"chars": value_column(rows)}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy can name it until the test ends."""
    monkeypatch.setitem(CUTS, Longest.kind, Longest)
