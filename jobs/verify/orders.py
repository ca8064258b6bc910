"""Whether every ranked cut kept exactly as many as it was asked for, and in each group none below one that it dropped.

A pass over the cuts' own columns: each shard says, for each group, how many there are and are kept, the last that is
kept and the first that is dropped, in the order of value, uid and place.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from winnow.jobs.verify.findings import Findings, looked, over, told, unless_equal, violated
from winnow.jobs.verify.finished import Finished, FinishedCut
from winnow.pipeline.artifact import read_table
from winnow.pipeline.columns import column
from winnow.pipeline.order import WIDE_KEY, beyond, key_places, key_uids, order_keys, reversed_order
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.uid import uids_to_hex
from winnow.stages.cuts.coverage import budgets
from winnow.stages.cuts.cut import one_group
from winnow.stages.cuts.epochs import shuffle_seed
from winnow.stages.cuts.prototypes import floors
from winnow.stages.cuts.target import target_shape
from winnow.stages.kernels.uid_hash import hash_values

_FIRST, _LAST = b"", b"\xff" * WIDE_KEY.itemsize


@dataclass(frozen=True)
class Ranking:
    """One order of a shard's rows that a cut went by.

    value: (n,) of a dtype that is ordered, highest first. group: (n,), -1 takes no part. kept: bool (n,).
    """

    value: np.ndarray
    group: np.ndarray
    kept: np.ndarray


@dataclass
class Standing:
    """Groups 0 to g - 1 over all shards seen so far; all arrays (g,).

    size, kept: int64, rows. last: the key of the last row that is kept, first: of the first that is dropped.
    """

    size: np.ndarray
    kept: np.ndarray
    last: np.ndarray
    first: np.ndarray

    @classmethod
    def empty(cls, groups: int = 0) -> "Standing":
        """No rows yet."""
        none = np.zeros(groups, np.int64)
        return cls(none, none.copy(), np.full(groups, _FIRST, WIDE_KEY), np.full(groups, _LAST, WIDE_KEY))

    @classmethod
    def of(cls, ranking: Ranking, uids: np.ndarray, shard: int) -> "Standing":
        """That of one shard. Cost O(n log n)."""
        at = np.flatnonzero(ranking.group >= 0)
        group, kept = ranking.group[at].astype(np.int64), ranking.kept[at]
        keys = order_keys(wide(ranking.value[at]), uids[at], shard, at)
        made = cls.empty(int(group.max(initial=-1)) + 1)
        made.size += np.bincount(group, minlength=len(made.size))
        made.kept += np.bincount(group[kept], minlength=len(made.size))
        order = np.lexsort((keys, group))
        stays, goes = order[kept[order]], order[~kept[order]][::-1]
        made.last[group[stays]] = keys[stays]  # of several assignments the last one counts
        made.first[group[goes]] = keys[goes]
        return made

    def __add__(self, other: "Standing") -> "Standing":
        mine, theirs = (part.widened(max(len(self.size), len(other.size))) for part in (self, other))
        return Standing(
            mine.size + theirs.size,
            mine.kept + theirs.kept,
            np.where(mine.last > theirs.last, mine.last, theirs.last),
            np.where(mine.first < theirs.first, mine.first, theirs.first),
        )

    def widened(self, groups: int) -> "Standing":
        """With empty groups at the end, so that there are as many, or as it is where there are more."""
        more = Standing.empty(max(0, groups - len(self.size)))
        names = ("size", "kept", "last", "first")
        return Standing(*(np.concatenate([getattr(self, name), getattr(more, name)]) for name in names))


def wide(value: np.ndarray) -> np.ndarray:
    """The same values in 8 bytes, so that keys of every cut have one length: float32 as float64."""
    return value.astype(np.float64) if value.dtype == np.float32 else value


def cuts(job: Finished, run: Run) -> Findings | None:
    """Each cut keeps the highest values of each group, or those above its threshold, and as many as it should."""
    found: Findings | None = None
    for cut in job.cuts:
        if cut.kind in RANKINGS:
            found = (found or Findings()) + _cut(job, run, cut)
    return found


def _cut(job: Finished, run: Run, cut: FinishedCut) -> Findings:
    standings: list[Standing] = []

    def absorb(result: tuple[Findings, Sequence[Standing]]) -> Findings:
        found, parts = result
        # a shard of no epoch at all, say, has as many standings as any other: one for each ranking of the cut
        standings[:] = [a + b for a, b in zip(standings or [Standing.empty()] * len(parts), parts, strict=True)]
        return found

    found = over(run, partial(_standings, job, cut), run.items, cut.name, absorb) + looked(cuts=1)
    if not standings or found.wrong:  # counts of some shards say nothing of the whole
        return found
    found += looked(groups=sum(len(standing.size) for standing in standings))
    if getattr(cut.options, "threshold", None) is None:
        for rule in LAWS[cut.kind]:
            found += rule(job, run, cut, standings)
    return found


def _standings(job: Finished, cut: FinishedCut, item: ShardItem) -> tuple[Findings, list[Standing]]:
    table, before, uids = cut.artifact.read(item.index), cut.before.mask(item.index), cut.before.uids(item.index)
    found = looked(rows=len(before))
    rankings = list(RANKINGS[cut.kind](cut, table, before, uids))
    threshold = getattr(cut.options, "threshold", None)
    if threshold is not None:
        [only] = rankings
        lowest = getattr(cut.options, "keep", None) == "lowest"
        value = reversed_order(only.value) if lowest else only.value
        at = np.flatnonzero(((only.group >= 0) & beyond(value, threshold, lowest)) != only.kept)
        found += told(
            item,
            at,
            lambda row: (
                f"{job.who(item, row)}: {cut.name} must keep what is beyond {threshold}, but kept is "
                f"{only.kept[row]} at {value[row]}"
            ),
        )
    return found, [Standing.of(ranking, uids, item.index) for ranking in rankings]


def _numbers(table: pa.Table, name: str, lowest: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A value column with 0 for null, its order reversed where the lowest come first; and where it is not null."""
    there = np.asarray(table[name].is_valid())
    value = column(table, name, null=0)
    return reversed_order(value) if lowest else value, there


