"""How many of the survivors a cut keeps: a fraction, a count, or all values beyond a threshold."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from winnow.pipeline.errors import JobError
from winnow.stages.survivors import Survivors

Of = Literal["survivors", "pool"]

Number = int | float
"""A threshold of a user's column. An integer stays an integer, because floats do not hold every integer."""

_BITS = 64


@dataclass(frozen=True)
class Amount:
    """How many of the survivors a cut keeps: exactly one of a fraction, a count, or a threshold that values exceed.

    of: the base of the fraction: the samples that are still in, or the whole pool with its rejects.
    lowest: whether the lowest values stay, and so those below the threshold; the source of the values reverses them.
    """

    fraction: float | None = None
    count: int | None = None
    threshold: Number | None = None
    of: Of = "survivors"
    lowest: bool = field(default=False, metadata={"fingerprint": False})

    def __post_init__(self) -> None:
        given = [name for name in ("fraction", "count", "threshold") if getattr(self, name) is not None]
        if len(given) != 1:
            raise JobError(f"a cut must have one of fraction, count and threshold, got {given or 'none'}")
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            raise JobError(f"fraction must be between 0 and 1, got {self.fraction}; 0.3 keeps 30 %")
        if self.count is not None and self.count < 0:
            raise JobError(f"count must be at least 0, got {self.count}")
        if isinstance(self.threshold, int) and self.threshold.bit_length() > _BITS:
            raise JobError(f"an integer threshold must fit into {_BITS} bits, as values do; give a smaller one")

    def number(self, survivors: Survivors) -> int:
        """The number of samples to keep: int(fraction · total), at most the number that are still in.

        The fraction is taken as the decimal in the job file: with floats, 0.29 of 100 would be 28.
        """
        here = survivors.count()
        if self.count is not None:
            return min(self.count, here)
        base = survivors.pool_count() if self.of == "pool" else here
        return min(int(Fraction(str(self.fraction)) * base), here)
