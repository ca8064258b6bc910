"""Computes the rank of one sample in the order by which a cut selected.

Each shard counts the members of the sample's group and those that come before the sample, and finds the last value that
is kept and the first that is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from winnow.jobs.verify.finished import Finished
from winnow.pipeline.order import WIDE_KEY, order_keys
from winnow.pipeline.stage import Run, ShardItem
from winnow.stages.cuts.contract.explained import FoundSample, GroupRank, Mine
from winnow.stages.cuts.contract.finished import CutRows, FinishedCut
from winnow.stages.cuts.contract.orders import Ranking, wide


@dataclass(frozen=True)
class _RankInShard:
    job: Finished
    mine: tuple[Mine, ...]

    def __call__(self, item: ShardItem) -> list[GroupRank]:
        cuts, found = self.job.judged, []
        seen: dict[int, tuple[list[Ranking], CutRows]] = {}
        for me in self.mine:
            if me.cut not in seen:
                seen[me.cut] = rankings(cuts[me.cut], item)
            every, rows = seen[me.cut]
            found.append(_standing(every[me.ranking], rows.uids, item, me))
        return found


def rankings(cut: FinishedCut, item: ShardItem) -> tuple[list[Ranking], CutRows]:
    """The orders of a cut over one shard, and the rows that they order."""
    rows = cut.rows(item)
    return [*(cut.options.rankings(cut, rows) or ())], rows


def _standing(ranking: Ranking, uids: np.ndarray, item: ShardItem, me: Mine) -> GroupRank:
    at = np.flatnonzero(ranking.group == me.group)
    value, kept = wide(ranking.value[at]), ranking.kept[at]
    ties = at[value == me.value]
    keys = order_keys(np.full(len(ties), me.value), uids[ties], item.index, ties)
    before = int((value > me.value).sum()) + int((keys < np.array([me.key], keys.dtype)).sum())
    last, first = value[kept], value[~kept]
    ends = last.min().item() if len(last) else None, first.max().item() if len(first) else None
    return GroupRank(len(at), before, int(kept.sum()), *ends)


def mine_of(job: Finished, place: FoundSample, cuts: Sequence[int]) -> list[Mine]:
    """The sample's value, group and key in every ranking of these cuts (by number) that it takes part in."""
    if place.row is None:
        return []
    found = []
    for number in cuts:
        every, rows = rankings(job.judged[number], place.item)
        for which, ranking in enumerate(every):
            group = int(ranking.group[place.row])
            if group >= 0:
                at = np.array([place.row])
                value = wide(ranking.value[at])
                key = order_keys(value, rows.uids[at], place.item.index, at)
                found.append(Mine(number, which, value[0], group, bytes(key[0]).ljust(WIDE_KEY.itemsize, b"\0")))
    return found


def group_ranks(job: Finished, run: Run, mine: Sequence[Mine]) -> list[GroupRank]:
    """The sample's rank in each of its rankings. Cost: one pass over the columns of these cuts, and the uids."""
    found = [GroupRank()] * len(mine)
    if mine:
        for _, parts in run.each(_RankInShard(job, tuple(mine)), run.items, "why: ranks"):
            found = [a + b for a, b in zip(found, parts, strict=True)]
    return found