def _by_value(name: str, cut: FinishedCut, table: pa.Table, before: np.ndarray, uids: np.ndarray) -> Iterator[Ranking]:
    """One group of all that have a value."""
    value, there = _numbers(table, name, getattr(cut.options, "keep", None) == "lowest")
    yield Ranking(value, one_group(before & there), column(table, "kept"))


def _by_distance(cut: FinishedCut, table: pa.Table, before: np.ndarray, uids: np.ndarray) -> Iterator[Ranking]:
    """A group for each cluster."""
    value, _ = _numbers(table, "distance", cut.options.keep == "easy")
    if cut.options.keep == "random":
        value = hash_values(uids, cut.options.seed)
    group = np.where(before, column(table, "cluster", null=-1), -1)
    yield Ranking(value, group, column(table, "kept"))


def _whole_clusters(cut: FinishedCut, table: pa.Table, before: np.ndarray, uids: np.ndarray) -> Iterator[Ranking]:
    """A group for each cluster, without an order in it."""
    group = np.where(before, column(table, "cluster", null=-1), -1)
    yield Ranking(np.zeros(len(group), np.float32), group, column(table, "kept"))


def _by_strata(cut: FinishedCut, table: pa.Table, before: np.ndarray, uids: np.ndarray) -> Iterator[Ranking]:
    """A group for each stratum, by hash; then those that `beta` left among all, the easiest first."""
    stratum = column(table, "stratum", null=-1)
    yield Ranking(hash_values(uids, cut.options.seed), np.where(before, stratum, -1), column(table, "kept"))
    name = "cosine" if cut.options.by is not None else "value"
    ease, there = _numbers(table, name, cut.options.hardest == "highest")
    yield Ranking(ease, one_group(before & there), stratum >= 0)


