"""Reads columns of the samples that earlier cuts kept.

Row i of a cut's file is row i of the samples file of the same shard, and of each encoder's vectors, so a join is plain
indexing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, matrix
from winnow.pipeline.errors import AccountingError, JobError
from winnow.pipeline.uid import uids_of
from winnow.stages.kernels.float16 import widened
from winnow.stages.pool_field import Field
from winnow.stages.pools.fields import json_values
from winnow.stages.pools.precomputed.blocks import unit_parts
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import NOT_DOWNLOADED
from winnow.stages.pools.unchanged import check_unchanged
from winnow.stages.vectors import Vectors

Tower = Literal["image", "text"]

SIMILARITY = "similarity"
"""Column of an encoder's vectors: the cosine of image and text."""

_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Survivors:
    """The samples that a cut sees, and their columns.

    samples: artifact with one row for each readable sample. last: artifact of the cut before (column `kept`), None for
    the first cut. encoded: for each encoder that the job has or a cut names, the artifact of its vectors, row by row
    beside the samples. embedders: the stages that made them, for cuts that embed other images in the same way; none if
    the vectors came with the pool. Vectors are read from these artifacts, or in place from such a pool.
    fields: of the pool, and computed columns, as the job names them. A stage that uses one has it as a field of its
    own, so that one that it does not use is not in its fingerprint.
    """

    samples: Artifact
    last: Artifact | None
    reader: Reader
    encoded: tuple[tuple[str, Artifact], ...] = ()
    embedders: tuple[tuple[str, Vectors], ...] = field(default=(), metadata={"fingerprint": False})
    fields: tuple[Field, ...] = field(default=(), metadata={"fingerprint": False})

    @property
    def source(self) -> Artifact:
        """The artifact whose report has the count of these samples."""
        return self.last or self.samples

    def count(self) -> int:
        """The number of samples that are still in."""
        return cast(int, self._report(self.source)["kept"])

    def pool_count(self) -> int:
        """The number of samples of the pool, including rejects; links that were never downloaded do not count."""
        report = self._report(self.samples)
        dead = cast(Mapping[str, int], report["rejects"]).get(NOT_DOWNLOADED, 0)
        return cast(int, report["kept"]) + cast(int, report["rejected"]) - dead

    def _report(self, artifact: Artifact) -> Mapping[str, object]:
        report = artifact.done()
        if report is None:
            raise AccountingError(f"{artifact.name} must be finished before it is counted; run the stages in order")
        return report

    def mask(self, index: int) -> np.ndarray:
        """Which rows of shard `index` are still in: bool (n,)."""
        if self.last is None:
            return np.ones(self.samples.read(index, ["position"]).num_rows, bool)
        return column(self.last.read(index, ["kept"]), "kept")

    def table(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Columns of every row of shard `index`, including rows that earlier cuts dropped."""
        return self.samples.read(index, columns)

    def said(self, index: int, url: str, name: str) -> list[object]:
        """What the pool says of every row of shard `index` under this name, such as its url; None where it does not.

        If the samples file has no such column, the samples are read again from the shard: the json of each in a tar, or
        the column of a parquet file. Raises ShardError if the shard has changed.
        """
        there = self.samples.columns(index)
        if name in there:
            return cast(list[object], self.table(index, [name])[name].to_pylist())
        places = self.table(index, self.reader.place_columns(there))
        if not len(places):
            return []
        check_unchanged(self.samples, index, url, self.reader)
        found = self.reader.fields(url, places, [name])
        return list(json_values(found[name])) if name in found else [None] * len(places)

    def uids(self, index: int) -> np.ndarray:
        """uids of every row of shard `index`, dtype UID."""
        return uids_of(self.samples.read(index, ["uid"])["uid"])

    def encoder(self, name: str) -> Artifact:
        """The artifact of an encoder's vectors."""
        found = dict(self.encoded).get(name)
        if found is None:
            there = ", ".join(each for each, _ in self.encoded) or "none"
            raise JobError(f"a cut must name every encoder that it reads in `encoders`, got {name!r}; named: {there}")
        return found

    def similarity(self, index: int, name: str) -> np.ndarray | None:
        """Image-text cosine of every row of shard `index`: float32 (n,) in [-1, 1]; None if the encoder has no text."""
        made = self.encoder(name)
        return column(made.read(index, [SIMILARITY]), SIMILARITY) if SIMILARITY in made.columns(index) else None

    def field_named(self, name: str) -> Field:
        """The field or computed column that the job calls `name`. Raises JobError if there is none."""
        known = {field.name: field for field in self.fields}
        if name not in known:
            there = ", ".join(known) or "nothing"
            raise JobError(f"pool.fields or columns must have {name}, but they have {there}; add it there")
        return known[name]

    def vectors(self, index: int, url: str, name: str, tower: Tower, rows: np.ndarray) -> np.ndarray:
        """Unit vectors of encoder `name` for row numbers `rows` (m,): float16 (m, d); d is the pool's if m = 0."""
        if not self.reader.has_images:
            if not len(rows):  # an empty shard may have no width of its own
                return np.empty((0, cast(int, self._report(self.encoder(name))["width"])), np.float16)
            return self.reader.vectors(url, name, tower, self._positions(index, url, rows))
        found: np.ndarray = matrix(self.encoder(name).read(index, [tower]).column(0))[rows]
        return found

    def _positions(self, index: int, url: str, rows: np.ndarray) -> np.ndarray:
        """Positions of these rows in their shard; raises ShardError if the shard has changed."""
        check_unchanged(self.samples, index, url, self.reader)
        found: np.ndarray = column(self.samples.read(index, ["position"]), "position")[rows]
        return found

    def blocks(self, index: int, url: str, name: str, tower: Tower, rows: np.ndarray) -> Iterator[np.ndarray]:
        """`vectors` of ascending rows in parts, widened to float32. Parts share one buffer, which the next fills."""
        if not len(rows):
            return
        if not self.reader.has_images:
            positions = self._positions(index, url, rows)
            with self.reader.blocks(url, name, tower) as stored:
                for _, part in unit_parts(stored, positions, url):
                    yield part
            return
        vectors = self.vectors(index, url, name, tower, rows)
        wide = np.empty((min(len(rows), _BLOCK_ROWS), vectors.shape[1]), np.float32)
        for start in range(0, len(rows), _BLOCK_ROWS):
            yield widened(vectors[start : start + _BLOCK_ROWS], wide)
