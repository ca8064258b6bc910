"""The cut `distinct_words` keeps the samples whose captions have the most different words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from winnow.pipeline.keep_top import Rows
from winnow.pipeline.stage import ShardItem, Stage
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Cut
from winnow.stages.cuts.keeping import Ranked, one_group, value_column
from winnow.stages.survivors import Survivors


@dataclass(frozen=True)
class DistinctWords(Cut):
    """The options of the cut, as a job file gives them: exactly one of fraction and count."""

    fraction: float | None = None
    count: int | None = None
    kind: ClassVar[str] = "distinct_words"  # the name of the entry point

    def __post_init__(self) -> None:
        self.amount()  # refuses both options, or none

    def amount(self) -> Amount:
        """How much stays. Because the cut says it, winnow checks that as many stay."""
        return Amount(self.fraction, self.count)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The one stage that decides. `Ranked` keeps the highest values of one group."""
        return [Ranked(self.kind, _Words(survivors), survivors, self.amount())]

    # Both methods below are optional.

    def shown(self) -> Shown:
        """What the report says of the cut, and what it calls the value."""
        return Shown("Captions with many different words stay.", "words", "different words")

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """The cut's columns of one shard, computed anew. `winnow verify` compares them with the stored ones."""
        return {"words": pa.array(words(cut.before, item))}


@dataclass(frozen=True)
class _Words:
    """Computes the cut's values for one shard at a time. Workers receive a copy of it by pickle."""

    survivors: Survivors

    def rows(self, item: ShardItem) -> Rows:
        """Value, group and uid of every row of a shard. Group -1 is a row that an earlier cut dropped."""
        group = one_group(self.survivors.mask(item.index))
        return Rows(words(self.survivors, item), group, self.survivors.uids(item.index), item.index)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """The columns that the manifest gets. The first one is the value that decided."""
        return {"words": value_column(rows)}


def words(survivors: Survivors, item: ShardItem) -> np.ndarray:
    """How many different words each caption of a shard has: int64 (n,), higher is better."""
    captions = survivors.table(item.index, ["caption"])["caption"].to_pylist()
    return np.array([len(set(caption.lower().split())) for caption in captions], np.int64)
