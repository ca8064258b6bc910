"""How much of what is still in a cut keeps: a fraction, a count, or what lies beyond a threshold."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from winnow.pipeline.errors import JobError
from winnow.stages.survivors import Survivors

Of = Literal["survivors", "pool"]

Number = int | float
"""A threshold of a user's column: a whole number stays one, for not every one is a float."""

_BITS = 64


@dataclass(frozen=True)
class Amount:
    """How much of what is still in a cut keeps: exactly one of a fraction, a count, or values above a threshold.

    of: what the fraction is of: the samples that are still in, or the whole pool with its rejects.
    lowest: whether the lowest values stay, so those below the threshold; the source of the values turns their order.
    """

    fraction: float | None = None
    count: int | None = None
    threshold: Number | None = None
    of: Of = "survivors"
    lowest: bool = field(default=False, metadata={"fingerprint": False})

    def __post_init__(self) -> None:
        given = [name for name in ("fraction", "count", "threshold") if getattr(self, name) is not None]
        if len(given) != 1:
            raise JobError(f"a cut keeps one of fraction, count or threshold, got {given or 'none'}")
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            raise JobError(f"a fraction is between 0 and 1, got {self.fraction}; 0.3 keeps 30 %")
        if self.count is not None and self.count < 0:
            raise JobError(f"a count is at least 0, got {self.count}")
        if isinstance(self.threshold, int) and self.threshold.bit_length() > _BITS:
            raise JobError(f"a whole number as threshold has at most {_BITS} bits, as values have, got one of more")

    def number(self, survivors: Survivors) -> int:
        """How many samples that is: int(fraction · total), never more than are still in.

        The fraction is the decimal that was written: in floats, 0.29 of 100 would be 28.
        """
        here = survivors.count()
        if self.count is not None:
            return min(self.count, here)
        base = survivors.pool_count() if self.of == "pool" else here
        return min(int(Fraction(str(self.fraction)) * base), here)
