"""The contract of an exchange (a shuffle): scatter rows of every item by part, decide on each part, settle each item.

It is for work that needs rows of many items at once: samples with one uid, the vectors of a cell, a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import pyarrow as pa

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Numbered = TypeVar("Numbered", bound="DataclassInstance")
I_contra = TypeVar("I_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Exchange(Protocol[I_contra, R_co]):
    """The work of an exchange at each step; picklable. Every method must give the same result when it is called again.

    A worker holds all rows of a part, and the output of `decide` for them. Choose `parts` so that this fits in memory.
    """

    @property
    def parts(self) -> int:
        """Number of parts."""
        ...

    def scatter(self, item: I_contra) -> Mapping[int, pa.Table]:
        """The rows of one item, by part in [0, parts). Parts without rows may be left out."""
        ...

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """The answer to all rows of a part: rows by index of the item. Items without rows are left out.

        tables: rows in order of item, one table for the rows of one or more items; at least one.
        """
        ...

    def settle(self, item: I_contra, tables: Sequence[pa.Table]) -> R_co:
        """Commit one item's file from the decisions of all parts about it, and return a small result.

        tables: rows in order of part, one table for the rows of one or more parts; no table if no part had rows.
        """
        ...


def numbered(parts: Sequence[Numbered], begin: int) -> tuple[Numbered, ...]:
    """Parts of files as items of an exchange whose numbers begin there: dataclasses with `number`."""
    return tuple(replace(part, number=begin + at) for at, part in enumerate(parts))
