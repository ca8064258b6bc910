"""A field of the pool or a computed column as cuts and results read it: typed values beside the samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import DataError
from winnow.pipeline.fingerprint import IF_GIVEN

FIELD = "field"
"""The name of the stage that makes one, and the first part of its label."""

VALUE = "value"
"""The column of a field's files."""

KINDS = {str(kind): kind for kind in (pa.null(), pa.bool_(), pa.int64(), pa.float64(), pa.string())}
"""The types of a field by the names that summaries and reports have."""


@dataclass(frozen=True)
class Field:
    """A field as a cut reads it: row i of its file is row i of the samples file of the same shard.

    column: of the files of `made`, which may hold several.
    """

    name: str
    made: Artifact
    column: str = field(default=VALUE, metadata=IF_GIVEN)

    @property
    def label(self) -> str:
        """What records and the manifest call it: `field.NAME` for one of the pool, `column.NAME` for a computed one."""
        return f"{self.made.stage}.{self.name}"

    def read(self, index: int) -> pa.ChunkedArray:
        """The value of every row of shard `index`, null where there is none."""
        return self.made.read(index, [self.column])[self.column]

    def kind(self) -> pa.DataType:
        """Its type in all shards: bool, int64, float64, string, or null if no sample has a value."""
        done = self.made.done()
        if done is None:
            raise DataError(f"{self.made.name} must be finished before field {self.name} is used; run the job again")
        types = cast(Mapping[str, str], done.get("types", {VALUE: done.get("type")}))
        return KINDS[types[self.column]]
