"""The checkpoint of k-means: its progress every few iterations, so that a killed fit goes on from there."""

from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_table, summary_of, write_table
from winnow.pipeline.columns import matrix, vector_column
from winnow.pipeline.errors import StorageError, TornError
from winnow.stages.kernels.kmeans import Progress

_EVERY = 5  # iterations: of the usual 100, a twentieth is done again


@dataclass(frozen=True)
class Checkpoint:
    """The file of a clusters artifact that holds the progress of its k-means while that is not done."""

    out: Artifact

    @property
    def _url(self) -> str:
        return self.out.meta("checkpoint.parquet")

    def read(self) -> Progress | None:
        """The progress of an earlier fit; None if there is none, or its file is damaged."""
        if not storage.exists(self._url):
            return None
        try:
            table = read_table(self._url, ["vector"])
        except TornError:
            return None
        summary = summary_of(table)
        done, objective = cast(int, summary["iterations"]), cast(float, summary["objective"])
        return Progress(done, objective, np.ascontiguousarray(matrix(table["vector"])))

    def keep(self, progress: Progress) -> None:
        """Commit the progress where its number of iterations is a multiple of five; see `fit`."""
        if progress.iterations % _EVERY == 0:
            summary = {"iterations": progress.iterations, "objective": progress.objective}
            write_table(self._url, pa.table({"vector": vector_column(progress.centroids)}), summary)

    def remove(self) -> None:
        """Remove the file; where the store does not allow that, it stays and does no harm."""
        with suppress(StorageError):
            storage.remove([self._url])
