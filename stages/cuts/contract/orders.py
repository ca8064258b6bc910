"""Rankings of a cut, and checks of what it kept: no dropped sample ranks before a kept one, and the count is right.

Each shard reports, for each group, its size, how many samples are kept, the last kept and the first dropped one, in the
order of value, uid and place. The reports of all shards add up to that of the whole pool, on the workers first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import read_table
from winnow.pipeline.columns import column
from winnow.pipeline.order import WIDE_KEY, key_places, key_uids, order_keys
from winnow.pipeline.stage import Run
from winnow.pipeline.uid import uids_to_hex
from winnow.stages.cuts.contract.findings import Findings, unless_equal, violated
from winnow.stages.cuts.contract.finished import CutRows, FinishedCut
from winnow.stages.cuts.contract.source import Source

_FIRST, LAST = b"", b"\xff" * WIDE_KEY.itemsize


@dataclass(frozen=True)
class Ranking:
    """One order in which a cut ranked the rows of a shard.

    value: (n,) of floats or integers, highest first. group: (n,), -1 for rows that are not ranked. kept: bool (n,).
    """

    value: np.ndarray
    group: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True)
class PartStandings:
    """Of some shards, the groups that occur in them: group int64 (m,), ascending; the others as in Standings, (m,)."""

    group: np.ndarray
    size: np.ndarray
    kept: np.ndarray
    last: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, ranking: Ranking, uids: np.ndarray, shard: int) -> "PartStandings":
        """Those of one shard. Cost O(n log n)."""
        at = np.flatnonzero(ranking.group >= 0)
        group, kept = ranking.group[at].astype(np.int64), ranking.kept[at]
        keys = order_keys(wide(ranking.value[at]), uids[at], shard, at)
        found, place = np.unique(group, return_inverse=True)
        last, first = np.full(len(found), _FIRST, WIDE_KEY), np.full(len(found), LAST, WIDE_KEY)
        order = np.lexsort((keys, group))  # by group, best first
        stays, goes = order[kept[order]], order[~kept[order]][::-1]
        last[place[stays]] = keys[stays]  # numpy keeps the last of several assignments to one group
        first[place[goes]] = keys[goes]
        size, stay = (np.bincount(place[which], minlength=len(found)) for which in (slice(None), kept))
        return cls(found, size, stay, last, first)


@dataclass
class Standings:
    """Size and boundary of groups 0 to g - 1 over all shards seen so far; all arrays (g,).

    size, kept: int64, number of rows. last: key of the last kept row. first: key of the first dropped row.
    """

    size: np.ndarray
    kept: np.ndarray
    last: np.ndarray
    first: np.ndarray

    @classmethod
    def empty(cls, groups: int = 0) -> "Standings":
        """No rows yet."""
        none = np.zeros(groups, np.int64)
        return cls(none, none.copy(), np.full(groups, _FIRST, WIDE_KEY), np.full(groups, LAST, WIDE_KEY))

    def take(self, part: PartStandings) -> None:
        """Add the rows of more shards. Cost O(m), not O(g)."""
        at = part.group
        if len(at) and at[-1] >= len(self.size):
            # doubled, as groups appear one by one where shards are small
            self._become(self.widened(max(int(at[-1]) + 1, 2 * len(self.size))))
        self.size[at] += part.size
        self.kept[at] += part.kept
        self.last[at] = np.where(part.last > self.last[at], part.last, self.last[at])
        self.first[at] = np.where(part.first < self.first[at], part.first, self.first[at])

    def part(self) -> PartStandings:
        """The groups that occurred."""
        at = np.flatnonzero(self.size)
        return PartStandings(at, self.size[at], self.kept[at], self.last[at], self.first[at])

    def whole(self) -> "Standings":
        """Up to the last group that occurred."""
        count = int(np.flatnonzero(self.size)[-1]) + 1 if self.size.any() else 0
        return Standings(self.size[:count], self.kept[:count], self.last[:count], self.first[:count])

    def _become(self, other: "Standings") -> None:
        self.size, self.kept, self.last, self.first = other.size, other.kept, other.last, other.first

    def widened(self, groups: int) -> "Standings":
        """The same with empty groups appended, so that there are at least this many."""
        more = Standings.empty(max(0, groups - len(self.size)))
        names = ("size", "kept", "last", "first")
        return Standings(*(np.concatenate([getattr(self, name), getattr(more, name)]) for name in names))


def merge_standings(parts: Sequence[PartStandings]) -> PartStandings:
    """Those of several shards as one."""
    found = Standings.empty()
    for part in parts:
        found.take(part)
    return found.part()


def wide(value: np.ndarray) -> np.ndarray:
    """The same values in 8 bytes, float32 as float64, so that the keys of every cut have one length."""
    return value.astype(np.float64) if value.dtype == np.float32 else value


def by_first_column(cut: FinishedCut, rows: CutRows) -> list[Ranking] | None:
    """The ranking of a cut that does not define its own: by its first column, highest or lowest first, in one group.

    None if its stage did not rank all samples together, or if it has no column of numbers.
    """
    amount = cut.amount
    if amount is None or not rows.in_one_order or not rows.names:
        return None
    name = rows.names[0]
    kind = rows.table.schema.field(name).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    value, there = rows.numbers(name, amount.lowest)
    return [Ranking(value, np.where(rows.before & there, 0, -1), rows.kept)]


def by_source(source: Source, rows: CutRows) -> list[Ranking]:
    """The ranking of a cut that says what it went by: its source's own values and groups."""
    found = source.rows(rows.item)
    return [Ranking(found.value, np.where(rows.before, found.group, -1), rows.kept)]


