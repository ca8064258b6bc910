"""The cut `random`: keeps a uniform random sample by a hash of the uid, the baseline of every other cut."""

from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.stage import ShardItem, Stage
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Cut, Of
from winnow.stages.cuts.keeping import Ranked, UidHash
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.survivors import Survivors


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Random(Cut):
    """Keep a uniform sample: a fraction or a count. With the same seed, a larger sample contains a smaller one."""

    fraction: float | None = None
    count: int | None = None
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    of: Of = "survivors"
    kind: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        self.amount()

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, None, self.of)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """One stage; only uids are read."""
        return [Ranked(self.kind, UidHash(survivors, self.seed), survivors, self.amount())]

    def shown(self) -> Shown:
        """See Cut.shown."""
        return Shown("A uniform sample stays.", "hash", "hash of the uid")

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again."""
        return {"hash": pa.array(hash_values(cut.before.uids(item.index), self.seed))}
