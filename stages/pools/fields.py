"""Further fields of samples, beside picture and caption: columns of parquet shards, with one type for all shards."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from winnow.pipeline.columns import column
from winnow.stages.pools.columns import first_column, open_parquet
from winnow.stages.pools.plain import is_text, json_value

_BATCH_ROWS = 1024
_LARGEST = 1 << 63  # the first integer that int64 does not hold


def columns_at(url: str, places: pa.Table, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The named columns of some rows of a parquet file as JSON values, without columns that the file does not have.

    places: rows of an embeddings file, with `position`.
    """
    positions = column(places, "position")
    with open_parquet(url, names) as file:
        there = [name for name in names if name in file.schema_arrow.names]
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            inside = positions[slice(*np.searchsorted(positions, (start, end)))]
            if len(inside):
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=there):
                    part = inside[slice(*np.searchsorted(inside, (start, start + batch.num_rows)))] - start
                    values = {name: first_column(batch, name).take(pa.array(part)) for name in there}
                    for row in range(len(part)):
                        yield {name: json_value(found[row]) for name, found in values.items()}
                    start += batch.num_rows
            start = end


def caption_column(url: str, table: pa.Table) -> str | None:
    """The column of a parquet file that holds these captions, found by its values; None if there is none."""
    captions = table["caption"].to_pylist()
    with open_parquet(url) as file:
        schema = file.schema_arrow
        for name in [field.name for field in schema if is_text(field.type) and schema.names.count(field.name) == 1]:
            if file.read(columns=[name])[name].take(table["position"]).to_pylist() == captions:
                return str(name)
    return None


def typed(values: Sequence[Any]) -> pa.Array:
    """A column of JSON values: bool, int64, float64 or string, whichever holds all; of type null if all are None.

    Values that no other type holds become text: lists and objects as JSON, others as Python prints them.
    """
    kinds = {type(value) for value in values if value is not None}
    narrow = all(-_LARGEST <= value < _LARGEST for value in values if isinstance(value, int))
    if kinds <= {bool} or (kinds <= {int} and narrow):
        return pa.array(values)
    if kinds <= {int, float} and narrow:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([_text(value) for value in values], pa.string())


def one_field_type(kinds: Iterable[pa.DataType]) -> pa.DataType:
    """The type that holds the columns of `typed` of several shards; string if all are empty."""
    found = {str(kind): kind for kind in kinds if kind != pa.null()}
    if set(found) == {"int64", "double"}:
        return pa.float64()
    return next(iter(found.values())) if len(found) == 1 else pa.string()


def as_type(values: pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """A column of `typed` as the type that holds those of all shards."""
    if kind == pa.string():
        return pa.array([_text(value) for value in values.to_pylist()], kind)
    return values.cast(kind, safe=False)


def _text(value: Any) -> str | None:
    """A text as it is, with lone surrogates escaped; anything else as JSON."""
    if value is None:
        return None
    plain = isinstance(value, bool | int | float | list | dict)
    text = json.dumps(value, ensure_ascii=False, default=str) if plain else str(value)
    return text.encode("utf-8", "backslashreplace").decode()
