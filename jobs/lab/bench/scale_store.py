"""The store of a finished job of many shards for bench-scale: all file names are there, and nearly all files are empty.

The driver lists names and sizes, so empty files do. The first shards have a real summary, for workers read some.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from winnow.jobs.job_file.job import parse
from winnow.jobs.run import job_url
from winnow.pipeline.adoption import PARTS
from winnow.pipeline.artifact import Artifact, shard_name, write_json, write_table
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run, Summary, execute
from winnow.pipeline.storage import Identity, identify
from winnow.pipeline.store.shard_files import FILES, ShardFiles
from winnow.pipeline.uid import UID
from winnow.stages.pools.pool import PoolStage
from winnow.stages.results.manifest import UIDS
from winnow.stages.results.shards import SHARD_SIZES

NAME, RECIPE = "scale", "0" * 16
SAMPLES_PER_SHARD = 10_000

_SUMMED_UP = ("distinct", "manifest")  # their files are links to those of the samples


def summary(rows: int) -> Summary:
    """A summary such as the manifest's, the longest that a shard has."""
    dropped = dict.fromkeys(("rules", "duplicates", "similarity", "density"), rows // 9)
    rejected = {"image-decode": 7, "no-image": 2}
    return {"rows": rows, "in": rows, "kept": rows // 3, "dropped": dropped, "rejected": rejected, "rejects": {}}


@dataclass(frozen=True)
class FilledStore:
    """url: of the store. shards: its input shards, which are the files of its samples. samples: that artifact."""

    url: str
    shards: tuple[Identity, ...]
    samples: Artifact

    @classmethod
    def make(cls, folder: Path, shards: int, rows: int, real: int) -> "FilledStore":
        """Write it. rows: of a shard. real: shards that have a summary."""
        store = str(folder.resolve())
        made = {label: Artifact(store, label, "0" * 16) for label in ("samples", *_SUMMED_UP, "shards")}
        samples = made["samples"]
        write_table(samples.shard(0), pa.table({"row": [0]}), summary(rows))
        for index in range(1, min(real, shards)):
            shutil.copyfile(samples.shard(0), samples.shard(index))
        os.makedirs(made["shards"].folder)
        tars = -(-shards * (rows // 3) // SAMPLES_PER_SHARD)
        names = [samples.shard(index) for index in range(min(real, shards), shards)]
        for url in (*names, *(made["shards"].file(_tar_name(index)) for index in range(tars))):
            os.close(os.open(url, os.O_CREAT | os.O_WRONLY))
        for label in _SUMMED_UP:
            os.symlink(samples.folder, made[label].folder)
        # the tars hold nothing, but there are as many as planned, and each has its size
        write_json(made["shards"].meta(SHARD_SIZES), dict.fromkeys(map(_tar_name, range(tars)), SAMPLES_PER_SHARD))
        os.makedirs(made["manifest"].meta_folder)
        _uids(made["manifest"].meta(UIDS), shards * (rows // 3))
        identities = tuple(identify([samples.shard(index) for index in range(shards)]))
        parts = {"recipe": RECIPE, "parts": [fingerprint(shard, digits=32) for shard in identities]}
        write_json(samples.meta(PARTS), parts)
        ShardFiles.of([f"{samples.name}/{shard_name(index)}" for index in range(shards)]).commit(samples.meta(FILES))
        for artifact in made.values():
            artifact.finish({"seconds": 1.0, "rows": shards * rows, "files": artifact.weight({})})
        made["pool"] = execute(PoolStage(identities), Run(store, LocalExecutor(1), identities)).artifact
        _record(store, made, shards * rows, shards * (rows // 3))
        return cls(store, identities, samples)


def _tar_name(index: int) -> str:
    return shard_name(index, ".tar")


def _uids(url: str, entries: int) -> None:
    """A .npy of so many uids that takes no room on the disk."""
    with open(url, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(UID), "fortran_order": False, "shape": (entries,)}
        )
        file.truncate(file.tell() + entries * UID.itemsize)


def _record(store: str, made: dict[str, Artifact], pool: int, kept: int) -> None:
    values = {
        "name": NAME,
        "store": store,
        "pool": {"shards": f"{made['samples'].folder}/*.parquet"},
        "policy": [],
        "shards": {"samples_per_shard": SAMPLES_PER_SHARD},
    }
    labels = ("pool", "samples", "distinct", "manifest", "shards")
    record = {
        "name": NAME,
        "artifacts": {label: made[label].name for label in labels},
        "counts": {"pool": pool, "kept": kept, "dropped": {}, "rejected": {}},
        "seconds": dict.fromkeys(labels, 1.0),
        "versions": {},
        "job": parse(values).resolved,
    }
    write_json(job_url(store, NAME), record)
