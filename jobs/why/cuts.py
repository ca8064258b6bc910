"""What each cut said of one sample, in the cut's own words, and which of its limits decided."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from winnow.jobs.verify.finished import Finished
from winnow.stages.cuts.contract.explained import Asked, Explained, Limit, Place


@dataclass(frozen=True)
class Said:
    """One cut's word on a sample. values: its columns. facts: what else the cut's files tell.

    decided: what decided against it where that is no limit.
    """

    cut: str
    kind: str
    kept: bool
    values: Mapping[str, Any]
    limits: tuple[Limit, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    decided: str | None = None

    @classmethod
    def of(cls, asked: Asked, found: Explained) -> "Said":
        """What a cut explained of the sample that it was asked about."""
        cut = asked.cut
        return cls(cut.name, cut.kind, asked.kept, asked.values, found.limits, found.facts, found.decided)

    @property
    def missed(self) -> Limit | None:
        """The limit that decided against it: the first that it is beyond, else the one that it is on.

        Where what is on a limit passes, that is never what decided.
        """
        known = [(limit.margin, limit) for limit in self.limits if limit.margin is not None]
        beyond = [limit for margin, limit in known if margin < 0]
        beyond += [limit for margin, limit in known if margin == 0 and limit.ties]
        return None if self.kept or not beyond else beyond[0]


def deciding(job: Finished, place: Place) -> tuple[list[int], list[tuple[Mapping[str, Any], bool]]]:
    """The cuts that saw the sample, by number up to the one that dropped it, and (values, kept) of each."""
    numbers: list[int] = []
    found: list[tuple[Mapping[str, Any], bool]] = []
    if place.row is None or place.rejected is not None:
        return numbers, found
    for number, cut in enumerate(job.cuts):
        [row] = cut.artifact.read(place.item.index).slice(place.row, 1).to_pylist()
        kept = bool(row.pop("kept"))
        numbers.append(number)
        found.append((row, kept))
        if not kept:
            break
    return numbers, found
