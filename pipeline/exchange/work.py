"""The contract of an exchange (a shuffle): scatter rows of every item by part, decide on each part, settle every item.

For work that must see rows of many items together: samples of one uid, the vectors of one cell, one batch.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import pyarrow as pa

I_contra = TypeVar("I_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Exchange(Protocol[I_contra, R_co]):
    """What an exchange does at each step; picklable. Every method must give the same when it is called again.

    A worker holds all rows of a part, and what `decide` makes of them: choose `parts` so that this fits in memory.
    """

    @property
    def parts(self) -> int:
        """Number of parts."""
        ...

    def scatter(self, item: I_contra) -> Mapping[int, pa.Table]:
        """Rows of one item for each part in [0, parts); a part without rows may be absent."""
        ...

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """From all rows of a part: rows for each item, by its index, that has any.

        tables: rows in order of item, one table for the rows of one or more items; at least one.
        """
        ...

    def settle(self, item: I_contra, tables: Sequence[pa.Table]) -> R_co:
        """Commit one item's file from what the parts decided on it; a small result.

        tables: rows in order of part, one table for the rows of one or more parts; none where no part had any.
        """
        ...
