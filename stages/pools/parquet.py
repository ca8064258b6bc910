"""The pool format `parquet`: one encoded image and its caption per row."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, UInt8

from winnow.pipeline.errors import DataError, JobError, PoolError, SampleError
from winnow.pipeline.parquet_file import ParquetFile
from winnow.pipeline.uid import content_hash, stated_uid
from winnow.stages.pools import options
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
from winnow.stages.pools.images import image_fault, images_of
from winnow.stages.pools.links import URLS
from winnow.stages.pools.plain import is_bytes, json_value, stored_type, text_of
from winnow.stages.pools.reader import Reader, tar_key
from winnow.stages.pools.sample import BY_CONTENT, NOT_DOWNLOADED, Reject, Sample, check_caption, check_image
from winnow.stages.preview.head import Head
from winnow.stages.results.training_members import PICTURES

_BATCH_ROWS = 64  # images of up to some MB: one batch stays below a few hundred MB
_IMG2DATASET = ("status", "error_message")  # img2dataset writes both; `status` alone may come from another program


@dataclass(frozen=True)
class Parquet(Reader):
    """A pool of parquet files with one image and its caption in each row.

    image: a binary column of encoded image files, or Hugging Face's struct<bytes, path>.
    caption: a text column; None for the first of caption, text and TEXT that exists.
    uid: `auto`: the column `uid` if its value is 32 hex digits, a UUID or 16 bytes, otherwise the content hash of image
        and caption. `content`: always that hash. Otherwise the name of a column of such uids, or of any texts, bytes
        or integers, whose hash is the uid (pipeline.uid.named_uid); it must be filled in every row.
    A sample's key is the column `key` if there is one, else the uid's hex digits.
    Raises JobError for an empty option.
    """

    image: str = "image"
    caption: str | None = None
    uid: str = "auto"
    kind: ClassVar[str] = "parquet"
    suffix: ClassVar[str] = ".parquet"
    movable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.image or self.caption == "" or not self.uid:
            raise JobError("pool.image, pool.caption and pool.uid must name columns, got an empty name")

    def samples(self, url: str) -> Iterator[Sample | Reject]:
        """Every row once, in order, 64 in memory at a time. The caller may keep image bytes.

        Kinds: no-image, no-caption, caption-not-utf8, caption-too-large, image-too-large, no-uid; and not-downloaded
        for rows of links that img2dataset could not download.
        Raises PoolError for a missing column or one of another type, ShardError for a broken file.
        """
        with open_parquet(url) as file:
            columns = self._columns(file.schema_arrow, url)
            position = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=sorted(set(columns.values()))):
                rows = _Rows.of(batch, columns, self._asked)
                for row in range(batch.num_rows):
                    yield self._row(rows, row, position)
                    position += 1

    def members(self, url: str, positions: Int64[np.ndarray, "n"]) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        """Key and (suffix, bytes) members of the rows at these positions, for training shards; rows must be readable.

        positions: ascending row numbers, repeats allowed. Row groups without any of them are not read.
        Members: the image as it is, with the suffix jpg for every format, because readers want one suffix and detect
        the format from the content; `txt`, the caption; `json`, the other scalar columns, with the uid if no column has
        that name. A key that would break a tar (empty, dots, odd slashes) is replaced by the uid's hex digits.
        Raises DataError for positions out of order or range, or of a row that is a reject; else as `samples`.
        """
        if len(positions) and (np.any(np.diff(positions) < 0) or positions[0] < 0):
            raise DataError(f"{url}: positions must ascend and be at least 0; sort them")
        with open_parquet(url) as file:
            rows = file.metadata.num_rows
            if len(positions) and positions[-1] >= rows:
                raise DataError(f"{url}: positions must be below {rows}, its number of rows, got {positions[-1]}")
            columns = self._columns(file.schema_arrow, url)
            scalars = _scalars(file.schema_arrow, (columns["image"], columns["caption"]))
            for start, batch in _batches_with(file, positions, sorted({*columns.values(), *scalars})):
                first, last = np.searchsorted(positions, (start, start + batch.num_rows))
                carried = {name: first_column(batch, name) for name in scalars}
                rows = _Rows.of(batch, columns, self._asked)
                for position in positions[first:last].tolist():
                    yield self._members(rows, carried, position - start, position)

    def uid_again(self, fact: Mapping[str, Any], described: Any, image: bytes) -> bytes | None:
        """See Reader.uid_again: from the json, which has the column of uids, else the hash of image and caption."""
        if self.uid != "content":
            stated = described.get("uid" if self.uid == "auto" else self.uid) if isinstance(described, dict) else None
            uid = stated_uid(stated)
            if uid is not None or self._asked:  # json need not hold the bytes that a row was named by
                return uid
        return content_hash(image, fact["caption"].encode())

    def others(self, head: Head, kinds: Collection[str]) -> Iterator[Mapping[str, object]]:
        """Other columns of images, and of text."""
        return options.choices(kinds, *options.in_table(head.url))

    @property
    def _asked(self) -> bool:
        """Whether the job names the column of uids. Then any value in it is the name of the sample."""
        return self.uid not in ("auto", "content")

    def _columns(self, schema: pa.Schema, url: str) -> dict[str, str]:
        """The column of each role: image and caption; uid, key and status if they exist."""
        captions = (self.caption,) if self.caption else ("caption", "text", "TEXT")
        columns = {
            "image": self._image(schema, url),
            "caption": need_column(schema, captions, "caption", url),
        }
        if self._asked:
            columns["uid"] = need_column(schema, (self.uid,), "uid", url)
            need_names(schema, columns["uid"], url)
        elif self.uid == "auto" and "uid" in schema.names:
            need_once(schema, "uid", "uid", url)
            columns["uid"] = "uid"
        if "key" in schema.names:
            columns["key"] = "key"
        if all(name in schema.names for name in _IMG2DATASET):
            columns["status"], columns["error"] = _IMG2DATASET
        need_text(schema, columns["caption"], "caption", url)
        if fault := image_fault(schema.field(columns["image"]).type):
            raise PoolError(f"{url}: pool.image must name encoded images, binary or struct<bytes, path>, {fault}")
        return columns

    def _image(self, schema: pa.Schema, url: str) -> str:
        try:
            return need_column(schema, (self.image,), "image", url)
        except PoolError as error:
            if not set(URLS) & set(schema.names):
                raise
            raise PoolError(f"{error}; if the table has links and no pictures, set pool.format: links") from error

    def _row(self, rows: "_Rows", row: int, position: int) -> Sample | Reject:
        key = rows.text("key", row) or ""
        try:
            image, caption, uid, named = self._parts(rows, row)
        except SampleError as error:
            return Reject(position, key, error.kind, str(error))
        return Sample(position, key or uid.hex(), uid, image, content_hash(image), caption, named=named)

    def _parts(self, rows: "_Rows", row: int) -> tuple[bytes, str, bytes, str]:
        """Image, caption, uid of one row, and what the uid comes from. Raises SampleError."""
        image = rows.images[row].as_py()
        if image is None:
            raise self._no_image(rows, row)
        texts, broken = rows.texts["caption"]
        if broken[row]:
            raise SampleError("caption-not-utf8", "a caption must be UTF-8, but it is not")
        caption = texts[row].as_py()
        if caption is None:
            raise SampleError("no-caption", "a row must have a caption, but it is null")
        check_image(image)
        check_caption(caption.encode())
        if rows.known[row]:
            return image, caption, rows.uids[row].tobytes(), f"column {rows.uid}"
        if self._asked:
            raise SampleError("no-uid", f"a uid must name a sample, but {self.uid} is null or empty")
        named = BY_CONTENT
        if rows.uid is not None and rows.filled[row]:
            named += f", where {rows.uid} is filled with other than 32 hex digits or 16 bytes"
        return image, caption, content_hash(image, caption.encode()), named

    def _no_image(self, rows: "_Rows", row: int) -> SampleError:
        status = rows.text("status", row)
        if status not in (None, "success"):
            return SampleError(NOT_DOWNLOADED, f"img2dataset says {status}: {rows.text('error', row)}")
        where = rows.text("path", row)
        if where is not None:
            told = f"has only a path, {where:.200}: write the bytes of the pictures into it (see docs/pools.md)"
            return SampleError("no-image", f"a row must have an image, but {self.image} {told}")
        return SampleError("no-image", f"a row must have an image, but {self.image} is null")

    def _members(
        self, rows: "_Rows", carried: dict[str, pa.Array], row: int, position: int
    ) -> tuple[str, list[tuple[str, bytes]]]:
        found = self._row(rows, row, position)
        if isinstance(found, Reject):
            raise DataError(f"row {position} must be readable to be written, but: {found.message}")
        fields = {name: json_value(column[row]) for name, column in carried.items()}
        fields.setdefault("uid", found.uid.hex())
        image = bytes(found.image)
        key = tar_key(found)
        text = json.dumps(fields, ensure_ascii=False, default=str)
        return key, [(PICTURES[0], image), ("txt", found.caption.encode()), ("json", text.encode())]


@dataclass(frozen=True)
class _Rows:
    """The needed columns of some rows, converted for reading.

    texts: by role, each with a mask of rows that are not UTF-8. uid: name of the column of uids. uids: (n, 16), set in
    `known` rows. filled: rows in which the column of uids is not null.
    """

    images: pa.Array
    texts: dict[str, tuple[pa.ChunkedArray, Bool[np.ndarray, "n"]]]
    uid: str | None
    uids: UInt8[np.ndarray, "n 16"]
    known: Bool[np.ndarray, "n"]
    filled: Bool[np.ndarray, "n"]

    @classmethod
    def of(cls, batch: pa.RecordBatch, columns: dict[str, str], asked: bool) -> "_Rows":
        """Convert a batch. columns: name by role. asked: whether any text or number counts as a uid."""
        found = {role: pa.chunked_array([first_column(batch, name)]) for role, name in columns.items()}
        images, paths = images_of(found.pop("image"))
        uid, n = found.pop("uid", None), batch.num_rows
        if paths is not None:
            found["path"] = paths
        uids, known = (np.zeros((n, 16), np.uint8), np.zeros(n, bool)) if uid is None else uid_bytes_of(uid, asked)
        filled = known if uid is None else ~null_mask(uid)
        return cls(images, {role: text_of(c) for role, c in found.items()}, columns.get("uid"), uids, known, filled)

    def text(self, role: str, row: int) -> str | None:
        """The text of this role, with bytes that are not UTF-8 escaped; None if there is none."""
        return None if role not in self.texts else json_value(self.texts[role][0][row])


def _scalars(schema: pa.Schema, others: Sequence[str]) -> list[str]:
    """Names of the columns that json can hold: neither nested nor of bytes; each name once."""
    flat = {
        field.name: None
        for field in schema
        if not pa.types.is_nested(stored_type(field.type))
        and not is_bytes(stored_type(field.type))
        and not pa.types.is_fixed_size_binary(field.type)
    }
    return [name for name in flat if name not in others]


def _batches_with(file: ParquetFile, positions: np.ndarray, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches of row groups that hold any of the sorted positions, each with the number of its first row."""
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        first, last = np.searchsorted(positions, (start, end))
        if first < last:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                yield start, batch
                start += batch.num_rows
        start = end
