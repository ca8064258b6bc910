"""The pool format `clip-retrieval`: metadata parquet and npy files, read in place."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.errors import JobError, PoolError
from winnow.stages.pools import options
from winnow.stages.pools.columns import need_text
from winnow.stages.pools.plain import text_of
from winnow.stages.pools.precomputed.blocks import Blocks
from winnow.stages.pools.precomputed.npy_files import npy_blocks
from winnow.stages.pools.precomputed.rows import (
    BY_VECTOR,
    HEIGHT_COLUMNS,
    WIDTH_COLUMNS,
    Faults,
    RowUids,
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

_SHARD = re.compile(r"(?P<root>(?:.*/)?)metadata/metadata_(?P<number>[^/]+)\.parquet")
_CAPTIONS = ("caption", "TEXT", "text")
_PLACES = ("url", "image_path")


@dataclass(frozen=True)
class ClipRetrieval(Reader):
    """A pool of `metadata/metadata_N.parquet` with `img_emb/img_emb_N.npy` and `text_emb/text_emb_N.npy`.

    The shard is the parquet file. The caption is the first of the columns caption, TEXT and text that exists; "" if
    none does.

    encoder: the name that this job gives to the model that made the vectors.
    text: False for a pool without text_emb.
    uid: `auto`: the column `uid` if its value is 32 hex digits, a UUID or 16 bytes, otherwise xxh3-128 of the caption
        after the first of these that the row has: url, image_path, the image vector's bytes as stored. Or the name of a
        column, as for Vectors.
    Raises JobError for an empty name.
    """

    encoder: str = "clip"
    text: bool = True
    uid: str = "auto"
    kind: ClassVar[str] = "clip-retrieval"
    suffix: ClassVar[str] = ".parquet"
    movable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.encoder or not self.uid:
            raise JobError("pool.encoder and pool.uid must name something, got an empty name")

    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders whose vectors the pool offers: one."""
        return (self.encoder,)

    @property
    def has_text(self) -> bool:
        """True unless the pool has no text_emb."""
        return self.text

    def companions(self, url: str) -> list[str]:
        """The npy files of the shard: image vectors, then text vectors."""
        shard = _SHARD.fullmatch(url)
        if shard is None:
            raise PoolError(f"a clip-retrieval shard must be named …/metadata/metadata_N.parquet, got {url}")
        folders = ("img_emb", "text_emb") if self.text else ("img_emb",)
        return [f"{shard['root']}{folder}/{folder}_{shard['number']}.npy" for folder in folders]

    def lacking(self, lost: Sequence[str]) -> str:
        """See Reader.lacking: a pool may have no text_emb."""
        only_texts = bool(lost) and all("text_emb" in name.rpartition("/")[2] for name in lost)
        return "; for a pool without text_emb set pool.text: false" if only_texts else ""

    def rows(self, url: str) -> tuple[pa.Table, list[Reject]]:
        """Table (schema precomputed.ROWS) of the readable rows, and a reject for each of the others.

        Kinds: no-uid, no-caption, caption-not-utf8; where a vector names the row, vector-not-finite and vector-zero.
        Raises PoolError for columns of other types.
        """
        uid = "uid" if self.uid == "auto" else self.uid
        once = {"uid": (uid, *_PLACES), "caption": _CAPTIONS}
        meta, schema = read_columns(url, (uid, "key", *_PLACES, *_CAPTIONS, *WIDTH_COLUMNS, *HEIGHT_COLUMNS), once)
        faults = Faults(len(meta))
        names = brought_uids(meta, schema, None if self.uid == "auto" else self.uid, faults, url)
        caption = next((name for name in _CAPTIONS if name in schema.names), None)
        if caption is not None:
            need_text(schema, caption, "caption", url)
        captions = captions_of(meta, caption, faults, url)
        if self.uid == "auto":
            _hash_places(meta, names, captions)
        unnamed = ~names.known & (self.uid == "auto")
        images = self.companions(url)[0]
        stored = hashed_vectors(partial(npy_blocks, images), images.rpartition("/")[2], faults, unnamed, url)
        names.hash(stored, unnamed, captions, BY_VECTOR)
        return row_table(meta, names, captions, faults)

    def blocks(self, url: str, encoder: str, tower: Tower) -> AbstractContextManager[Blocks]:
        """The vectors as they are stored, block by block; raises as `vectors` does."""
        known_encoder(encoder, self.encoders(), url)
        if tower == "text" and not self.text:
            raise JobError(f"{url}: the pool must have text vectors for this job, but pool.text is false")
        return npy_blocks(self.companions(url)[0 if tower == "image" else 1])

    def others(self, head: Head, kinds: Collection[str]) -> Iterator[Mapping[str, object]]:
        """See Reader.others: uids by content, for rows whose column has no uid."""
        return options.choices(kinds, (), ())


def _hash_places(meta: pa.Table, names: RowUids, captions: pa.ChunkedArray) -> None:
    """Name rows by their url and caption, or by their image_path and caption, because many rows share a caption."""
    for column in _PLACES:
        if column not in meta.column_names:
            continue
        places = text_of(meta[column])[0].cast(pa.binary())
        filled = ~names.known & pc.fill_null(pc.greater(pc.binary_length(places), 0), False).to_numpy()
        names.hash(places.filter(pa.array(filled)).to_pylist(), filled, captions, f"a hash of {column} and caption")
