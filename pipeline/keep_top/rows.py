"""The columns that a cut decides on, for one shard: value, group, uid and place, checked, and their sort keys."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from winnow.pipeline.errors import DataError
from winnow.pipeline.order import VALUES, order_keys
from winnow.pipeline.uid import UID


@dataclass(frozen=True)
class Rows:
    """The rows of one shard that a cut decides on.

    value: (n,) of float32, float64, int64 or uint64, the same dtype in all shards. Higher is better. ±inf is allowed,
    -0.0 equals 0.0, and NaN is an error if group >= 0.
    group: int32 (n,), the index of the row's quota. Rows of group -1 take no part: they are never kept, and their value
    is ignored.
    uid: (n,) of dtype UID. Equal uids are allowed; their place breaks the tie.
    shard: index of the shard in the pool, >= 0.
    row: int64 (n,), each row's position in its shard, distinct and >= 0; None means 0 to n - 1.
    column: name of the values in error messages.
    Raises DataError for lengths that differ, another dtype, NaN, negative places, or a group below -1.
    """

    value: Shaped[np.ndarray, "n"]
    group: Int32[np.ndarray, "n"]
    uid: Shaped[np.ndarray, "n"]
    shard: int
    row: Int64[np.ndarray, "n"] | None = None
    column: str = "value"

    def __post_init__(self) -> None:
        n = len(self.value)
        lengths = {n, len(self.group), len(self.uid), n if self.row is None else len(self.row)}
        if len(lengths) > 1 or self.uid.dtype != UID:
            raise DataError(
                f"{self._where()}: value, group, uid and row must have equal lengths and uid must be of dtype {UID}, "
                f"got lengths {sorted(lengths)} and dtype {self.uid.dtype}; pass columns of one shard"
            )
        if self.value.dtype not in VALUES:
            raise DataError(
                f"{self._where()}: values must be float32, float64, int64 or uint64, got {self.value.dtype}; "
                f"cast them to one that holds every value exactly"
            )
        # NaN has no place in the order, so the answer would depend on how it compares
        lost = np.flatnonzero(np.isnan(self.value) & (self.group >= 0))
        if len(lost):
            raise DataError(
                f"{self._where()}: every row of a group must have a value, but {len(lost)} of {n} are NaN, "
                f"the first at entry {lost[0]}; give them a number, or group -1 to leave them out"
            )
        if self.shard < 0 or (self.row is not None and n and self.row.min() < 0):
            # keys hold places as unsigned numbers: -1 would sort last
            raise DataError(f"{self._where()}: places must be >= 0, got a negative shard or row")
        if n and self.group.min() < -1:
            raise DataError(
                f"{self._where()}: a group must be an index, or -1 for a row that takes no part, got {self.group.min()}"
            )

    def _where(self) -> str:
        return f"column {self.column}, shard {self.shard}"


def keys_of(rows: Rows, at: np.ndarray) -> np.ndarray:
    """Sort keys (m,) of the entries `at` (m,)."""
    return order_keys(rows.value[at], rows.uid[at], rows.shard, at if rows.row is None else rows.row[at])


def check_groups(rows: Rows, groups: int) -> None:
    """Raises DataError unless every group has a quota."""
    if len(rows.group) and rows.group.max() >= groups:
        raise DataError(
            f"every group must have a quota, got group {rows.group.max()} in shard {rows.shard} but "
            f"only {groups} quotas; pass one quota for each group"
        )
