"""The value and the group of every sample, by which a cut keeps the highest of each group."""

from collections.abc import Mapping
from typing import Protocol

import pyarrow as pa

from winnow.pipeline.keep_top import Rows
from winnow.pipeline.stage import ShardItem
from winnow.stages.survivors import Survivors


class Source(Protocol):
    """The values and groups of a cut, shard by shard; picklable."""

    @property
    def survivors(self) -> Survivors:
        """The samples that the cut sees."""
        ...

    def rows(self, item: ShardItem) -> Rows:
        """Value, group and uid of every row of the shard; group -1 for rows that cannot stay."""
        ...

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """The columns of the manifest for each row of the shard, null for rows that were out already."""
        ...
