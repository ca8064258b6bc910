"""Reads encoded images and captions from parquet rows; refuses columns that hold neither."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from pipeline.errors import DataError, JobError, PoolError, SampleError
from pipeline.parquet_file import ParquetFile
from pipeline.uid import content_hash, is_uid_hex
from stages.formats.columns import is_bytes, is_text, need_column, need_text, open_parquet
from stages.formats.sample import Reject, Sample, check_caption, check_image

_BATCH_ROWS = 64  # images of up to some MB: one batch stays below a few hundred MB
_TAR_KEY = re.compile(r"[\w-]+(?:/[\w-]+)*")
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


@dataclass(frozen=True)
class Parquet:
    """A pool of parquet files with one image and its caption a row.

    image: a binary column, or Hugging Face's struct<bytes, path>, of encoded image files.
    caption: a text column; None for the first there is of caption, text, TEXT.
    uid: `auto`, the column `uid` where it is 32 hex digits (or 16 bytes), else the content hash of image and
        caption; `content`, always that hash; else a column, which every row must then have filled.
    A sample's key is the column `key` where there is one, else the uid's hex digits.
    Raises JobError for an empty option.
    """

    image: str = "image"
    caption: str | None = None
    uid: str = "auto"

    def __post_init__(self) -> None:
        if not self.image or self.caption == "" or not self.uid:
            raise JobError("pool.image, pool.caption and pool.uid must name columns, but an empty name came")

    def samples(self, url: str) -> Iterator[Sample | Reject]:
        """Every row once, in order, 64 in memory at a time; image bytes may be kept.

        Kinds: no-image, no-caption, caption-not-utf8, caption-too-large, image-too-large, no-uid.
        Raises PoolError for a missing column or one of another type, ShardError for a broken file.
        """
        with open_parquet(url) as file:
            columns = self._columns(file.schema_arrow, url)
            position = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=sorted(set(columns.values()))):
                picked = {role: batch.column(name) for role, name in columns.items()}
                for row in range(batch.num_rows):
                    yield self._row(picked, row, position)
                    position += 1

    def members(self, url: str, positions: Int64[np.ndarray, "n"]) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        """Key and (suffix, bytes) members of each row asked for, for training shards; rows must be readable.

        positions: ascending row numbers, repeats allowed; row groups without any of them are not read.
        Members: the image verbatim, its suffix by magic bytes (jpg, png, webp, gif, bmp, tif, else bin);
        `txt`, the caption; `json`, the remaining scalar columns, with the uid where no column has that name.
        A key that would break a tar (empty, dots, odd slashes) is replaced by the uid's hex digits.
        Raises DataError for positions out of order or range, or of a row that is a reject; else as `samples`.
        """
        if len(positions) and (np.any(np.diff(positions) < 0) or positions[0] < 0):
            raise DataError(f"{url}: positions must ascend from 0 or more; sort them")
        with open_parquet(url) as file:
            rows = file.metadata.num_rows
            if len(positions) and positions[-1] >= rows:
                raise DataError(f"{url}: positions must be below {rows}, its rows, but {positions[-1]} came")
            columns = self._columns(file.schema_arrow, url)
            scalars = [
                field.name
                for field in file.schema_arrow
                if not pa.types.is_nested(field.type)
                and not is_bytes(field.type)
                and not pa.types.is_fixed_size_binary(field.type)
                and field.name not in (columns["image"], columns["caption"])
            ]
            for start, batch in _batches_with(file, positions, sorted({*columns.values(), *scalars})):
                first, last = np.searchsorted(positions, (start, start + batch.num_rows))
                for position in positions[first:last].tolist():
                    yield self._members(batch, columns, scalars, position - start, position)

    def _columns(self, schema: pa.Schema, url: str) -> dict[str, str]:
        """Column of each role: image, caption, and uid and key where there are such."""
        captions = (self.caption,) if self.caption else ("caption", "text", "TEXT")
        columns = {
            "image": need_column(schema, (self.image,), "image", url),
            "caption": need_column(schema, captions, "caption", url),
        }
        if self.uid not in ("auto", "content"):
            columns["uid"] = need_column(schema, (self.uid,), "uid", url)
        elif self.uid == "auto" and "uid" in schema.names:
            columns["uid"] = "uid"
        if "key" in schema.names:
            columns["key"] = "key"
        need_text(schema, columns["caption"], "caption", url)
        kind = schema.field(columns["image"]).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if not (is_bytes(kind) or pa.types.is_null(kind)):
            raise PoolError(f"{url}: pool.image must name encoded images, binary or struct<bytes, path>, not {kind}")
        return columns

    def _row(self, columns: dict[str, pa.Array], row: int, position: int) -> Sample | Reject:
        key = _plain(columns["key"][row]) if "key" in columns else None
        key = "" if key is None else str(key)
        try:
            image, caption, uid = self._parts(columns, row)
        except SampleError as error:
            return Reject(position, key, error.kind, str(error))
        return Sample(position, key or uid.hex(), uid, image, content_hash(image), caption)

    def _parts(self, columns: dict[str, pa.Array], row: int) -> tuple[bytes, str, bytes]:
        """Image, caption and uid of one row. Raises SampleError."""
        image = columns["image"][row].as_py()
        if isinstance(image, dict):  # Hugging Face: {bytes, path}
            image = image["bytes"]
        if image is None:
            raise SampleError("no-image", f"a row must have an image, but {self.image} is null")
        try:
            caption = columns["caption"][row].as_py()
        except UnicodeDecodeError as error:
            raise SampleError("caption-not-utf8", f"a caption must be UTF-8: {error}") from None
        if caption is None:
            raise SampleError("no-caption", "a row must have a caption, but it is null")
        check_image(image)
        check_caption(caption.encode())
        stated = _plain(columns["uid"][row]) if "uid" in columns else None
        if is_uid_hex(stated):
            return image, caption, bytes.fromhex(str(stated))
        if isinstance(stated, bytes) and len(stated) == 16:
            return image, caption, stated
        if self.uid not in ("auto", "content"):
            raise SampleError("no-uid", f"{self.uid} must be 32 hex digits or 16 bytes, but {stated!r:.80} came")
        return image, caption, content_hash(image, caption.encode())

    def _members(
        self, batch: pa.RecordBatch, columns: dict[str, str], scalars: list[str], row: int, position: int
    ) -> tuple[str, list[tuple[str, bytes]]]:
        found = self._row({role: batch.column(name) for role, name in columns.items()}, row, position)
        if isinstance(found, Reject):
            raise DataError(f"row {position} must be readable to be written, but: {found.message}")
        fields = {name: _plain(batch.column(name)[row]) for name in scalars}
        fields.setdefault("uid", found.uid.hex())
        image = bytes(found.image)
        key = found.key if _TAR_KEY.fullmatch(found.key) else found.uid.hex()
        text = json.dumps(fields, ensure_ascii=False, default=str)
        return key, [(_suffix(image), image), ("txt", found.caption.encode()), ("json", text.encode())]


def _batches_with(file: ParquetFile, positions: np.ndarray, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches, with their first row's number, of the row groups that hold any of the sorted positions."""
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        first, last = np.searchsorted(positions, (start, end))
        if first < last:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                yield start, batch
                start += batch.num_rows
        start = end


def _plain(value: pa.Scalar) -> Any:
    """The scalar for Python and json: text that is no UTF-8 escaped, floats that are no number None."""
    if is_text(value.type) and value.is_valid:
        return value.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
    plain = value.as_py()
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _suffix(image: bytes) -> str:
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return next((suffix for magic, suffix in _MAGIC if image.startswith(magic)), "bin")