def in_order(cut: FinishedCut, run: Run, standings: Sequence[Standings]) -> Findings:
    """Check that in each group no dropped sample ranks before a kept one."""
    found = Findings()
    for number, standing in enumerate(standings):
        for group in np.flatnonzero(standing.last > standing.first):
            pair = standing.last[group : group + 1], standing.first[group : group + 1]
            of = f"ranking {number}, group {group}" if len(standings) > 1 else f"group {group}"
            found += comes_first(cut, run, of, *pair)
    return found


def comes_first(cut: FinishedCut, run: Run, group: str, kept: np.ndarray, dropped: np.ndarray) -> Findings:
    """A violation: the sample with key `kept` (1,) stays, but that with key `dropped` (1,), which ranks first, goes."""
    stays, goes = (_who(run, key) for key in (kept, dropped))
    return violated(f"{cut.name}, {group}: {goes} ranks before the kept {stays}, so it must be kept too")


def _who(run: Run, key: np.ndarray) -> str:
    [shard], [row] = key_places(key)
    [uid] = uids_to_hex(key_uids(key))
    return f"{run.shards[shard].url}, row {row}, uid {uid}"


def as_many_as_asked(cut: FinishedCut, standing: Standings) -> Findings:
    """Check that as many samples stay as were asked for, or all if there are fewer."""
    amount = cut.amount
    if amount is None:
        return Findings()
    wanted = min(amount.number(cut.before), int(standing.size.sum()))
    return unless_equal(f"{cut.name}: the samples that it keeps", wanted, int(standing.kept.sum()))


def by_quotas(cut: FinishedCut, standing: Standings, quotas: np.ndarray) -> Findings:
    """Each group keeps min(quota_g, size_g); quotas: int64 (g,), and a group without one keeps none."""
    standing = standing.widened(len(quotas))
    quota = np.zeros(len(standing.size), np.int64)
    quota[: len(quotas)] = quotas
    found = Findings()
    for group in np.flatnonzero(standing.kept != np.minimum(quota, standing.size)):
        found += violated(
            f"{cut.name}, group {group}: its quota is {quota[group]} of {standing.size[group]} samples, but "
            f"{standing.kept[group]} are kept"
        )
    return found


def by_its_quotas(cut: FinishedCut, file: str, standing: Standings) -> Findings:
    """Check sizes and quotas of each group against a table in the cut's meta folder."""
    table = read_table(cut.artifact.meta(file))
    return by_group(cut, file, table, standing, column(table, "quota"))


def by_group(cut: FinishedCut, file: str, table: pa.Table, standing: Standings, quota: np.ndarray) -> Findings:
    """Check that each group has the size in the table, and keeps its quota. quota: int64 (g,)."""
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
