"""Further fields of samples, beside picture and caption: what a pool says of them, and its columns for an export."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from winnow.pipeline.columns import column
from winnow.pipeline.errors import JobError
from winnow.stages.pools.columns import first_column, open_parquet
from winnow.stages.pools.plain import is_text, json_value

Values: TypeAlias = pa.ChunkedArray | Sequence[Any]
"""One field of some samples, a value for each: a column as parquet stores it, or JSON values, None if absent."""

_BATCH_ROWS = 1 << 16
_LARGEST = 1 << 63  # the first integer that int64 does not hold


def columns_at(url: str, places: pa.Table, names: Sequence[str]) -> dict[str, Values]:
    """The named columns of some rows of a parquet file, without columns that the file does not have.

    places: rows of a samples file, with `position`, ascending. Memory: the values, and one batch of rows.
    """
    positions = column(places, "position")
    with open_parquet(url, names) as file:
        there = [name for name in dict.fromkeys(names) if name in file.schema_arrow.names]
        found: dict[str, list[pa.Array]] = {name: [] for name in there}
        start = 0
        for group in range(file.num_row_groups if there else 0):
            end = start + file.metadata.row_group(group).num_rows
            if len(positions[slice(*np.searchsorted(positions, (start, end)))]):
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=there):
                    part = positions[slice(*np.searchsorted(positions, (start, start + batch.num_rows)))] - start
                    for name in there:
                        found[name].append(first_column(batch, name).take(pa.array(part)))
                    start += batch.num_rows
            start = end
        kinds = {name: file.schema_arrow.field(file.schema_arrow.get_all_field_indices(name)[0]).type for name in there}
    return {name: pa.chunked_array(parts, parts[0].type if parts else kinds[name]) for name, parts in found.items()}


def json_key(source: str) -> str:
    """The key of a json member that a job names as json:KEY. Raises JobError for anything else."""
    if source.startswith("json:") and source[5:]:
        return source[5:]
    raise JobError(f"pool.fields must name keys of the json member, as json:KEY, got {source!r}")


def transposed(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Values]:
    """The named fields of rows that come one after another, each as a list."""
    found: dict[str, list[Any]] = {name: [] for name in names}
    for row in rows:
        for name, values in found.items():
            values.append(row.get(name))
    return dict(found)


def json_values(values: Values) -> Sequence[Any]:
    """The values as json can hold them."""
    return [json_value(value) for value in values] if isinstance(values, pa.ChunkedArray) else values


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
