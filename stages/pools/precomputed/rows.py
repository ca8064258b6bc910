"""The rows of a shard of precomputed vectors: readable samples in a table, the others as rejects."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int64, UInt8

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
    uid_bytes_of,
)
from winnow.stages.pools.plain import sides_of, stored_type, text_of
from winnow.stages.pools.precomputed.blocks import Blocks, squared_norms
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
"""Columns of a row table. width, height and url are null if unknown. named: what the uid comes from."""

BY_VECTOR = "a hash of the image vector and caption"
"""The source of the uid of a row that has neither a uid nor a place of its image."""

BY_LINK = "a hash of url and caption"
"""The source of the uid of a row that has a link and no uid."""

WIDTH_COLUMNS = ("original_width", "width", "WIDTH", "image_width", "img_width")
"""Columns with the width in pixels; the first that exists counts."""

HEIGHT_COLUMNS = ("original_height", "height", "HEIGHT", "image_height", "img_height")
"""Columns with the height in pixels; the first that exists counts."""


class Faults:
    """What is wrong with each of n rows. The first mark of a row counts."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._which = np.full(rows, -1, np.int32)
        self._causes: list[tuple[str, str]] = []

    def mark(self, bad: Bool[np.ndarray, "n"], kind: str, message: str) -> None:
        """Reject the rows in `bad` that are not rejected yet."""
        self._which[bad & (self._which < 0)] = len(self._causes)
        self._causes.append((kind, message))

    def mark_norms(
        self, squared: Float32[np.ndarray, "n"], url: str, name: str, among: Bool[np.ndarray, "n"] | None = None
    ) -> None:
        """Reject vectors without a direction, in rows `among` or in all. Raises ShardError unless each row has one."""
        if len(squared) != self.rows:
            raise ShardError(
                f"{url}: vectors and rows must be as many, but {name} has {len(squared)} vectors and "
                f"the parquet {self.rows} rows; the two files do not belong together",
                lasting=True,
            )
        message = f"a vector must be finite and not zero, but {name}"
        rows = np.ones(self.rows, bool) if among is None else among
        missing = f"{message} is missing, or holds NaN or infinity"
        self.mark(rows & ~np.isfinite(squared), "vector-not-finite", missing)
        self.mark(rows & (squared == 0), "vector-zero", f"{message} is zero")

    @property
    def clean(self) -> Bool[np.ndarray, "n"]:
        """True for rows without a mark."""
        return self._which < 0

    def rejects(self, keys: Sequence[str]) -> list[Reject]:
        """One reject for every marked row, in order. keys: the keys of the marked rows."""
        return self.rejects_at(np.flatnonzero(~self.clean), keys)

    def rejects_at(self, rows: Int64[np.ndarray, "m"], keys: Sequence[str]) -> list[Reject]:
        """The rejects of some marked rows. keys: theirs."""
        return [Reject(row, key, *self._causes[self._which[row]]) for row, key in zip(rows.tolist(), keys, strict=True)]


class RowUids:
    """The uids of n rows, filled in step by step, and the source of each."""

    def __init__(self, rows: int) -> None:
        self.uids = np.zeros((rows, 16), np.uint8)
        self._from = np.full(rows, -1, np.int8)
        self._sources: list[str] = []

    @property
    def known(self) -> Bool[np.ndarray, "n"]:
        """Which rows have a uid."""
        return self._from >= 0

    def take(self, uids: UInt8[np.ndarray, "n 16"], where: Bool[np.ndarray, "n"], source: str) -> None:
        """Give these uids to the rows in `where` that have none yet."""
        new = where & ~self.known
        self.uids[new] = uids[new]
        self._mark(new, source)

    def hash(self, firsts: Sequence[bytes], where: Bool[np.ndarray, "n"], captions: pa.ChunkedArray, of: str) -> None:
        """Give the rows in `where`, which have no uid yet, xxh3-128 of `firsts`, one for each row, and the caption."""
        rows = np.flatnonzero(where)
        texts = captions.cast(pa.binary()).take(pa.array(rows)).to_pylist()
        hashes = b"".join(content_hash(first, text or b"") for first, text in zip(firsts, texts, strict=True))
        self.uids[rows] = np.frombuffer(hashes, np.uint8).reshape(-1, 16)
        self._mark(where, of)

    @property
    def sources(self) -> pa.Array:
        """The source of each row's uid; null if it has none."""
        mask = ~self.known
        codes = pa.array(np.where(mask, 0, self._from).astype(np.int8), mask=mask)
        return pa.DictionaryArray.from_arrays(codes, pa.array(self._sources, pa.string()))

    def _mark(self, rows: np.ndarray, source: str) -> None:
        if rows.any():
            self._from[rows] = len(self._sources)
            self._sources.append(source)


