"""Leaves `random-…/`: a uniform sample by a hash of the uid, the same for any sharding; every method's baseline."""

from typing import ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.stage import Stage
from winnow.stages.cuts.cut import Amount, Cut, Of, Ranked
from winnow.stages.cuts.shown import Shown
from winnow.stages.kernels.uid_hash import UidHash
from winnow.stages.survivors import Survivors


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Random(Cut):
    """Keep a uniform sample: a fraction or a count. The same seed keeps a smaller sample inside a larger one."""

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
