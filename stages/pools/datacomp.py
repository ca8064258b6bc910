"""The pool format `datacomp`: metadata parquet and npz files, read in place."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from winnow.pipeline.errors import JobError, PoolError
from winnow.stages.pools.columns import need_column, need_text
from winnow.stages.pools.precomputed.blocks import Blocks
from winnow.stages.pools.precomputed.npy_files import npz_blocks
from winnow.stages.pools.precomputed.rows import (
    HEIGHT_COLUMNS,
    WIDTH_COLUMNS,
    Faults,
    brought_uids,
    captions_of,
    known_encoder,
    read_columns,
    row_table,
)
from winnow.stages.pools.reader import Reader, Tower
from winnow.stages.pools.sample import Reject

_TOWERS = {"image": "img", "text": "txt"}


@dataclass(frozen=True)
class Datacomp(Reader):
    """A pool of `{root}.parquet` with `{root}.npz`, row by row (Gadre et al. 2023). The shard is the parquet file.

    use: the encoders that the pool offers to cuts. Only the vectors of those that a cut names are read.
    Raises JobError for an encoder that DataComp does not have.
    """

    use: tuple[str, ...] = ("b32", "l14")
    kind: ClassVar[str] = "datacomp"
    suffix: ClassVar[str] = ".parquet"
    movable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.use, str) or not self.use or not set(self.use) <= {"b32", "l14"}:
            raise JobError(f"pool.use must be a list of b32 and l14, got {self.use!r}")
        object.__setattr__(self, "use", tuple(self.use))

    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders whose vectors the pool offers."""
        return self.use

    @property
    def has_text(self) -> bool:
        """Always True."""
        return True

    def companions(self, url: str) -> list[str]:
        """The npz beside the parquet."""
        if not url.endswith(".parquet"):
            raise PoolError(f"a datacomp shard must be named ….parquet, got {url}")
        return [url.removesuffix(".parquet") + ".npz"]

    def rows(self, url: str) -> tuple[pa.Table, list[Reject]]:
        """Table (schema precomputed.ROWS) of the readable rows, and a reject for each of the others.

        Kinds: no-uid, no-caption, caption-not-utf8; by `checked` also vector-not-finite and vector-zero.
        Raises PoolError for missing columns.
        """
        once = {"uid": ("uid",), "caption": ("text",)}
        meta, schema = read_columns(url, ("uid", "text", "url", *WIDTH_COLUMNS, *HEIGHT_COLUMNS), once)
        need_column(schema, ("uid",), "uid", url)
        need_text(schema, need_column(schema, ("text",), "caption", url), "caption", url)
        faults = Faults(len(meta))
        names = brought_uids(meta, schema, None, faults, url)
        faults.mark(~names.known, "no-uid", "a uid must be 32 hex digits, but uid is not")
        captions = captions_of(meta, "text", faults, url)
        return row_table(meta, names, captions, faults)

    def blocks(self, url: str, encoder: str, tower: Tower) -> AbstractContextManager[Blocks]:
        """The vectors as they are stored, block by block; raises as `vectors` does."""
        known_encoder(encoder, self.use, url)
        [archive] = self.companions(url)
        return npz_blocks(archive, f"{encoder}_{_TOWERS[tower]}")
