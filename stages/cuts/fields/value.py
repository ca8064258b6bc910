"""A field of the pool as the value of a cut: exact in its own type, and no vector or picture is read for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.errors import DataError
from winnow.pipeline.keep_top import Rows
from winnow.pipeline.order import reversed_order
from winnow.pipeline.stage import ShardItem
from winnow.pipeline.uid import uids_to_hex
from winnow.stages.cuts.keeping import one_group
from winnow.stages.pool_field import Field
from winnow.stages.pools.field_types import NOTHING, NUMBER, WHOLE, said
from winnow.stages.survivors import Survivors


@dataclass(frozen=True)
class FieldValue:
    """Value: the field, in one group. Rows without a value are not ranked, so they are dropped, or an error.

    keep: whether the highest or the lowest values come first.
    """

    survivors: Survivors
    field: Field
    keep: Literal["highest", "lowest"]
    missing: Literal["error", "drop"]

    def rows(self, item: ShardItem) -> Rows:
        """See Source.rows. Raises DataError for a field that is no number, and for a sample without a value."""
        value, there = _numbers(self.field, item.index)
        mask, uids = self.survivors.mask(item.index), self.survivors.uids(item.index)
        lost = np.flatnonzero(mask & ~there)
        if len(lost) and self.missing == "error":
            raise DataError(
                f"every sample must have a value of field {self.field.name}, but {len(lost)} of shard {item.url} have "
                f"none, first {uids_to_hex(uids[lost[:1]])[0]}; set missing: drop to drop them"
            )
        value = value if self.keep == "highest" else reversed_order(value)
        return Rows(value, one_group(mask & there), uids, item.index)

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """See Source.columns."""
        values, mask = self.field.read(item.index).combine_chunks(), pa.array(self.survivors.mask(item.index))
        return {"value": pc.if_else(mask, values, pa.scalar(None, values.type))}


def ranked_last(field: Field, index: int, lowest: bool) -> np.ndarray:
    """The numbers of a field as a cut orders them, highest first: (n,); a row without one has the lowest that there is.

    lowest: whether the lowest come first. Raises DataError for a field that is no number.
    """
    value, there = _numbers(field, index)
    value = reversed_order(value) if lowest else value
    least = np.iinfo(np.int64).min if value.dtype.kind == "i" else -np.inf
    return np.where(there, value, value.dtype.type(least))


def _numbers(field: Field, index: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 or float64 (n,), 0 where there is none; and where there is one, bool (n,)."""
    values = field.read(index)
    if values.type not in (WHOLE, NUMBER, NOTHING):
        raise DataError(f"field {field.name} must be numbers to be a value, but it is {said(values.type)}")
    numbers = values.cast(NUMBER) if values.type == NOTHING else values
    return np.asarray(numbers.fill_null(0).to_numpy()), np.asarray(values.is_valid())
