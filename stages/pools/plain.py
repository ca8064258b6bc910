"""Converts any Arrow column to values that text and json can hold."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

_NUMBER = r"^\d{1,18}(\.\d*)?$"


def is_text(kind: pa.DataType) -> bool:
    """True for the string types of Arrow."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """True for the binary types of Arrow that have no fixed width."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type below extension types, dictionaries and run-end encoding: a UUID is 16 bytes, a category is text."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as its `stored_type`."""
    while column.type != stored_type(column.type):
        kind = column.type
        if isinstance(kind, pa.BaseExtensionType):
            column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        elif pa.types.is_dictionary(kind):
            chunks = [chunk.dictionary_decode() for chunk in column.chunks]
            column = pa.chunked_array(chunks, kind.value_type)
        else:
            column = pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], kind.value_type)
    return column


def text_of(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Bool[np.ndarray, "n"]]:
    """The column as string, with nulls, and which rows are not UTF-8 and must not be read as text.

    Text and bytes stay as they are, everything else is as Arrow prints it. A value that it cannot print is null.
    """
    column = stored(column)
    kind = column.type
    if is_bytes(kind) or pa.types.is_fixed_size_binary(kind):
        text = pc.cast(column, options=pc.CastOptions.unsafe(pa.string()))
    elif is_text(kind):
        text = column.cast(pa.string())
    else:
        return _printed(column), np.zeros(len(column), bool)
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return text, np.array([not _is_utf8(raw) for raw in text.cast(pa.binary()).to_pylist()], bool)
    return text, np.zeros(len(text), bool)


def json_value(value: pa.Scalar) -> Any:
    """The scalar as a value for Python and json. Bytes that are not UTF-8 are escaped; NaN and infinity are None.

    If Python has no object for a value (a date after year 9999, an unknown time zone), it is the text that Arrow
    prints, or None.
    """
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    if not value.is_valid:
        return None
    if is_text(value.type) or is_bytes(value.type):
        return value.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
    try:
        plain = value.as_py()
    except Exception:  # noqa: BLE001  # what a type's own conversion raises is its own; a carried value ends no run
        return _arrow_text(value)
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def sides_of(column: pa.ChunkedArray) -> pa.Array:
    """Width or height in pixels as int32; null for values that are not positive numbers, or do not fit.

    The column may hold integers, floats, decimals, or texts of such numbers. Fractions of a pixel are cut off.
    """
    column = stored(column)
    kind = column.type
    if is_text(kind) or is_bytes(kind):
        column = _numbers_in(column)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return pa.nulls(len(column), pa.int32())
    pixels = column.cast(pa.float64(), safe=False).combine_chunks().to_numpy(zero_copy_only=False)
    known = (pixels >= 1) & (pixels < 2**31)
    return pa.array(np.where(known, pixels, 0).astype(np.int32), mask=~known)


def _numbers_in(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts of plain decimal numbers, without blanks around them; null for all other texts."""
    texts, broken = text_of(column)
    sound = pc.if_else(pa.array(~broken), texts, pa.scalar(None, pa.string()))
    trimmed = pc.utf8_trim_whitespace(sound)
    return pc.if_else(pc.match_substring_regex(trimmed, _NUMBER), trimmed, pa.scalar(None, pa.string()))


def _printed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        texts = [json_value(value) for value in column]
        return pa.chunked_array([pa.array([None if text is None else str(text) for text in texts], pa.string())])


def _arrow_text(value: pa.Scalar) -> str | None:
    kind = value.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        value = value.cast(pa.timestamp(kind.unit, "UTC"))  # the zone may be the one that nobody knows
    try:
        text: str | None = value.cast(pa.string()).as_py()
    except pa.ArrowException:
        return None
    return text


def _is_utf8(raw: bytes | None) -> bool:
    try:
        (raw or b"").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
