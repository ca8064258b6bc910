"""A finished job of a store, for Python: its counts, manifest, kept uids and samples. Only reads files.

It imports neither Ray nor torch nor faiss, like the loader, because a training machine may lack them.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from winnow.jobs import loader
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_table
from winnow.pipeline.storage.urls import is_local
from winnow.stages.results.record import record_of

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset
    from webdataset import DataPipeline

_UIDS = "uids.npy"


@dataclass(frozen=True)
class FinishedJob:
    """A finished job.

    store: absolute URL. name: of the job. counts: pool, kept, dropped by cut, rejected by kind. artifacts: URL of each
    stage's folder, by label. job: the resolved job as plain values.
    """

    store: str
    name: str
    counts: Mapping[str, Any]
    artifacts: Mapping[str, str]
    job: Mapping[str, Any]

    def manifest(self) -> "Dataset":
        """The verdict on every sample of the pool, as `dataset` gives it; in memory about 100 bytes per sample."""
        return self.dataset("manifest")

    def files(self, label: str) -> list[str]:
        """URLs of the parquet files of one stage, in the order of the shards. Raises KeyError for an unknown label.

        The samples and vectors of a pool that has grown lie in the folders of several artifacts; this list has them
        all.
        """
        made = Artifact.named(self.store, storage.name_of(self.artifacts[label]))
        if (known := made.shard_files) is not None:
            return [storage.join(self.store, file) for file in known.files.to_pylist()]
        return sorted(found.url for found in storage.listing(made.folder) if found.url.endswith(".parquet"))

    def dataset(self, label: str) -> "Dataset":
        """The tables of one stage, such as `samples`: a pyarrow dataset with the columns of docs/formats.md.

        Local files are read lazily. Files in an object store are read now, in this thread, into memory. If that is too
        much, give `files(label)` to DuckDB or polars.
        """
        # An Arrow thread that still holds a buffer of a Python file aborts the process as it exits
        # (pipeline/parquet_file.py), so no Arrow thread may get such a buffer. Arrow opens local files itself, in C++;
        # tables from other storages are read here, before the dataset is made of them.
        from pyarrow.dataset import dataset

        files = self.files(label)
        if is_local(self.store):
            return dataset(files, format="parquet")
        return dataset([read_table(url) for url in files])

    def kept_uids(self) -> np.ndarray:
        """Sorted uids of the kept samples: (kept,) of dtype u8,u8 (high and low 64 bits), DataComp's subset format."""
        content = storage.read_bytes(f"{self.artifacts['manifest']}.meta/{_UIDS}")
        return cast(np.ndarray, np.load(io.BytesIO(content), allow_pickle=False))

    def samples(
        self, *, epoch: int | None = None, shuffle: int | None = None, gap_bytes: int | None = None
    ) -> "DataPipeline":
        """The kept samples with their images, as a webdataset pipeline; see `winnow.samples`."""
        return loader.samples(self.store, self.name, epoch=epoch, shuffle=shuffle, gap_bytes=gap_bytes)


def open(store: str, name: str) -> FinishedJob:
    """The finished job `name` of a store. Raises JobError if the store has no such job."""
    store = storage.rooted(store).rstrip("/")
    record = record_of(store, name)
    folders = {label: storage.join(store, folder) for label, folder in record["artifacts"].items()}
    return FinishedJob(store, name, record["counts"], folders, record["job"])
