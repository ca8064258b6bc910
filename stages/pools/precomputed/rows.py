"""The rows of a shard of precomputed vectors: readable samples in a table, the others as rejects."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, UInt8

from winnow.pipeline.errors import JobError, ShardError
from winnow.pipeline.uid import UID_ARROW, content_hash, hex_of
from winnow.stages.pools.columns import (
    first_column,
    need_column,
    need_names,
    need_once,
    need_text,
    null_mask,
    open_parquet,
    uids_of,
)
from winnow.stages.pools.plain import sides_of, stored_type, text_of
from winnow.stages.pools.precomputed.blocks import Blocks, squared_norms
from winnow.stages.pools.precomputed.widths import same_width
from winnow.stages.pools.sample import Reject

ROWS = pa.schema(
    [
        ("position", pa.int64()),
        ("key", pa.string()),
        ("uid", UID_ARROW),
        ("caption", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("url", pa.string()),
        ("named", pa.dictionary(pa.int8(), pa.string())),
    ]
)
"""Columns of a row table; width, height and url are null where they are unknown; named: what the uid comes from."""

BY_VECTOR = "a hash of the image vector and caption"
"""What names a row that brings no uid, and no place where its image lay."""

WIDTHS = ("original_width", "width", "WIDTH", "image_width", "img_width")
"""Columns that tell the width in pixels; the first that there is counts."""

HEIGHTS = ("original_height", "height", "HEIGHT", "image_height", "img_height")
"""Columns that tell the height."""


class Faults:
    """What is wrong with each of n rows; the first mark of a row is the one that counts."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._which = np.full(rows, -1, np.int32)
        self._causes: list[tuple[str, str]] = []

    def mark(self, bad: Bool[np.ndarray, "n"], kind: str, message: str) -> None:
        """Rejects the rows where `bad`, unless they are rejected already."""
        self._which[bad & (self._which < 0)] = len(self._causes)
        self._causes.append((kind, message))

    def mark_norms(self, squared: Float32[np.ndarray, "n"], url: str, name: str) -> None:
        """Rejects vectors without a direction. Raises ShardError when they are not as many as the rows."""
        if len(squared) != self.rows:
            raise ShardError(
                f"{url}: vectors and rows must be as many, but {name} has {len(squared)} vectors and "
                f"the parquet {self.rows} rows; the two files do not belong together",
                lasting=True,
            )
        message = f"a vector must be finite and not zero, but {name}"
        self.mark(~np.isfinite(squared), "vector-not-finite", f"{message} is missing, or holds NaN or infinity")
        self.mark(squared == 0, "vector-zero", f"{message} is zero")

    @property
    def clean(self) -> Bool[np.ndarray, "n"]:
        """True for rows without a mark."""
        return self._which < 0

    def rejects(self, keys: Sequence[str]) -> list[Reject]:
        """One reject for every marked row, in order; keys: those of the marked rows."""
        marked = np.flatnonzero(self._which >= 0).tolist()
        return [Reject(row, key, *self._causes[self._which[row]]) for row, key in zip(marked, keys, strict=True)]


class Names:
    """The uids of n rows as they become known, and of each what it comes from."""

    def __init__(self, rows: int) -> None:
        self.uids = np.zeros((rows, 16), np.uint8)
        self._from = np.full(rows, -1, np.int8)
        self._sources: list[str] = []

    @property
    def known(self) -> Bool[np.ndarray, "n"]:
        """Which rows have their uid."""
        return self._from >= 0

    def take(self, uids: UInt8[np.ndarray, "n 16"], where: Bool[np.ndarray, "n"], source: str) -> None:
        """Names the rows `where` that have no name yet."""
        new = where & ~self.known
        self.uids[new] = uids[new]
        self._mark(new, source)

    def hash(self, firsts: Sequence[bytes], where: Bool[np.ndarray, "n"], captions: pa.ChunkedArray, of: str) -> None:
        """Names the rows `where`, which have no name yet, by xxh3-128 of `firsts`, one for each, and the caption."""
        rows = np.flatnonzero(where)
        texts = captions.cast(pa.binary()).take(pa.array(rows)).to_pylist()
        hashes = b"".join(content_hash(first, text or b"") for first, text in zip(firsts, texts, strict=True))
        self.uids[rows] = np.frombuffer(hashes, np.uint8).reshape(-1, 16)
        self._mark(where, of)

    @property
    def sources(self) -> pa.Array:
        """What each row's uid comes from; null where it has none."""
        mask = ~self.known
        codes = pa.array(np.where(mask, 0, self._from).astype(np.int8), mask=mask)
        return pa.DictionaryArray.from_arrays(codes, pa.array(self._sources, pa.string()))

    def _mark(self, rows: np.ndarray, source: str) -> None:
        if rows.any():
            self._from[rows] = len(self._sources)
            self._sources.append(source)


