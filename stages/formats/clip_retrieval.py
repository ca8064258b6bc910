"""Reads clip-retrieval's metadata parquet and npy files in place; refuses files whose rows do not match."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float16, Int64

from pipeline.errors import JobError, PoolError, ShardError
from stages.formats.columns import uids_of
from stages.formats.precomputed import (
    Faults,
    captions_of,
    hashed_uids,
    known_encoder,
    read_columns,
    row_table,
)
from stages.formats.sample import Reject
from stages.formats.vector_blocks import Blocks, npy_blocks, squared_norms, unit_rows

_SHARD = re.compile(r"(?P<root>(?:.*/)?)metadata/metadata_(?P<number>[^/]+)\.parquet")
_CAPTIONS = ("caption", "TEXT", "text")
_WIDTHS = ("original_width", "width", "WIDTH")
_HEIGHTS = ("original_height", "height", "HEIGHT")


@dataclass(frozen=True)
class ClipRetrieval:
    """A pool of `metadata/metadata_N.parquet` with `img_emb/img_emb_N.npy` and `text_emb/text_emb_N.npy`.

    The shard is the parquet. A uid is the column `uid` where that is 32 hex digits, else xxh3-128 of url and
    caption. The caption is the first column there is of caption, TEXT, text; "" where there is none.

    encoder: what this job calls the model that made the vectors.
    text: False for a pool without text_emb.
    Raises JobError for an empty name.
    """

    encoder: str = "clip"
    text: bool = True

    def __post_init__(self) -> None:
        if not self.encoder:
            raise JobError("pool.encoder must name the model of the vectors, but an empty name came")

    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders whose vectors the pool offers: one."""
        return (self.encoder,)

    def companions(self, url: str) -> list[str]:
        """The npy files of the shard: image vectors, then text vectors."""
        shard = _SHARD.fullmatch(url)
        if shard is None:
            raise PoolError(f"a clip-retrieval shard must be named …/metadata/metadata_N.parquet, but {url} came")
        folders = ("img_emb", "text_emb") if self.text else ("img_emb",)
        return [f"{shard['root']}{folder}/{folder}_{shard['number']}.npy" for folder in folders]

    def rows(self, url: str) -> tuple[pa.Table, list[Reject]]:
        """Table (schema precomputed.ROWS) of the readable rows, and a reject for each of the others.

        Kinds: no-caption, caption-not-utf8, vector-not-finite, vector-zero.
        Raises ShardError when the files do not match.
        """
        meta, _ = read_columns(url, ("uid", "key", "url", *_CAPTIONS, *_WIDTHS, *_HEIGHTS))
        faults = Faults(len(meta))
        caption = next((name for name in _CAPTIONS if name in meta.column_names), None)
        captions = captions_of(meta, caption, faults, url)
        widths = [self._mark(array, faults) for array in self.companions(url)]
        if len(set(widths)) > 1:
            raise ShardError(f"{url}: image and text vectors must be as wide, but are {widths}")
        return row_table(meta, self._uids(meta, captions), captions, faults, (_WIDTHS, _HEIGHTS))

    def vectors(
        self,
        url: str,
        encoder: str,
        tower: Literal["image", "text"],
        positions: Int64[np.ndarray, "n"] | None,
    ) -> Float16[np.ndarray, "n d"]:
        """Unit vectors of the rows at `positions` (None: of every row), in their order.

        Raises JobError for an encoder or tower the pool has not, DataError for rows that are rejects,
        ShardError for a broken file.
        """
        with self.blocks(url, encoder, tower) as blocks:
            return unit_rows(blocks, positions, url)

    def blocks(self, url: str, encoder: str, tower: Literal["image", "text"]) -> AbstractContextManager[Blocks]:
        """The vectors as they are stored, block by block; raises as `vectors` does."""
        known_encoder(encoder, self.encoders(), url)
        if tower == "text" and not self.text:
            raise JobError(f"{url}: the pool must have text vectors for this job, but pool.text is false")
        return npy_blocks(self.companions(url)[0 if tower == "image" else 1])

    def _uids(self, meta: pa.Table, captions: pa.ChunkedArray) -> np.ndarray:
        if "uid" in meta.column_names:
            uids, known = uids_of(meta["uid"])
        else:
            uids, known = np.zeros((len(meta), 16), np.uint8), np.zeros(len(meta), bool)
        urls = [b""] * int((~known).sum())
        if "url" in meta.column_names:
            links = meta["url"].filter(pa.array(~known)).cast(pa.string()).cast(pa.binary())
            urls = [link or b"" for link in links.to_pylist()]
        return hashed_uids(uids, known, urls, captions)

    def _mark(self, array: str, faults: Faults) -> int:
        with npy_blocks(array) as blocks:
            faults.mark_norms(squared_norms(blocks), array, array.rpartition("/")[2])
            return blocks.width
