"""Checks that each cut kept the samples that come first in its own order, and as many as the job asked for."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from winnow.jobs.verify.finished import Finished
from winnow.pipeline.order import beyond, reversed_order
from winnow.pipeline.stage import Run, ShardItem
from winnow.stages.cuts.contract.findings import Findings, looked, over, violated_rows
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.contract.orders import PartStandings, Ranking, Standings, merge_standings

CutLook = tuple[Findings, list[PartStandings]]
"""What some shards show: violations that each row shows by itself, and the standings in each ranking of the cut."""


def cuts(job: Finished, run: Run) -> Findings | None:
    """Each cut keeps the highest values of each group, or the values above its threshold, and as many as it should."""
    found = Findings()
    for cut in job.judged:
        found += _cut(run, cut)
    return None if found == Findings() else found


def _cut(run: Run, cut: FinishedCut) -> Findings:
    seen: list[Standings] = []

    def absorb(result: CutLook) -> Findings:
        found, parts = result
        # every shard has one for each ranking of the cut, even a shard without any row
        seen[:] = seen or [Standings.empty() for _ in parts]
        for standing, part in zip(seen, parts, strict=True):
            standing.take(part)
        return found

    amount = cut.amount  # cached on the object, so that workers do not read it again
    found = over(run, partial(_standings, cut), run.items, cut.name, absorb, merge_looks)
    standings = [standing.whole() for standing in seen]
    if not standings:
        return found
    found += looked(cuts=1)
    if found.wrong:  # without the failed shards, the sums would be wrong
        return found
    found += looked(groups=sum(len(standing.size) for standing in standings))
    if amount is None or amount.threshold is None:  # a threshold is checked row by row in _by_threshold
        found += cut.options.laws(cut, run, standings)
    return found


def merge_looks(results: Sequence[CutLook]) -> CutLook:
    """What several shards show as one."""
    every = [parts for _, parts in results if parts]
    merged = [merge_standings(parts) for parts in zip(*every, strict=True)]
    return sum((found for found, _ in results), Findings()), merged


def _standings(cut: FinishedCut, item: ShardItem) -> CutLook:
    rows = cut.rows(item)
    rankings = cut.options.rankings(cut, rows)
    if rankings is None:
        note = f"{cut.name}: the cut gives no order, so its choice of samples is not checked"
        return Findings(notes=(note,)), []
    found, standings = Findings(), list[PartStandings]()
    for ranking in rankings:
        found += _by_threshold(cut, item, ranking)
        standings.append(PartStandings.of(ranking, rows.uids, item.index))
    return found + (looked(rows=len(rows.before)) if standings else Findings()), standings


def _by_threshold(cut: FinishedCut, item: ShardItem, ranking: Ranking) -> Findings:
    """Check every row of a cut that keeps what is beyond a threshold."""
    amount = cut.amount
    if amount is None or amount.threshold is None:
        return Findings()
    value = reversed_order(ranking.value) if amount.lowest else ranking.value
    at = np.flatnonzero(((ranking.group >= 0) & beyond(value, amount.threshold, amount.lowest)) != ranking.kept)

    def say(row: int) -> str:
        return (
            f"{cut.pool.who(item, row)}: {cut.name} must keep what is beyond {amount.threshold}, but kept is "
            f"{ranking.kept[row]} at {value[row]}"
        )

    return violated_rows(item, at, say)
