"""The pool format `vectors`: parquet files with columns of vectors, read in place."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pyarrow as pa

from winnow.pipeline.errors import JobError
from winnow.stages.pools import options
from winnow.stages.pools.columns import need_column, need_text
from winnow.stages.pools.precomputed.blocks import Blocks
from winnow.stages.pools.precomputed.parquet_lists import list_blocks
from winnow.stages.pools.precomputed.rows import (
    BY_VECTOR,
    HEIGHT_COLUMNS,
    WIDTH_COLUMNS,
    Faults,
    brought_uids,
    captions_of,
    hashed_vectors,
    known_encoder,
    read_columns,
    row_table,
)
from winnow.stages.pools.reader import Reader, Tower
from winnow.stages.pools.sample import Reject
from winnow.stages.preview.head import Head


@dataclass(frozen=True)
class Vectors(Reader):
    """A pool of parquet files with the vectors in columns of lists of float16, float32 or float64.

    image: column of image vectors. text: column of text vectors, or None.
    caption: text column. None: the first of caption, text and TEXT that exists and is not nested, and "" if there is
        none.
    uid: `auto`: the column `uid` if its value is 32 hex digits, a UUID or 16 bytes, otherwise xxh3-128 of the image
        vector's bytes as stored and the caption. Or the name of a column of such uids, or of any texts, bytes or
        integers, whose hash is the uid (pipeline.uid.named_uid); it must be filled in every row.
    encoder: the name that this job gives to the model that made the vectors.
    Raises JobError for an empty name.
    """

    image: str = "image"
    text: str | None = None
    caption: str | None = None
    uid: str = "auto"
    encoder: str = "vectors"
    kind: ClassVar[str] = "vectors"
    suffix: ClassVar[str] = ".parquet"
    movable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.image and self.uid and self.encoder) or self.text == "" or self.caption == "":
            raise JobError("options of pool must name columns, got an empty name")

    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders whose vectors the pool offers: one."""
        return (self.encoder,)

    @property
    def has_text(self) -> bool:
        """Whether the job names a column of text vectors."""
        return self.text is not None

    def rows(self, url: str) -> tuple[pa.Table, list[Reject]]:
        """Table (schema precomputed.ROWS) of the readable rows, and a reject for each of the others.

        Kinds: no-uid, no-caption, caption-not-utf8; where a vector names the row, vector-not-finite (also for null) and
        vector-zero. Raises PoolError for missing columns or other types.
        """
        captions_asked = (self.caption,) if self.caption else ("caption", "text", "TEXT")
        uid_column = "uid" if self.uid == "auto" else self.uid
        towers = [self.image] if self.text is None else [self.image, self.text]
        wanted = (uid_column, "key", "url", *captions_asked, *WIDTH_COLUMNS, *HEIGHT_COLUMNS)
        once = {"uid": (uid_column,), "caption": captions_asked, "image or pool.text": towers}
        meta, schema = read_columns(url, [name for name in wanted if name not in towers], once)
        if self.caption:
            need_text(schema, need_column(schema, captions_asked, "caption", url), "caption", url)
        faults = Faults(len(meta))
        names = brought_uids(meta, schema, None if self.uid == "auto" else self.uid, faults, url)
        caption = next((name for name in captions_asked if name in meta.column_names), None)
        captions = captions_of(meta, caption, faults, url)
        unnamed = ~names.known & (self.uid == "auto")
        stored = hashed_vectors(partial(list_blocks, url, self.image), self.image, faults, unnamed, url)
        names.hash(stored, unnamed, captions, BY_VECTOR)
        return row_table(meta, names, captions, faults)

    def blocks(self, url: str, encoder: str, tower: Tower) -> AbstractContextManager[Blocks]:
        """The vectors as they are stored, block by block; raises as `vectors` does."""
        known_encoder(encoder, self.encoders(), url)
        column = self.image if tower == "image" else self.text
        if column is None:
            raise JobError(f"{url}: the pool must have text vectors for this job, but pool.text names none")
        return list_blocks(url, column)

    def others(self, head: Head, kinds: Collection[str]) -> Iterator[Mapping[str, object]]:
        """See Reader.others: other columns of text."""
        return options.choices(kinds, (), options.in_table(head.url)[1])