def _by_epochs(cut: FinishedCut, table: pa.Table, before: np.ndarray, uids: np.ndarray) -> Iterator[Ranking]:
    """For each epoch those of its shuffle that it has reached: the windows before it and its own."""
    size, options = cut.options.amount().number(cut.before), cut.options
    windows = 1 if options.replacement else cut.before.count() // size
    lists = table["epochs"].combine_chunks()
    rows, epochs = np.repeat(np.arange(len(lists)), np.diff(np.asarray(lists.offsets))), np.asarray(lists.values)
    group = one_group(before)
    for epoch in range(options.epochs):
        shuffle, window = divmod(epoch, windows)
        reached = np.zeros(len(before), bool)
        reached[rows[(epochs >= epoch - window) & (epochs <= epoch)]] = True
        yield Ranking(hash_values(uids, shuffle_seed(options.seed, shuffle)), group, reached)


RANKINGS: Mapping[str, Callable[[FinishedCut, pa.Table, np.ndarray, np.ndarray], Iterator[Ranking]]] = {
    "similarity": partial(_by_value, "cosine"),
    "negclip": partial(_by_value, "contrast"),
    "density": _by_distance,
    "prototypes": _by_distance,
    "coverage": _by_strata,
    "normsim": partial(_by_value, "value"),
    "image_based": _whole_clusters,
    "feature_mapping": _whole_clusters,
    "random": partial(_by_value, "hash"),
    "score": partial(_by_value, "value"),
    "epochs": _by_epochs,
}
"""By kind of cut: how it ranks, from the columns of its file, who was in before it, and uids."""


def _ordered(job: Finished, run: Run, cut: FinishedCut, standings: Sequence[Standing]) -> Findings:
    """In each group, none that is dropped comes before one that is kept."""
    found = Findings()
    for number, standing in enumerate(standings):
        for group in np.flatnonzero(standing.last > standing.first):
            pair = standing.last[group : group + 1], standing.first[group : group + 1]
            stays, goes = (_who(run, key) for key in pair)
            of = f"ranking {number}, group {group}" if len(standings) > 1 else f"group {group}"
            found += violated(f"{cut.name}, {of}: {stays} is kept, so {goes}, which comes first, must be too")
    return found


def _who(run: Run, key: np.ndarray) -> str:
    [shard], [row] = key_places(key)
    [uid] = uids_to_hex(key_uids(key))
    return f"{run.shards[shard].url}, row {row}, uid {uid}"


def _amount(job: Finished, run: Run, cut: FinishedCut, standings: Sequence[Standing]) -> Findings:
    """What was asked for stays, or all that there is."""
    wanted = min(cut.options.amount().number(cut.before), int(standings[0].size.sum()))
    return unless_equal(f"{cut.name}: the samples that it keeps", wanted, int(standings[0].kept.sum()))


def _quotas(file: str, job: Finished, run: Run, cut: FinishedCut, standings: Sequence[Standing]) -> Findings:
    """Sizes and quotas of the table are met in each group, and the quotas sum to what stays."""
    table = read_table(cut.artifact.meta(file))
    return _per_group(cut, file, table, standings[0], column(table, "quota"))


def _per_group(cut: FinishedCut, file: str, table: pa.Table, standing: Standing, quota: np.ndarray) -> Findings:
    size = column(table, "size")
    standing = standing.widened(len(size))
    found = unless_equal(f"{cut.name}: groups of {file}", len(size), len(standing.size))
    if found.wrong:
        return found
    for group in np.flatnonzero((standing.size != size) | (standing.kept != quota)):
        found += violated(
            f"{cut.name}, group {group}: {file} has size {size[group]} and quota {quota[group]}, but "
            f"{standing.size[group]} samples are in it and {standing.kept[group]} are kept"
        )
    return found


