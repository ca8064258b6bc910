"""What a cut leaves that draws another sample for each epoch of training: the epochs of each row, and their size.

A cut says that it does by `draws_epochs`. Its files then have the column `epochs`, list<int32> with the epochs that
have the row, and its report has `drawn_report`. The loader reads these alone, so it needs no package of the cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow.compute as pc

from winnow.pipeline.artifact import Artifact

EPOCHS = "epochs"
"""The column, and the number of epochs in the report."""

_SIZE = "asked"


def drawn_report(epochs: int, size: int) -> Mapping[str, int]:
    """What the report of the stage must have. epochs: how many it drew. size: samples of each, with repeats."""
    return {_SIZE: size, EPOCHS: epochs}


def drawn_rows(artifact: Artifact, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and epoch of everything that was drawn of one shard: (m,) each, the rows ascending."""
    lists = artifact.read(index, [EPOCHS])[EPOCHS].combine_chunks()
    return np.asarray(pc.list_parent_indices(lists)), np.asarray(lists.flatten())


@dataclass(frozen=True)
class Drawn:
    """The epochs of a finished cut. artifact: of the cut. epochs: how many it drew. size: samples of each."""

    artifact: Artifact
    epochs: int
    size: int

    @classmethod
    def of(cls, artifact: Artifact) -> "Drawn | None":
        """Those of an artifact, None where it has no epochs; reads its `_done.json`."""
        report = cast(Mapping[str, int], artifact.done() or {})
        if not {EPOCHS, _SIZE} <= report.keys():
            return None
        return cls(artifact, report[EPOCHS], report[_SIZE])

    def times(self, index: int, epoch: int, n: int) -> np.ndarray:
        """How often the epoch has each of the n rows of a shard: int64 (n,)."""
        rows, epochs = drawn_rows(self.artifact, index)
        return np.bincount(rows[epochs == epoch], minlength=n)
