"""Collects how each cut judged one sample: its values, its limits, and the limit that decided."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from winnow.jobs.verify.finished import Finished
from winnow.stages.cuts.contract.explained import Asked, Explained, FoundSample, Limit


@dataclass(frozen=True)
class Said:
    """One cut's judgement of a sample.

    values: the sample's columns. facts: more from the cut's files.
    decided: the reason of a drop that no limit explains. part_of: the cut that has this one in its list, and decides.
    """

    cut: str
    kind: str
    kept: bool
    values: Mapping[str, Any]
    limits: tuple[Limit, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    decided: str | None = None
    part_of: str | None = None

    @classmethod
    def of(cls, asked: Asked, found: Explained) -> "Said":
        """From a question about a sample and the cut's explanation."""
        cut, values = asked.cut, asked.values
        return cls(cut.name, cut.kind, asked.kept, values, found.limits, found.facts, found.decided, cut.part_of)

    @property
    def missed(self) -> Limit | None:
        """The limit that decided against the sample: the first that it is beyond, else the first that it ties with.

        A limit with `ties` False keeps values equal to it, so a tie there never decides.
        """
        known = [(limit.margin, limit) for limit in self.limits if limit.margin is not None]
        beyond = [limit for margin, limit in known if margin < 0]
        beyond += [limit for margin, limit in known if margin == 0 and limit.ties]
        return None if self.kept or not beyond else beyond[0]


def deciding(job: Finished, place: FoundSample) -> tuple[list[int], list[tuple[Mapping[str, Any], bool]]]:
    """The numbers of the cuts that judged the sample, up to the one that dropped it, and (values, kept) of each.

    Numbers are those of `job.judged`.
    """
    numbers: list[int] = []
    found: list[tuple[Mapping[str, Any], bool]] = []
    if place.row is None or place.rejected is not None:
        return numbers, found
    for number, cut in enumerate(job.judged):
        [row] = cut.artifact.read(place.item.index).slice(place.row, 1).to_pylist()
        kept = bool(row.pop("kept"))
        numbers.append(number)
        found.append((row, kept))
        if not kept and cut.part_of is None:
            break
    return numbers, found
