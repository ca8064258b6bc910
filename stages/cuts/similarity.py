"""The cut `similarity` (CLIP score, DFN): keeps the pairs with the highest image-text cosine."""

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from winnow.pipeline.errors import DataError
from winnow.pipeline.keep_top import Rows
from winnow.pipeline.stage import ShardItem, Stage
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Cut, Of
from winnow.stages.cuts.keeping import Ranked, one_group, value_column
from winnow.stages.survivors import SIMILARITY, Survivors


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Similarity(Cut):
    """Keep the pairs of highest cosine between image and text (Fang et al. 2023, arXiv 2309.17425).

    by: an encoder of the job with an image and a text tower. Exactly one of fraction, count and threshold (cosine
    must be greater). of: the base of the fraction. DFN keeps the top 15 % of the pool.
    """

    by: str
    fraction: float | None = None
    count: int | None = None
    threshold: float | None = None
    of: Of = "survivors"
    kind: ClassVar[str] = "similarity"

    def __post_init__(self) -> None:
        self.amount()

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, self.threshold, self.of)

    def check(self, given: Given) -> None:
        """See Cut.check; the encoder must have text vectors."""
        super().check(given)
        given.check_text(self.kind, self.by)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """One stage over the stored cosines; no vector is read."""
        return [Ranked(self.kind, Cosine(survivors, self.by), survivors, self.amount())]

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "Keeps the pairs whose image and text vectors are most similar."
        return Shown(about, "cosine", "image-text cosine")

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again."""
        return stored_cosine(cut, item, self.by)


def stored_cosine(cut: FinishedCut, item: ShardItem, by: str) -> Mapping[str, pa.Array]:
    """Column `cosine` of every row of a shard, from the encoder's vectors."""
    return {"cosine": pa.array(_cosine(cut.before, item, by))}


def _cosine(survivors: Survivors, item: ShardItem, by: str) -> np.ndarray:
    found = survivors.similarity(item.index, by)
    if found is None:
        raise DataError(f"{survivors.encoder(by).shard(item.index)} must have column {SIMILARITY}, but has none")
    return found


@plain_dataclass(frozen=True)
class Cosine:
    """Value: the image-text cosine of one encoder, as the stage `vectors` stored it, float32 in [-1, 1]."""

    survivors: Survivors
    by: str

    def rows(self, item: ShardItem) -> Rows:
        """See Source.rows."""
        values = _cosine(self.survivors, item, self.by)
        mask = self.survivors.mask(item.index)
        return Rows(
            values, one_group(mask), self.survivors.uids(item.index), item.index, column=f"{self.by}.{SIMILARITY}"
        )

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """See Source.columns."""
        return {"cosine": value_column(rows)}