def read_columns(url: str, names: Sequence[str], roles: Mapping[str, Sequence[str]]) -> tuple[pa.Table, pa.Schema]:
    """The named columns, and the schema of the file. Columns that do not exist or are nested are left out.

    If several columns have one name, the first is read. roles: by option, names that must not occur twice; raises
    PoolError if one does.
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
    """The caption column, with nulls and invalid texts marked as faults; all "" if `name` is None."""
    if name is None:
        return pa.chunked_array([pa.repeat("", len(meta))])
    need_text(meta.schema, name, "caption", url)
    captions, broken = text_of(meta[name])
    faults.mark(null_mask(captions), "no-caption", f"a row must have a caption, but {name} is null")
    faults.mark(broken, "caption-not-utf8", f"a caption must be UTF-8, but {name} is not")
    return captions


def brought_uids(meta: pa.Table, schema: pa.Schema, asked: str | None, faults: Faults, url: str) -> RowUids:
    """The uids in column `asked`; if that is None, those values of column `uid` that are uids.

    schema: that of the whole file. If `asked` is given, rows without a uid are marked `no-uid`. Raises PoolError for a
    column that does not exist, or whose type cannot hold uids.
    """
    found, name = RowUids(len(meta)), asked or "uid"
    if asked is not None:
        need_column(schema, (asked,), "uid", url)
        need_names(schema, asked, url)
    if name in meta.column_names:
        uids, known = uid_bytes_of(meta[name], named=asked is not None)
        found.take(uids, known, f"column {name}")
        if asked is not None:
            faults.mark(~known, "no-uid", f"a uid must name a sample, but {name} is null or empty")
    return found


def row_table(
    meta: pa.Table,
    names: RowUids,
    captions: pa.ChunkedArray,
    faults: Faults,
) -> tuple[pa.Table, list[Reject]]:
    """The table (schema ROWS) of the rows without a fault, and a reject for each of the others.

    meta: may have `key` or `image_path` (otherwise the key is the uid in hex digits), `url`, and sizes in one of WIDTHS
    and HEIGHTS.
    """
    raw = pa.py_buffer(np.ascontiguousarray(names.uids))
    uids = pa.FixedSizeBinaryArray.from_buffers(UID_ARROW, len(meta), [None, raw])
    width, height = (_first_sides(meta, candidates) for candidates in (WIDTH_COLUMNS, HEIGHT_COLUMNS))
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


def hashed_vectors(
    opened: Callable[[], AbstractContextManager[Blocks]],
    name: str,
    faults: Faults,
    unnamed: Bool[np.ndarray, "n"],
    url: str,
) -> list[bytes]:
    """The bytes, as stored, of the vectors in rows `unnamed`, whose uid is a hash of them; marks those without a
    direction. No vector is read if every row has a uid.

    name: for messages. Raises ShardError if there are not as many vectors as rows.
    """
    stored: list[bytes] = []

    def keep(start: int, part: np.ndarray) -> None:
        stored.extend(row.tobytes() for row in part[unnamed[start : start + len(part)]])

    if unnamed.any():
        with opened() as blocks:
            faults.mark_norms(squared_norms(blocks, keep), url, name, unnamed)
    return stored


def known_encoder(asked: str, offered: Sequence[str], url: str) -> None:
    """Raises JobError if the pool has no vectors of this encoder."""
    if asked not in offered:
        raise JobError(f"{url}: the pool must have vectors of {asked}, but it has those of {', '.join(offered)}")


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
    # a link that is not valid text becomes null; the row itself is valid
    return pa.array([None if bad else url.as_py() for bad, url in zip(broken, urls, strict=True)], pa.string())


def _first_sides(meta: pa.Table, candidates: Sequence[str]) -> pa.Array:
    for name in candidates:
        if name in meta.column_names:
            return sides_of(meta[name])
    return pa.nulls(len(meta), pa.int32())
