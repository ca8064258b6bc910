"""The samples that are still in after the cuts so far, by columns; reads artifacts, writes nothing.

Files of every cut lie row by row beside the embeddings file of the same shard, so a join is an index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import pyarrow as pa

from pipeline.artifact import Artifact
from pipeline.columns import column, matrix
from pipeline.errors import AccountingError
from pipeline.uid import uids_from_bytes
from stages.formats import Reader, VectorReader

Tower = Literal["image", "text"]


@dataclass(frozen=True)
class Survivors:
    """Where the rows that a cut sees come from.

    embeddings: one row per readable sample. last: the artifact of the cut before (column `kept`), None at first.
    vectors are read from the embeddings files, or in place from the pool where they were precomputed.
    """

    embeddings: Artifact
    last: Artifact | None
    reader: Reader

    @property
    def source(self) -> Artifact:
        """The artifact whose report counts these rows."""
        return self.last or self.embeddings

    def count(self) -> int:
        """How many samples are still in."""
        return cast(int, self._report(self.source)["kept"])

    def pool_count(self) -> int:
        """How many samples the pool has, rejected ones as well."""
        report = self._report(self.embeddings)
        return cast(int, report["kept"]) + cast(int, report["rejected"])

    def _report(self, artifact: Artifact) -> Mapping[str, object]:
        report = artifact.done()
        if report is None:
            raise AccountingError(f"{artifact.name} must be finished before it is counted; run the stages in order")
        return report

    def mask(self, index: int) -> np.ndarray:
        """Which rows of shard `index` are still in: bool (n,)."""
        if self.last is None:
            return np.ones(self.embeddings.read(index, ["position"]).num_rows, bool)
        return column(self.last.read(index, ["kept"]), "kept")

    def table(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Columns of every row of shard `index`, those that are out as well."""
        return self.embeddings.read(index, columns)

    def uids(self, index: int) -> np.ndarray:
        """uids of every row of shard `index`, dtype UID."""
        return uids_from_bytes(self.embeddings.read(index, ["uid"])["uid"])

    def vectors(self, index: int, url: str, name: str, tower: Tower, rows: np.ndarray) -> np.ndarray:
        """Unit vectors of encoder `name` for row numbers `rows` (m,): float16 (m, d)."""
        if isinstance(self.reader, VectorReader):
            positions = column(self.embeddings.read(index, ["position"]), "position")[rows]
            return self.reader.vectors(url, name, tower, positions)
        vectors = self.embeddings.read(index, [f"{name}.{tower}"]).column(0)
        found: np.ndarray = matrix(vectors)[rows]
        return found
