"""One cut of a finished job with its artifacts: what `winnow verify` checks and `winnow why` explains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact, summary_of
from winnow.pipeline.columns import column
from winnow.pipeline.order import reversed_order
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.uid import uids_of
from winnow.stages.cuts.contract.amount import Amount
from winnow.stages.cuts.contract.findings import Findings
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.survivors import Survivors

if TYPE_CHECKING:
    from winnow.stages.cuts.cut import Cut

_COMPLEMENTS = (-1, (1 << 64) - 1)  # an integer and its value in reversed order sum to this: int64, uint64
_SAMPLE_SEED = 1 << 61  # no cut uses it: survivors of a cut by a hash all have high hashes of its seed


@dataclass(frozen=True)
class RowSample:
    """Which rows a check looks at if all would take long: about `rows` of all, or all if `rows` is None.

    A hash of uid and seed draws them, so every shard, stage and rerun draws the same samples.
    """

    rows: int | None
    seed: int = 0

    def mask(self, uids: np.ndarray, whole: int) -> np.ndarray:
        """Which of these rows are drawn: bool (n,). uids: (n,) of dtype UID. whole: number of rows in all shards."""
        if self.rows is None or self.rows >= whole:
            return np.ones(len(uids), bool)
        # whole > rows, so the product is below 2^64
        return hash64(uids, _SAMPLE_SEED + self.seed) < np.uint64((self.rows << 64) // whole)


@dataclass(frozen=True)
class Readable:
    """The readable samples of a finished job's pool. samples: one row for each. count: their number in all shards.

    sample: which of them a check looks at if all would take long.
    """

    samples: Artifact
    count: int
    sample: RowSample

    def sampled(self, index: int) -> np.ndarray:
        """Rows of one shard that a check looks at: int64 (m,)."""
        return np.flatnonzero(self.sample.mask(uids_of(self.samples.read(index, ["uid"])["uid"]), self.count))

    def who(self, item: ShardItem, row: int) -> str:
        """Row, key and uid of a sample, for messages."""
        table = self.samples.read(item.index, ["key", "uid"]).slice(row, 1)
        [key], [uid] = table["key"].to_pylist(), table["uid"].to_pylist()
        return f"row {row}, key {key!r}, uid {uid}"


@dataclass(frozen=True)
class FinishedCut:
    """One cut of a finished job. name: its name in the manifest. before: the samples that it saw.

    options: the cut itself. artifact: `kept` and its values. prepared: artifacts of the stages before the deciding one,
    by name of the stage. pool: all samples that could be read. path: its place in the job file. part_of: the name of
    the cut that has it in its list, None for a cut of the policy itself.
    """

    name: str
    options: "Cut"
    before: Survivors
    artifact: Artifact
    prepared: Mapping[str, Artifact]
    pool: Readable
    path: str = ""
    part_of: str | None = None

    @property
    def kind(self) -> str:
        """What the policy calls it."""
        return self.options.kind

    @cached_property
    def amount(self) -> Amount | None:
        """How much the cut keeps: what the cut says, or else the amount of its stage if that is `Ranked`; else None.

        The footers have the value of the last kept sample twice, as it is ordered and as it is shown. From the two it
        follows whether the highest or the lowest values stay. Reads `_done.json` and the footers up to the first shard
        that keeps a sample, once.
        """
        said, done = self.options.amount(), self.artifact.done() or {}
        if said is not None or "threshold" not in done:
            return said
        told = cast(Mapping[str, Mapping[str, Any]], done["config"]).get("amount")
        lowest = self._lowest() if done["kept"] else False
        if told is None or lowest is None:
            return None
        return Amount(told["fraction"], told["count"], told["threshold"], told["of"], lowest)

    def _lowest(self) -> bool | None:
        """Whether the lowest values of its first column stay; None if the cut is not ordered by that column."""
        lasts = (self.artifact.summary(index).get("last") for index in sorted(self.artifact.present()))
        ordered, shown = cast(list[Any], next(last for last in lasts if last is not None))
        if repr(ordered) == repr(shown):  # compared as text, because 0.0 == -0.0 and 5 == 5.0
            return False
        if isinstance(ordered, int) and isinstance(shown, int):
            return True if ordered + shown in _COMPLEMENTS else None
        return True if repr(-ordered) == repr(shown) else None

    def rows(self, item: ShardItem) -> "CutRows":
        """Its file of one shard."""
        return CutRows(self, item)


@dataclass(frozen=True)
class CutRows:
    """A cut's file of one shard, n rows. Each property is read on first use."""

    cut: FinishedCut
    item: ShardItem

    @cached_property
    def table(self) -> pa.Table:
        """`kept` and the cut's columns."""
        return self.cut.artifact.read(self.item.index)

    @cached_property
    def before(self) -> np.ndarray:
        """Which rows the cut saw: bool (n,)."""
        return self.cut.before.mask(self.item.index)

    @cached_property
    def uids(self) -> np.ndarray:
        """(n,) of dtype UID."""
        return self.cut.before.uids(self.item.index)

    @property
    def kept(self) -> np.ndarray:
        """bool (n,)."""
        return column(self.table, "kept")

    @property
    def names(self) -> list[str]:
        """The cut's own columns, in their order."""
        return [name for name in self.table.column_names if name != "kept"]

    @property
    def in_one_order(self) -> bool:
        """Whether the stage ranked all samples together by its first column (see keeping.py, Ranked)."""
        return "last" in summary_of(self.table)

    def numbers(self, name: str, lowest: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """A column with 0 for null, its order reversed if `lowest`; and a mask of the rows that are not null."""
        value = column(self.table, name, null=0)
        return reversed_order(value) if lowest else value, np.asarray(self.table[name].is_valid())


@dataclass(frozen=True)
class Contents:
    """What a stage's artifact holds.

    by_shard: whether there is a table for each input shard. data: more files in the same folder. beside: files in the
    meta folder beside it, such as a table of clusters.
    """

    by_shard: bool = True
    data: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


Check = Callable[[FinishedCut, Run], Findings]
"""A check of one finished cut."""


class NamedRows(Protocol):
    """Which rows of a shard a file of uids should name; picklable."""

    def of(self, index: int) -> tuple[np.ndarray, pa.Array]:
        """Row numbers int64 (m,) in the shard's file, and uids of 16 bytes (m,)."""
        ...
