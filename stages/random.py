"""Leaves `random-…/`: a uniform sample by a hash of the uid, the same for any sharding; every method's baseline."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.keep_top import Rows
from pipeline.stage import ShardItem, Stage
from stages.cut import Amount, Of, Ranked, one_group, value_column
from stages.survivors import Survivors


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Random:
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


def hash_values(uids: np.ndarray, seed: int) -> np.ndarray:
    """Uniform float32 in [0, 1), a function of uid and seed alone.

    uids: (n,) of dtype UID. Cost O(n). The 24 bits that float32 holds tie for one pair in 17 million; keep_top
    decides ties by uid.
    """
    x = uids["f0"] ^ _mixed(uids["f1"] + _mixed(np.full(1, seed, np.uint64)))
    values: np.ndarray = (_mixed(x) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return values


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): a bijection on 64 bits that flips each with chance a half."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


@dataclass(frozen=True)
class UidHash:
    """A hash of each uid as its value."""

    survivors: Survivors
    seed: int

    def rows(self, item: ShardItem) -> Rows:
        """See Source.rows."""
        uids = self.survivors.uids(item.index)
        return Rows(hash_values(uids, self.seed), one_group(self.survivors.mask(item.index)), uids, item.index)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """See Source.columns."""
        return {"hash": value_column(rows)}
