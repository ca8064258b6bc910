"""Reads a column of scores from a user's parquet files in parts, without changing the type of a number.

A float32 holds neither seconds since 1970 nor the ninth digit of a float64, so no number is narrowed. The numbers in
the file decide.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.errors import DataError
from winnow.pipeline.storage import Identity
from winnow.stages.pools.brought import brought_groups, brought_schema, check_names, read_brought
from winnow.stages.pools.sample_names import Names

_EXACT = 1 << 53  # float64 holds all integers up to this
_TOLD_APART = 10**15  # decimals of at most 15 digits have different float64 values
_POWERS = 22  # float64 holds the powers of ten up to 10^22
_NO_TYPE = "column {} must have one type that holds all its numbers, got {}; cast it to one type in every file"


@dataclass(frozen=True)
class ScorePart:
    """A row group of a score file, which one worker reads at once.

    first: the row of the file with which it begins. scored: rows that have a value. number: as an item of an exchange.
    kind, low, high: the type of its numbers, and the least and the greatest if they are whole. nan: how many are NaN.
    """

    url: str
    group: int
    first: int
    scored: int
    kind: str
    nan: int = 0
    low: int = 0
    high: int = 0
    number: int = 0


@dataclass(frozen=True)
class ToParts:
    """The row groups of one file that have any value, in order; reads the column `value`."""

    value: str
    names: Names

    def __call__(self, file: Identity) -> list[ScorePart]:
        """See the class.

        Raises DataError for a file that is not parquet, and for columns that are missing, repeated or not numbers.
        """
        check_columns(file.url, self.value, self.names)
        found, first = list[ScorePart](), 0
        for group, rows in enumerate(brought_groups(file.url)):
            column = read_brought(file.url, (self.value,), [group])[self.value]
            numbers = np.asarray(numbers_of(column, self.value, file.url).drop_null().to_numpy())
            if len(numbers):
                told = ScorePart(file.url, group, first, len(numbers), numbers.dtype.str)
                if numbers.dtype.kind == "f":
                    found.append(replace(told, nan=int(np.isnan(numbers).sum())))
                else:
                    found.append(replace(told, low=int(numbers.min()), high=int(numbers.max())))
            first += rows
        return found


def read_part(part: ScorePart, value: str, names: Names, kind: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of a part that have a value: names (n,) of dtype UID, values (n,) of `kind`, rows of the file (n,).

    Raises DataError for a row without a name.
    """
    table = read_brought(part.url, (value, *names.columns), [part.group])
    numbers = numbers_of(table[value], value, part.url)
    there = np.flatnonzero(np.asarray(numbers.is_valid(), bool))
    values = np.asarray(numbers.drop_null().to_numpy()).astype(kind, copy=False)
    return names.of_file(table, part.url)[there], values, part.first + there


def check_columns(url: str, value: str, names: Names) -> str:
    """The type of the value column, from the footer of a file. Raises as ToParts does for columns."""
    schema = brought_schema(url)
    check_names(schema, (value, *names.columns), url)
    numbers_of(schema.empty_table()[value], value, url)
    return str(schema.field(value).type)


def numbers_of(column: pa.ChunkedArray, name: str, url: str) -> pa.ChunkedArray:
    """The column as float32, float64, int64 or uint64, whichever holds it exactly; nulls stay null.

    Booleans are 0 and 1. Decimals without a fraction become integers. Others become float64 if they have at most 15
    digits, so that different decimals stay different. Raises DataError for other types, and for decimals that fit into
    neither.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return numbers_of(column.cast(kind.value_type), name, url)
    if pa.types.is_null(kind) or kind in (pa.float16(), pa.float32()):
        return column.cast(pa.float32())
    if pa.types.is_floating(kind):
        return column
    if pa.types.is_uint64(kind):
        return column
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.int64())
    if pa.types.is_decimal(kind):
        return _decimals(column, name, url)
    when = pa.types.is_temporal(kind)
    raise DataError(
        f"{url}: column {name} must hold numbers, but its type is {kind}; name another column, or cast it"
        + (" to int64, such as seconds since 1970" if when else "")
    )


def one_number_type(parts: Sequence[ScorePart], name: str) -> np.dtype:
    """The type that holds the numbers of all parts exactly; float32 if there are none.

    Raises DataError if there is no such type: integers below 0 together with some above 2^63, or integers above 2^53
    together with floats.
    """
    kinds = [np.dtype(part.kind) for part in parts]
    whole = [part for part, kind in zip(parts, kinds, strict=True) if kind.kind in "iu"]
    if not whole:
        return max(kinds, key=lambda kind: kind.itemsize, default=np.dtype(np.float32))
    low, high = min(part.low for part in whole), max(part.high for part in whole)
    if len(whole) < len(parts):
        if max(-low, high) > _EXACT:
            raise DataError(_NO_TYPE.format(name, f"whole numbers up to {max(-low, high)} and floats"))
        return np.dtype(np.float64)
    if high < 1 << 63:
        return np.dtype(np.int64)
    if low < 0:
        raise DataError(_NO_TYPE.format(name, f"{low} and {high}"))
    return np.dtype(np.uint64)


def _decimals(column: pa.ChunkedArray, name: str, url: str) -> pa.ChunkedArray:
    scale = column.type.scale
    if scale <= 0:
        for kind in (pa.int64(), pa.uint64()):
            with suppress(pa.ArrowInvalid):
                return column.cast(kind)
        raise DataError(f"{url}: column {name} must fit into 64 bits, got {column.type}; cast it to float64")
    digits = Decimal(_TOLD_APART).scaleb(-scale)
    ends = [abs(end) for end in pc.min_max(column).as_py().values() if end is not None]
    if scale > _POWERS or any(end >= digits for end in ends):
        raise DataError(
            f"{url}: column {name} must have at most 15 digits where it has a fraction, but it has more; "
            f"cast it to float64"
        )
    # float64 holds both the integers and the power of ten exactly, so their quotient is the float64 nearest the decimal
    unscaled = [_unscaled(chunk) for chunk in column.cast(pa.decimal128(38, scale)).chunks]
    numbers = np.concatenate([np.empty(0, np.int64), *unscaled]) / 10.0**scale
    return pa.chunked_array([pa.array(numbers, mask=np.asarray(column.is_null(), bool))])


def _unscaled(decimals: pa.Array) -> np.ndarray:
    """The lower 64 bits of each: int64 (n,), the whole number if it has at most 15 digits; any value for null."""
    if not len(decimals):
        return np.empty(0, np.int64)
    words = np.frombuffer(decimals.buffers()[1], np.int64)[2 * decimals.offset : 2 * (decimals.offset + len(decimals))]
    return words[::2]
