"""A field of the pool as cuts and results read it: typed values beside the rows of the samples."""

from dataclasses import dataclass
from typing import cast

import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import DataError

FIELD = "field"
"""The name of the stage that makes one, and the first part of its label."""

VALUE = "value"
"""The column of a field's files."""

KINDS = {str(kind): kind for kind in (pa.null(), pa.bool_(), pa.int64(), pa.float64(), pa.string())}
"""The types of a field by the names that summaries and reports have."""


@dataclass(frozen=True)
class Field:
    """A field as a cut reads it: row i of its file is row i of the samples file of the same shard."""

    name: str
    made: Artifact

    def read(self, index: int) -> pa.ChunkedArray:
        """The value of every row of shard `index`, null where the pool has none."""
        return self.made.read(index, [VALUE])[VALUE]

    def kind(self) -> pa.DataType:
        """Its type in all shards: bool, int64, float64, string, or null if no sample has a value."""
        done = self.made.done()
        if done is None:
            raise DataError(f"{self.made.name} must be finished before field {self.name} is used; run the job again")
        return KINDS[cast(str, done["type"])]
