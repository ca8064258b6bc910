"""Where one sample stands among those that its cuts ordered it with: one pass over the cuts' own columns; no file.

Each shard says how many of the sample's group there are and come before it, and where the kept ones of it end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from winnow.jobs.verify.finished import Finished, FinishedCut
from winnow.jobs.verify.orders import RANKINGS, Ranking, wide
from winnow.jobs.why.place import Place
from winnow.pipeline.order import WIDE_KEY, order_keys
from winnow.pipeline.stage import Run, ShardItem

RANKED = ("similarity", "negclip", "density", "prototypes", "coverage", "normsim", "random", "score")
"""Kinds of cut that order single samples; `epochs` does so once for each epoch, which is left out."""


@dataclass(frozen=True)
class Mine:
    """The sample in one ranking: (value, group), and its key in the total order of samples."""

    cut: int
    ranking: int
    value: np.generic
    group: int
    key: bytes


@dataclass(frozen=True)
class Standing:
    """A group of samples, and one of them in it.

    size: samples in the group. before: how many of them come before this one. kept: how many stay.
    last: the lowest value that stays, first: the highest that goes; None where there is none. Values are those that
    the order goes by: the highest first.
    """

    size: int = 0
    before: int = 0
    kept: int = 0
    last: int | float | None = None
    first: int | float | None = None

    def __add__(self, other: "Standing") -> "Standing":
        last = [end for end in (self.last, other.last) if end is not None]
        first = [end for end in (self.first, other.first) if end is not None]
        return Standing(
            self.size + other.size,
            self.before + other.before,
            self.kept + other.kept,
            min(last, default=None),
            max(first, default=None),
        )

    @property
    def rank(self) -> int:
        """1 for the first."""
        return self.before + 1


@dataclass(frozen=True)
class _Look:
    job: Finished
    mine: tuple[Mine, ...]

    def __call__(self, item: ShardItem) -> list[Standing]:
        cuts, found = self.job.cuts, []
        seen: dict[int, tuple[list[Ranking], np.ndarray]] = {}
        for me in self.mine:
            if me.cut not in seen:
                seen[me.cut] = rankings(cuts[me.cut], item)
            every, uids = seen[me.cut]
            found.append(_standing(every[me.ranking], uids, item, me))
        return found


def rankings(cut: FinishedCut, item: ShardItem) -> tuple[list[Ranking], np.ndarray]:
    """The orders of a cut over one shard, and the uids of its rows."""
    uids = cut.before.uids(item.index)
    return [*RANKINGS[cut.kind](cut, cut.artifact.read(item.index), cut.before.mask(item.index), uids)], uids


def _standing(ranking: Ranking, uids: np.ndarray, item: ShardItem, me: Mine) -> Standing:
    at = np.flatnonzero(ranking.group == me.group)
    value, kept = wide(ranking.value[at]), ranking.kept[at]
    ties = at[value == me.value]
    keys = order_keys(np.full(len(ties), me.value), uids[ties], item.index, ties)
    before = int((value > me.value).sum()) + int((keys < np.array([me.key], keys.dtype)).sum())
    last, first = value[kept], value[~kept]
    ends = last.min().item() if len(last) else None, first.max().item() if len(first) else None
    return Standing(len(at), before, int(kept.sum()), *ends)


def mine_of(job: Finished, place: Place, cuts: Sequence[int]) -> list[Mine]:
    """The sample in every ranking of these cuts (by number) that it takes part in."""
    if place.row is None:
        return []
    found = []
    for number in cuts:
        every, uids = rankings(job.cuts[number], place.item)
        for which, ranking in enumerate(every):
            group = int(ranking.group[place.row])
            if group >= 0:
                at = np.array([place.row])
                value = wide(ranking.value[at])
                key = order_keys(value, uids[at], place.item.index, at)
                found.append(Mine(number, which, value[0], group, bytes(key[0]).ljust(WIDE_KEY.itemsize, b"\0")))
    return found


def standings(job: Finished, run: Run, mine: Sequence[Mine]) -> list[Standing]:
    """Where the sample stands in each of its rankings. Cost: one pass over the columns of those cuts, and uids."""
    found = [Standing()] * len(mine)
    if mine:
        for _, parts in run.each(_Look(job, tuple(mine)), run.items, "why: ranks"):
            found = [a + b for a, b in zip(found, parts, strict=True)]
    return found
