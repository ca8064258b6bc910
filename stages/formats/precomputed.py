"""Makes the row table of a shard of precomputed vectors: readable rows in the table, the others rejects."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32

from pipeline.errors import JobError, ShardError
from pipeline.uid import UID_ARROW, content_hash, hex_of
from stages.formats.columns import need_text, null_mask, open_parquet, sides_of, text_of
from stages.formats.sample import Reject

ROWS = pa.schema(
    [
        ("position", pa.int64()),
        ("key", pa.string()),
        ("uid", UID_ARROW),
        ("caption", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("url", pa.string()),
    ]
)
"""Columns of a row table; width, height and url are null where they are unknown."""


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
                f"the parquet {self.rows} rows; the two files do not belong together"
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


def read_columns(url: str, names: Sequence[str]) -> tuple[pa.Table, pa.Schema]:
    """Those of the named columns that there are and that are not nested, and the file's whole schema."""
    with open_parquet(url, names) as file:
        schema = file.schema_arrow
        flat = {field.name for field in schema if not pa.types.is_nested(field.type)}
        return file.read(columns=[name for name in dict.fromkeys(names) if name in flat]), schema


def captions_of(meta: pa.Table, name: str | None, faults: Faults, url: str) -> pa.ChunkedArray:
    """The caption column, its nulls and broken texts marked; "" everywhere where `name` is None."""
    if name is None:
        return pa.chunked_array([pa.repeat("", len(meta))])
    need_text(meta.schema, name, "caption", url)
    captions, broken = text_of(meta[name])
    faults.mark(null_mask(captions), "no-caption", f"a row must have a caption, but {name} is null")
    faults.mark(broken, "caption-not-utf8", f"a caption must be UTF-8, but {name} is not")
    return captions


def hashed_uids(
    uids: np.ndarray, known: Bool[np.ndarray, "n"], firsts: Sequence[bytes], captions: pa.ChunkedArray
) -> np.ndarray:
    """(n, 16) bytes: `uids` where known, else xxh3-128 of that row's `firsts` and its caption.

    firsts: one a row that is not known, in order.
    """
    rows = np.flatnonzero(~known)
    texts = captions.cast(pa.binary()).take(pa.array(rows)).to_pylist()
    hashes = b"".join(content_hash(first, text or b"") for first, text in zip(firsts, texts, strict=True))
    filled = uids.copy()
    filled[rows] = np.frombuffer(hashes, np.uint8).reshape(-1, 16)
    return filled


def row_table(
    meta: pa.Table,
    uids: np.ndarray,
    captions: pa.ChunkedArray,
    faults: Faults,
    sides: tuple[Sequence[str], Sequence[str]],
) -> tuple[pa.Table, list[Reject]]:
    """The table (schema ROWS) of the rows without a fault, and a reject for each of the others.

    meta: may hold `key` (else the uid's hex digits are the key), `url`, and width and height under one of the
    names in `sides`. uids: (n, 16) uint8.
    """
    names = pa.FixedSizeBinaryArray.from_buffers(UID_ARROW, len(meta), [None, pa.py_buffer(np.ascontiguousarray(uids))])
    width, height = (_first_sides(meta, candidates) for candidates in sides)
    columns = {
        "position": pa.array(np.arange(len(meta))),
        "key": _keys(meta, names),
        "uid": names,
        "caption": captions,
        "width": width,
        "height": height,
        "url": _urls(meta),
    }
    table = pa.table(columns, schema=ROWS)
    clean = faults.clean
    if clean.all():
        return table, []
    return table.filter(pa.array(clean)), faults.rejects(table["key"].filter(pa.array(~clean)).to_pylist())


def known_encoder(asked: str, offered: Sequence[str], url: str) -> None:
    """Raises JobError when the pool offers no such encoder."""
    if asked not in offered:
        raise JobError(f"{url}: the pool must offer the encoder {asked}, but offers {', '.join(offered)}")


def _keys(meta: pa.Table, uids: pa.Array) -> pa.Array | pa.ChunkedArray:
    if "key" in meta.column_names and not pa.types.is_nested(meta.schema.field("key").type):
        keys, broken = text_of(meta["key"])
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
