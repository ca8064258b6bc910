"""The rows of one shard that a cut decides on: checked columns of value, group, uid and place, and their keys."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from winnow.pipeline.errors import DataError
from winnow.pipeline.order import VALUES, order_keys
from winnow.pipeline.uid import UID


@dataclass(frozen=True)
class Rows:
    """The rows of one shard that a cut decides on.

    value: (n,) of float32, float64, int64 or uint64, one of them in all shards; higher is better, ±inf allowed, -0.0
    equals 0.0. NaN is refused where group >= 0.
    group: int32 (n,), which quota a row falls under; -1 takes no part, is never kept and needs no value.
    uid: (n,) of dtype UID; equal uids are allowed and ordered by place.
    shard: index of the shard in the pool, >= 0.
    row: int64 (n,), each row's position in its shard, distinct and >= 0; None means 0 to n - 1.
    column: what people call the values, for messages.
    Raises DataError for lengths that differ, another dtype, NaN, negative places, or a group under -1.
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
                f"{self._where()}: value, group, uid and row must be one entry a row and uid of dtype {UID}, "
                f"got lengths {sorted(lengths)} and dtype {self.uid.dtype}; pass columns of one shard"
            )
        if self.value.dtype not in VALUES:
            raise DataError(
                f"{self._where()}: values must be float32, float64, int64 or uint64, got {self.value.dtype}; "
                f"cast them to the one that holds them all"
            )
        lost = np.flatnonzero(np.isnan(self.value) & (self.group >= 0))
        if len(lost):
            raise DataError(
                f"{self._where()}: every row of a group must have a value, but {len(lost)} of {n} are NaN, "
                f"first at entry {lost[0]}; give them a number, or group -1 to leave them out"
            )
        if self.shard < 0 or (self.row is not None and n and self.row.min() < 0):
            raise DataError(f"{self._where()}: places must be >= 0, got a negative shard or row")
        if n and self.group.min() < -1:
            raise DataError(f"{self._where()}: a group is -1 (takes no part) or an index, got {self.group.min()}")

    def _where(self) -> str:
        return f"column {self.column}, shard {self.shard}"


def keys_of(rows: Rows, at: np.ndarray) -> np.ndarray:
    """(n,) keys of the entries `at`."""
    return order_keys(rows.value[at], rows.uid[at], rows.shard, at if rows.row is None else rows.row[at])


def check_groups(rows: Rows, groups: int) -> None:
    """Raises DataError unless every group has a quota."""
    if len(rows.group) and rows.group.max() >= groups:
        raise DataError(
            f"every group must have a quota, got group {rows.group.max()} in shard {rows.shard} and "
            f"there are {groups} quotas; give the quota one entry a group"
        )
