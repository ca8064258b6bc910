"""Results of a cut that draws another sample for each epoch of training: the epochs of each row, and their size.

Such a cut sets `draws_epochs`. Its files have the column `epochs`, list<int32> with the epochs that contain the row,
and its report has `drawn_report`. The loader reads only these, so it does not need the package of the cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow.compute as pc

from winnow.pipeline.artifact import Artifact

EPOCHS = "epochs"
"""Name of the column, and of the report's entry with the number of epochs."""

_SIZE = "asked"


def drawn_report(epochs: int, size: int) -> Mapping[str, int]:
    """Entries that the report of the stage must have. epochs: number of epochs. size: samples of each, with repeats."""
    return {_SIZE: size, EPOCHS: epochs}


def drawn_rows(artifact: Artifact, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and epoch of every draw from one shard: (m,) each, the rows ascending."""
    lists = artifact.read(index, [EPOCHS])[EPOCHS].combine_chunks()
    return np.asarray(pc.list_parent_indices(lists)), np.asarray(lists.flatten())


@dataclass(frozen=True)
class Drawn:
    """The epochs of a finished cut. artifact: that of the cut. epochs: their number. size: samples of each."""

    artifact: Artifact
    epochs: int
    size: int

    @classmethod
    def of(cls, artifact: Artifact) -> "Drawn | None":
        """The epochs of an artifact, None if it has none. Reads its `_done.json`."""
        report = cast(Mapping[str, int], artifact.done() or {})
        if not {EPOCHS, _SIZE} <= report.keys():
            return None
        return cls(artifact, report[EPOCHS], report[_SIZE])

    def times(self, index: int, epoch: int, n: int) -> np.ndarray:
        """How often the epoch has each of the n rows of a shard: int64 (n,)."""
        rows, epochs = drawn_rows(self.artifact, index)
        return np.bincount(rows[epochs == epoch], minlength=n)
