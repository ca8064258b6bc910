"""Limits on a field of the pool, for the cut `rules`: a range, a list of values, a regular expression."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.order import beyond
from winnow.stages.cuts.contract.amount import Number
from winnow.stages.pools.field_types import BOOL, NOTHING, NUMBER, TEXT, WHOLE, said

Plain = bool | int | float | str
"""A value of a field, as a job file writes it."""

_NUMBERS = (WHOLE, NUMBER)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True))
class FieldLimits:
    """What a field must be. A sample without a value does not pass.

    min, max: the lowest and the highest number that passes. in, not_in: values that pass, and that do not. matches: a
    regular expression in the syntax of RE2 that must be found anywhere in the text.
    """

    min: Number | None = None
    max: Number | None = None
    among: tuple[Plain, ...] | None = Field(default=None, alias="in")
    not_in: tuple[Plain, ...] | None = None
    matches: str | None = None

    def __post_init__(self) -> None:
        if not self.given:
            raise JobError("a rule on a field must have one of min, max, in, not_in and matches, got none")
        try:
            found(self.matches or "", pa.chunked_array([[""]]))
        except pa.ArrowInvalid as error:
            raise JobError(f"matches must be a regular expression in the syntax of RE2: {error}") from error

    @property
    def given(self) -> Mapping[str, Any]:
        """The limits that are given, by the names in a job file."""
        every = {"min": self.min, "max": self.max, "in": self.among, "not_in": self.not_in, "matches": self.matches}
        return {name: limit for name, limit in every.items() if limit is not None}


def check_limits(where: str, limits: FieldLimits, kind: pa.DataType) -> None:
    """Raises DataError for a limit that values of this type cannot be compared with."""
    for name, limit in limits.given.items() if kind != NOTHING else ():
        if name in ("min", "max"):
            wrong = kind not in _NUMBERS
        elif name == "matches":
            wrong = kind != TEXT
        else:
            wrong = any(not _alike(value, kind) for value in limit)
        if wrong:
            raise DataError(f"{where}.{name} must fit the field, which is {said(kind)}, got {limit!r}; change the rule")


def broken_limits(where: str, limits: FieldLimits, values: pa.ChunkedArray) -> Mapping[str, np.ndarray]:
    """Which rows break each limit: bool (n,) each. `missing` is the first: rows without a value, which break no other.

    where: begins each name. values: of one type of a field, (n,). Numbers are compared exactly.
    """
    known = np.asarray(values.is_valid())
    broken = {"missing": ~known}
    if limits.min is not None or limits.max is not None:
        numbers = np.asarray(values.cast(NUMBER if values.type == NOTHING else values.type).fill_null(0).to_numpy())
        if limits.min is not None:
            broken["min"] = known & beyond(numbers, limits.min, lowest=True)
        if limits.max is not None:
            broken["max"] = known & beyond(numbers, limits.max)
    if limits.among is not None:
        broken["in"] = known & ~_one_of(values, limits.among)
    if limits.not_in is not None:
        broken["not_in"] = known & _one_of(values, limits.not_in)
    if limits.matches is not None:
        broken["matches"] = known & ~found(limits.matches, values.cast(TEXT))
    return {f"{where}.{name}": mask for name, mask in broken.items()}


def found(pattern: str, texts: pa.ChunkedArray) -> np.ndarray:
    """In which texts RE2 finds the pattern: bool (n,); False for null."""
    return np.asarray(pc.fill_null(pc.match_substring_regex(texts, pattern), False))


def _alike(value: Plain, kind: pa.DataType) -> bool:
    """Whether a value of a job file can be compared with values of this type."""
    if isinstance(value, bool) or kind == BOOL:
        return isinstance(value, bool) and kind == BOOL
    return isinstance(value, str) if kind == TEXT else not isinstance(value, str)


def _one_of(values: pa.ChunkedArray, wanted: tuple[Plain, ...]) -> np.ndarray:
    """Which values are one of those wanted: bool (n,); False for null."""
    kind = values.type
    if kind == NOTHING:
        return np.zeros(len(values), bool)
    some: list[Plain] = list(wanted)
    if kind in _NUMBERS:  # a number that the type does not hold equals none of its values; -0.0 is 0.0
        some = [value + 0 for value in wanted if not isinstance(value, str) and _holds(kind, value)]
        values = pc.add(values, pa.scalar(0, kind))
    return np.asarray(pc.is_in(values, value_set=pa.array(some, kind)))


def _holds(kind: pa.DataType, value: bool | int | float) -> bool:
    if kind == WHOLE:
        return value == int(value) and -(1 << 63) <= value < 1 << 63
    try:
        return float(value) == value
    except OverflowError:
        return False
