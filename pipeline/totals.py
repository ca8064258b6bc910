"""Adds up the summaries of shards as they arrive, so that a pass over any number of shards holds only one summary."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

Summary = Mapping[str, object]
"""The summary of a shard, or of all shards of a stage: small JSON, such as counts."""

Told = Callable[[int, Summary], None]
"""A function that receives each shard's number and summary. If it raises, the pass ends."""


class Totals:
    """The sums of the summaries so far: of each field that is a number, and of each that maps names to counts.

    shards: number of summaries. Other fields (texts, lists) are left out.
    """

    def __init__(self) -> None:
        self.shards = 0
        self._numbers = Counter[str]()
        self._named: dict[str, Counter[str]] = {}

    def add(self, summary: Summary) -> None:
        """Add one shard's summary."""
        self.shards += 1
        for field, value in summary.items():
            if isinstance(value, int):
                self._numbers[field] += value
            elif isinstance(value, Mapping):
                self._named.setdefault(field, Counter()).update(cast(Mapping[str, int], value))

    @property
    def fields(self) -> list[str]:
        """The names of the numbers, in the order of a summary."""
        return list(self._numbers)

    def number(self, field: str) -> int:
        """Sum of a number over all shards; 0 without shards. Raises KeyError if no summary has it."""
        if self.shards and field not in self._numbers:
            raise KeyError(f"summaries must have a number {field!r}, but they have {', '.join(self._numbers)}")
        return self._numbers[field]

    def by_name(self, field: str) -> Counter[str]:
        """Sums of counts by name; empty if no summary has any."""
        return Counter(self._named.get(field, {}))


def summed(results: Iterable[tuple[int, Summary]], told: Sequence[Told] = ()) -> Totals:
    """The sums of summaries. told: functions that receive each of them."""
    totals = Totals()
    for index, summary in results:
        totals.add(summary)
        for tell in told:
            tell(index, summary)
    return totals


def samples_of(report: Summary) -> int | None:
    """Number of samples that a stage saw, from its report; None if it does not count them.

    A stage that rejects samples reports what it kept and rejected.
    """
    for name in ("pool", "in", "samples", "rows"):
        if isinstance(found := report.get(name), int):
            return found
    kept, rejected = report.get("kept"), report.get("rejected")
    return kept + rejected if isinstance(kept, int) and isinstance(rejected, int) else None