def _votes(job: Finished, run: Run, cut: FinishedCut, standings: Sequence[Standing]) -> Findings:
    """Each vector of the target voted once; the clusters of votes.parquet that stay do so whole, the others not."""
    table = read_table(cut.artifact.meta("votes.parquet"))
    votes, kept = column(table, "votes"), column(table, "kept")
    voters, _ = target_shape(job.artifacts[f"{cut.name}.target"])
    found = unless_equal(f"{cut.name}: votes of votes.parquet", voters, int(votes.sum()))
    if cut.kind == "image_based":
        stays = votes >= cut.options.min_votes
    else:
        stays = np.zeros(len(votes), bool)
        stays[np.argsort(-votes, kind="stable")[: cut.options.top]] = True
        stays &= votes > 0
    wrong = np.flatnonzero(stays != kept).tolist()
    found += unless_equal(f"{cut.name}: clusters that votes.parquet keeps against its votes", [], wrong)
    return found + _per_group(cut, "votes.parquet", table, standings[0], np.where(kept, column(table, "size"), 0))


def _floors(job: Finished, run: Run, cut: FinishedCut, standings: Sequence[Standing]) -> Findings:
    """A cluster has its floor, and of what it keeps beyond that none comes after one that any cluster drops."""
    [standing] = standings
    least = floors(standing.size, cut.options.amount().number(cut.before), cut.options.balance)
    found = Findings()
    first = min(standing.first.tolist(), default=_LAST)
    for group in np.flatnonzero(standing.kept < least):
        found += violated(f"prototypes, group {group}: {least[group]} must stay, but {standing.kept[group]} do")
    for group in np.flatnonzero((standing.kept > least) & (standing.last > first)):
        stays, goes = _who(run, standing.last[group : group + 1]), _who(run, np.array([first], WIDE_KEY))
        found += violated(f"{cut.name}, group {group}: {stays} is kept, so {goes}, which comes first, must be too")
    return found


def _strata(job: Finished, run: Run, cut: FinishedCut, standings: Sequence[Standing]) -> Findings:
    """`beta` drops its share of all, and the budget of each stratum is that of the method."""
    strata, left = standings
    came, stayed = int(left.size.sum()), int(left.kept.sum())
    found = unless_equal(f"{cut.name}: what beta leaves of {came}", came - int(cut.options.beta * came), stayed)
    table = read_table(cut.artifact.meta("strata.parquet"))
    size, wanted = column(table, "size"), cut.options.amount().number(cut.before)
    if int(size.sum()) != stayed:
        return found + violated(f"{cut.name}: strata.parquet must hold {stayed} samples, but holds {size.sum()}")
    return found + _per_group(cut, "strata.parquet", table, strata, budgets(size, min(wanted, stayed)))


def _epochs(job: Finished, run: Run, cut: FinishedCut, standings: Sequence[Standing]) -> Findings:
    """Each epoch has its size, so as many windows of a shuffle as it has reached are full."""
    size = cut.options.amount().number(cut.before)
    windows = 1 if cut.options.replacement else cut.before.count() // size
    found = Findings()
    for epoch, standing in enumerate(standings):
        reached = (epoch % windows + 1) * size
        found += unless_equal(f"{cut.name}: samples up to epoch {epoch}", reached, int(standing.kept.sum()))
    return found


Law = Callable[[Finished, Run, FinishedCut, Sequence[Standing]], Findings]

LAWS: Mapping[str, tuple[Law, ...]] = {
    "similarity": (_ordered, _amount),
    "negclip": (_ordered, _amount),
    "density": (_ordered, _amount, partial(_quotas, "density.parquet")),
    "prototypes": (_ordered, _amount, _floors),
    "coverage": (_ordered, _strata, partial(_quotas, "strata.parquet")),
    "normsim": (_ordered, _amount),
    "image_based": (_votes,),
    "feature_mapping": (_votes,),
    "random": (_ordered, _amount),
    "score": (_ordered, _amount),
    "epochs": (_ordered, _epochs),
}
"""By kind of cut: what must hold of its standings, unless it keeps by a threshold, which each row shows by itself."""
