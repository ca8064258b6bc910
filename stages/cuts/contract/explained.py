"""How a cut explains what became of one sample: its numbers beside the cut's limits, and its rank among others.

`winnow why` asks each cut that saw the sample. The numbers come from the cut's files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import numpy as np

from winnow.pipeline.order import reversed_order
from winnow.pipeline.stage import ShardItem
from winnow.stages.cuts.contract.finished import FinishedCut


@dataclass(frozen=True)
class RejectReason:
    """Why a sample could not be read or named."""

    kind: str
    message: str


@dataclass(frozen=True)
class FoundSample:
    """One sample, and what is known about it before any cut.

    item: its input shard. position: in that shard. row: in the samples file, None if the sample was rejected before.
    uid: 32 hex digits. uid, caption, width and height are None if they are not known.
    rejected: None for a sample that the cuts saw. alike: number of other samples in the shard with the same key.
    """

    item: ShardItem
    position: int
    key: str
    row: int | None
    uid: str | None = None
    caption: str | None = None
    width: int | None = None
    height: int | None = None
    rejected: RejectReason | None = None
    alike: int = 0


@dataclass(frozen=True)
class Mine:
    """The sample in one ranking: its value and group, and its key in the total order of samples."""

    cut: int
    ranking: int
    value: np.generic
    group: int
    key: bytes


@dataclass(frozen=True)
class GroupRank:
    """The position of one sample in its group.

    size: samples in the group. before: how many of them rank before this one. kept: how many stay.
    last: the lowest value that stays. first: the highest value that is dropped. Both are None if there is none. Values
    are as they are ordered, highest first.
    """

    size: int = 0
    before: int = 0
    kept: int = 0
    last: int | float | None = None
    first: int | float | None = None

    def __add__(self, other: "GroupRank") -> "GroupRank":
        last = [end for end in (self.last, other.last) if end is not None]
        first = [end for end in (self.first, other.first) if end is not None]
        return GroupRank(
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
class Limit:
    """One number that a cut compares with a limit. margin: how far the number is inside it; below 0 if outside.

    limit: None if it is not known. rule: what stays, such as "at least". ties: whether a sample exactly on the limit
    may be dropped, because uids order equal numbers.
    """

    what: str
    value: int | float
    limit: int | float | None
    margin: int | float | None
    rule: str
    ties: bool = True


@dataclass(frozen=True)
class Explained:
    """What a cut says about one sample. limits: its numbers beside their limits. facts: more from the cut's files.

    facts may have a `note`, a sentence for people. decided: what decided against the sample, if not a limit.
    repeats: uid of the sample that stays in its place.
    """

    limits: tuple[Limit, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    decided: str | None = None
    repeats: str | None = None


@dataclass(frozen=True)
class Asked:
    """One cut and one sample. values: the cut's columns for the sample. kept: whether it stayed.

    ranks: its position in the cut's rankings, by their number; empty if no pass over all shards was made.
    """

    cut: FinishedCut
    place: FoundSample
    values: Mapping[str, Any]
    kept: bool
    ranks: Mapping[int, tuple[Mine, GroupRank]]

    def rank_facts(self, prefix: str = "", ranking: int = 0) -> dict[str, Any]:
        """The sample's rank, and size and kept of its group, under names with that prefix."""
        if ranking not in self.ranks:
            return {}
        _, standing = self.ranks[ranking]
        return {f"{prefix}rank": standing.rank, f"{prefix}size": standing.size, f"{prefix}kept": standing.kept}

    def last(self, lowest: bool = False, ranking: int = 0) -> int | float | None:
        """The last value that stays in the sample's group, None if not known. lowest: whether the lowest stay."""
        if ranking not in self.ranks or (last := self.ranks[ranking][1].last) is None:
            return None
        if not lowest:
            return last
        kind = self.ranks[ranking][0].value.dtype
        return cast(int | float, reversed_order(np.array([last], kind))[0].item())


_NO_VALUE = "the sample has no value, so it is dropped"


def at_least(what: str, value: float, limit: float | None, rule: str = "at least", *, ties: bool = True) -> Limit:
    """A lower limit. The margin is 0 only if value and limit are equal to the last digit."""
    return Limit(what, value, limit, None if limit is None else _difference(value, limit), rule, ties)


def at_most(what: str, value: float, limit: float | None, rule: str = "at most", *, ties: bool = True) -> Limit:
    """An upper limit."""
    return Limit(what, value, limit, None if limit is None else _difference(limit, value), rule, ties)


def _difference(a: float, b: float) -> float:
    """a - b. The sign is right also for integers that no float holds exactly."""
    whole = isinstance(a, int) and isinstance(b, int)
    return a - b if whole or not (math.isfinite(a) and math.isfinite(b)) else float(Fraction(a) - Fraction(b))


def explain_by_first_column(asked: Asked) -> Explained:
    """The explanation of a cut that does not define its own: its first column beside a limit.

    If the cut ranked all samples together, the limit is the threshold of the job, or the value of the last kept sample.
    If the cut defines `ranked_by`, the limit is the value of the last kept sample of the same group.
    """
    amount, report = asked.cut.amount, asked.cut.artifact.done() or {}
    if asked.cut.options.ranked_by(asked.cut) is not None and "threshold" not in report:
        return _in_its_group(asked)
    if amount is None or not asked.values or "threshold" not in report:
        return Explained(facts={"note": "it does not say how it decides, beyond its columns"})
    [(name, value), *_] = asked.values.items()
    facts, limit = asked.rank_facts(), at_most if amount.lowest else at_least
    if value is None:
        return Explained(facts={**facts, "note": _NO_VALUE})
    if amount.threshold is not None:
        return Explained((limit(name, value, amount.threshold, "below" if amount.lowest else "above"),), facts)
    return Explained((limit(name, value, cast(float | None, report["threshold"])),), facts)


def _in_its_group(asked: Asked) -> Explained:
    """The first column beside that of the last kept sample of the group, if the group is ordered by that column."""
    name, value = next(iter(asked.values.items()), ("", None))
    facts = asked.rank_facts("group_")
    if value is None or 0 not in asked.ranks:
        return Explained(facts=facts if value is not None else {**facts, "note": _NO_VALUE})
    mine = asked.ranks[0][0].value
    if repr(mine.item()) == repr(value):  # as texts, for 0.0 equals -0.0
        return Explained((at_least(name, value, asked.last()),), facts)
    if repr(reversed_order(np.array([mine]))[0].item()) == repr(value):
        return Explained((at_most(name, value, asked.last(lowest=True)),), facts)
    return Explained(facts=facts)