def read_columns(url: str, names: Sequence[str], roles: Mapping[str, Sequence[str]]) -> tuple[pa.Table, pa.Schema]:
    """Those of the named columns that there are and that are not nested, of several of one name the first; the schema.

    roles: by option, those that must not be there twice. Raises PoolError for one that is.
    """
    with open_parquet(url, names) as file:
        schema = file.schema_arrow
        for option, asked in roles.items():
            for name in asked:
                need_once(schema, name, option, url)
        flat = {field.name for field in schema if not pa.types.is_nested(stored_type(field.type))}
        wanted = [name for name in dict.fromkeys(names) if name in flat]
        table = file.read(columns=wanted)
        return pa.table([first_column(table, name) for name in wanted], wanted) if wanted else table, schema


def captions_of(meta: pa.Table, name: str | None, faults: Faults, url: str) -> pa.ChunkedArray:
    """The caption column, its nulls and broken texts marked; "" everywhere where `name` is None."""
    if name is None:
        return pa.chunked_array([pa.repeat("", len(meta))])
    need_text(meta.schema, name, "caption", url)
    captions, broken = text_of(meta[name])
    faults.mark(null_mask(captions), "no-caption", f"a row must have a caption, but {name} is null")
    faults.mark(broken, "caption-not-utf8", f"a caption must be UTF-8, but {name} is not")
    return captions


def brought_uids(meta: pa.Table, schema: pa.Schema, asked: str | None, faults: Faults, url: str) -> Names:
    """The uids that the column `asked` brings, or the column `uid` where that is None and the values are such.

    schema: of the whole file. Rows without one are marked `no-uid` where a column is asked. Raises PoolError for a
    column that is not there, or can be none.
    """
    found, name = Names(len(meta)), asked or "uid"
    if asked is not None:
        need_column(schema, (asked,), "uid", url)
        need_names(schema, asked, url)
    if name in meta.column_names:
        uids, known = uids_of(meta[name], named=asked is not None)
        found.take(uids, known, f"column {name}")
        if asked is not None:
            faults.mark(~known, "no-uid", f"a uid must name a sample, but {name} is null or empty")
    return found


def row_table(
    meta: pa.Table,
    names: Names,
    captions: pa.ChunkedArray,
    faults: Faults,
) -> tuple[pa.Table, list[Reject]]:
    """The table (schema ROWS) of the rows without a fault, and a reject for each of the others.

    meta: may hold `key` or `image_path` (else the key is the uid in hex digits), `url`, and sizes under one of
    WIDTHS and HEIGHTS.
    """
    raw = pa.py_buffer(np.ascontiguousarray(names.uids))
    uids = pa.FixedSizeBinaryArray.from_buffers(UID_ARROW, len(meta), [None, raw])
    width, height = (_first_sides(meta, candidates) for candidates in (WIDTHS, HEIGHTS))
    columns = {
        "position": pa.array(np.arange(len(meta))),
        "key": _keys(meta, uids),
        "uid": uids,
        "caption": captions,
        "width": width,
        "height": height,
        "url": _urls(meta),
        "named": names.sources,
    }
    table = pa.table(columns, schema=ROWS)
    clean = faults.clean
    if clean.all():
        return table, []
    return table.filter(pa.array(clean)), faults.rejects(table["key"].filter(pa.array(~clean)).to_pylist())


def mark_vectors(
    files: Mapping[str, Callable[[], AbstractContextManager[Blocks]]],
    faults: Faults,
    unnamed: Bool[np.ndarray, "n"],
    url: str,
) -> list[bytes]:
    """Mark vectors without a direction; the bytes, as stored, of the first file's vectors of the rows `unnamed`.

    files: by a name for people, each with a vector for every row of the shard `url`. Raises ShardError where they are
    not as many, or differ in width.
    """
    stored: list[bytes] = []

    def keep(start: int, part: np.ndarray) -> None:
        stored.extend(row.tobytes() for row in part[unnamed[start : start + len(part)]])

    seen: dict[str, Blocks] = {}
    for name, opened in files.items():
        with opened() as blocks:
            see = keep if not seen and unnamed.any() else None
            faults.mark_norms(squared_norms(blocks, see), url, name)
            seen[name] = blocks
    same_width(seen, url)
    return stored


def known_encoder(asked: str, offered: Sequence[str], url: str) -> None:
    """Raises JobError when the pool offers no such encoder."""
    if asked not in offered:
        raise JobError(f"{url}: the pool must offer the encoder {asked}, but offers {', '.join(offered)}")


def _keys(meta: pa.Table, uids: pa.Array) -> pa.Array | pa.ChunkedArray:
    for name in ("key", "image_path"):
        if name in meta.column_names:
            keys, broken = text_of(meta[name])
            if not broken.any() and not keys.null_count:
                return keys
    return hex_of(uids)


def _urls(meta: pa.Table) -> pa.Array | pa.ChunkedArray:
    if "url" not in meta.column_names:
        return pa.nulls(len(meta), pa.string())
    urls, broken = text_of(meta["url"])
    if not broken.any():
        return urls
    # a link that is no text is no link: the row itself is sound
    return pa.array([None if bad else url.as_py() for bad, url in zip(broken, urls, strict=True)], pa.string())


def _first_sides(meta: pa.Table, candidates: Sequence[str]) -> pa.Array:
    for name in candidates:
        if name in meta.column_names:
            return sides_of(meta[name])
    return pa.nulls(len(meta), pa.int32())
