"""Reads a column of scores from a user's parquet files, by uid, without changing the type of a number.

A float32 holds neither seconds since 1970 nor the ninth digit of a float64, so no number is narrowed. The numbers in
the file decide.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.columns import places_in
from winnow.pipeline.errors import DataError
from winnow.pipeline.uid import uids_to_hex
from winnow.stages.cuts.scores.score_names import Names
from winnow.stages.pools.brought import brought_schema, check_names, read_brought

_EXACT = 1 << 53  # float64 holds all integers up to this
_TOLD_APART = 10**15  # decimals of at most 15 digits have different float64 values
_POWERS = 22  # float64 holds the powers of ten up to 10^22
_NO_TYPE = "column {} must have one type that holds all its numbers, got {}; cast it to one type in every file"


@dataclass(frozen=True)
class ScoreTable:
    """Every uid that has a value, sorted: uids (n,) of dtype UID, values (n,) of float32, float64, int64 or uint64."""

    uids: np.ndarray
    values: np.ndarray

    def look_up(self, uids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values of uids (m,): (m,) of the table's dtype, 0 if absent; and which uids are present, bool (m,)."""
        if not len(self.uids):
            return np.zeros(len(uids), self.values.dtype), np.zeros(len(uids), bool)
        at = places_in(self.uids, uids)
        return np.where(at >= 0, self.values[at], self.values.dtype.type(0)), at >= 0


def load_scores(files: Sequence[str], value: str, names: Names) -> ScoreTable:
    """The value column of all files, by the names of samples. Rows whose value is null are skipped.

    Raises DataError for a file that is not parquet, for columns that are missing, repeated or not numbers, for NaN, for
    an invalid name, and for a repeated name.
    """
    uids, values, places = [], [], []
    for url in files:
        table = read_brought(url, (value, *names.columns))
        numbers = numbers_of(table[value], value, url)
        there = np.flatnonzero(np.asarray(numbers.is_valid(), bool))
        uids.append(names.of_file(table, url)[there])
        values.append(numbers.drop_null())
        places.append(there)
    every, scores = np.concatenate(uids), one_number_type(values, value)
    if scores.dtype.kind == "f" and np.isnan(scores).any():
        raise DataError(f"column {value} must hold numbers, but {np.isnan(scores).sum()} of {len(scores)} are NaN")
    order = np.argsort(every)
    every, scores = every[order], scores[order]
    twice = np.flatnonzero(every[1:] == every[:-1])
    if len(twice):
        if names.key is None:
            first = uids_to_hex(every[twice[:1]])[0]
        else:
            first = _place(int(order[twice[0] + 1]), files, places)
        raise DataError(
            f"every {names.what} must have one value in {value}, but {len(twice)} are repeated, first {first}"
        )
    return ScoreTable(every, scores)


def check_columns(url: str, value: str, names: Names) -> str:
    """The type of the value column, from the footer of a file. Raises as load_scores does for columns."""
    schema = brought_schema(url)
    check_names(schema, (value, *names.columns), url)
    numbers_of(schema.empty_table()[value], value, url)
    return str(schema.field(value).type)


def _place(number: int, files: Sequence[str], places: Sequence[np.ndarray]) -> str:
    """Row and file of a score, by its number among the rows of all files that have a value."""
    for url, rows in zip(files, places, strict=True):
        if number < len(rows):
            return f"in row {rows[number]} of {url}"
        number -= len(rows)
    raise IndexError(number)


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


def one_number_type(parts: Sequence[pa.ChunkedArray], name: str) -> np.ndarray:
    """The numbers of all files in one type that holds all of them exactly: (n,).

    parts: from numbers_of, without nulls. Raises DataError if there is no such type: integers below 0 together with
    some above 2^63, or integers above 2^53 together with floats.
    """
    arrays = [np.asarray(part.to_numpy()) for part in parts if len(part)]
    whole = [array for array in arrays if array.dtype.kind in "iu"]
    if not whole:
        kinds = {array.dtype for array in arrays} or {np.dtype(np.float32)}
        return _joined(arrays, max(kinds, key=lambda kind: kind.itemsize))
    low, high = min(int(array.min()) for array in whole), max(int(array.max()) for array in whole)
    if len(whole) < len(arrays):
        if max(-low, high) > _EXACT:
            raise DataError(_NO_TYPE.format(name, f"whole numbers up to {max(-low, high)} and floats"))
        return _joined(arrays, np.dtype(np.float64))
    if high < 1 << 63:
        return _joined(arrays, np.dtype(np.int64))
    if low < 0:
        raise DataError(_NO_TYPE.format(name, f"{low} and {high}"))
    return _joined(arrays, np.dtype(np.uint64))


def _joined(arrays: Sequence[np.ndarray], kind: np.dtype) -> np.ndarray:
    return np.concatenate([np.empty(0, kind), *(array.astype(kind, copy=False) for array in arrays)])


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
