"""The exact type of a field of the pool: whole numbers, numbers, text or bool. Types that mix are an error.

A number keeps every digit: int64 if all are whole, else float64. NaN is null, because that is how pandas stores what is
missing.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.errors import DataError
from winnow.stages.pools.fields import Values
from winnow.stages.pools.plain import is_bytes, is_text, json_value, stored, stored_type

NOTHING, BOOL, WHOLE, NUMBER, TEXT = pa.null(), pa.bool_(), pa.int64(), pa.float64(), pa.string()
"""The types of a field; NOTHING if no sample has it."""

_WORDS = {BOOL: "bool", WHOLE: "whole number", NUMBER: "number", TEXT: "text"}
_KINDS = {bool: BOOL, int: WHOLE, float: NUMBER, str: TEXT}
_SHOWN = 40  # characters of a value in a message


def said(kind: pa.DataType) -> str:
    """What people call a type of a field."""
    return _WORDS.get(kind, "nothing")


def exact(values: Values, what: str, who: Callable[[int], str]) -> pa.ChunkedArray:
    """The values as one of the types of a field (n,), null where there is none.

    what: names the shard and the field, who: a sample by its row, both for messages. Raises DataError if types mix, for
    a list or an object, and for a number that int64 and float64 do not hold.
    """
    if isinstance(values, pa.ChunkedArray):
        return _of_column(values, what, who)
    return _of_json([None if isinstance(value, float) and math.isnan(value) else value for value in values], what, who)


def common(kinds: set[pa.DataType]) -> pa.DataType | None:
    """The type that holds values of all these types; None if there is none."""
    found = kinds - {NOTHING}
    if found == {WHOLE, NUMBER}:
        return NUMBER
    return next(iter(found), NOTHING) if len(found) < 2 else None


def widened(values: pa.ChunkedArray, kind: pa.DataType, what: str, who: Callable[[int], str]) -> pa.ChunkedArray:
    """The values as the common type. Raises DataError for a whole number that float64 does not hold."""
    if values.type == WHOLE and kind == NUMBER:
        whole = np.asarray(values.fill_null(0).to_numpy())
        lost = np.flatnonzero(~_floats_hold(whole))
        if len(lost):
            row = int(lost[0])
            raise _unfit(what, who(row), f"whole number {whole[row]}, which no float64 holds", "others have fractions")
    return values.cast(kind)


def _floats_hold(whole: np.ndarray) -> np.ndarray:
    near = whole.astype(np.float64)
    inside = np.abs(near) < float(1 << 63)  # the largest ones round up to 2^63, which int64 does not hold
    held: np.ndarray = inside & (np.where(inside, near, 0).astype(np.int64) == whole)
    return held


def _of_json(values: Sequence[Any], what: str, who: Callable[[int], str]) -> pa.ChunkedArray:
    kinds = {_KINDS.get(kind) for kind in map(type, values) if kind is not type(None)}
    kind = None if None in kinds else common({kind for kind in kinds if kind is not None})
    if kind is None:
        raise _mixed(values, what, who)
    if kind == TEXT:
        values = [None if text is None else text.encode("utf-8", "backslashreplace").decode() for text in values]
    if WHOLE in kinds:
        unfit = next(
            (row for row, value in enumerate(values) if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63),
            None,
        )
        if unfit is not None:
            raise _unfit(what, who(unfit), f"whole number {values[unfit]}, which int64 does not hold")
    if kinds == {WHOLE, NUMBER}:
        whole = pa.chunked_array([pa.array([value if isinstance(value, int) else None for value in values], WHOLE)])
        widened(whole, NUMBER, what, who)
    return pa.chunked_array([pa.array(values, kind)])


def _mixed(values: Sequence[Any], what: str, who: Callable[[int], str]) -> DataError:
    first: dict[pa.DataType | None, int] = {}
    for row, value in enumerate(values):
        if value is not None:
            kind = _KINDS.get(type(value))
            if kind is None:
                return _unfit(what, who(row), f"a {type(value).__name__}, {_short(value)}")
            first.setdefault(NUMBER if kind == WHOLE else kind, row)
    (_, a), (_, b), *_ = first.items()
    came, other = (f"{said(_KINDS[type(values[row])])} {_short(values[row])}" for row in (a, b))
    return _unfit(what, who(a), came, other, who(b))


def _of_column(values: pa.ChunkedArray, what: str, who: Callable[[int], str]) -> pa.ChunkedArray:
    kind = stored_type(values.type)
    values = stored(values)
    if is_text(kind) or is_bytes(kind) or pa.types.is_fixed_size_binary(kind):
        return _texts(values)
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        try:
            return values.cast(WHOLE)
        except pa.ArrowInvalid:
            row = next(r for r, v in enumerate(values.to_pylist()) if v is not None and not -(1 << 63) <= v < 1 << 63)
            raise _unfit(what, who(row), f"whole number {values[row]}, which int64 does not hold") from None
    if pa.types.is_floating(kind):
        numbers = values.cast(NUMBER)
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, NUMBER), numbers)
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return values
    raise DataError(
        f"{what} must be a column of numbers, texts or bools, but it is {values.type}; cast it, or leave it out"
    )


def _texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """As string; bytes that are not UTF-8 are escaped."""
    if not is_text(values.type):
        try:
            values = values.cast(TEXT)
        except pa.ArrowInvalid:
            return pa.chunked_array([pa.array([json_value(value) for value in values], TEXT)])
    return values.cast(TEXT)


def _unfit(what: str, who: str, came: str, other: str = "", also: str = "") -> DataError:
    more = f" and {also} has {other}" if also else f", while {other}" if other else ""
    return DataError(
        f"{what} must be numbers, texts or bools, of one kind in all samples, but {who} has {came}{more}; "
        f"correct the pool, or leave this field out"
    )


def mixed_shards(what: str, found: Sequence[tuple[str, pa.DataType]]) -> DataError:
    """The error for shards whose types have nothing in common: (shard and sample, type) of each type."""
    (a, kind_a), (b, kind_b), *_ = [(who, said(kind)) for who, kind in found if kind != NOTHING]
    return _unfit(what, a, kind_a, kind_b, b)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
