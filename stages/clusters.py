"""Leaves `clusters-…/`: centroids.npy, and for every sample that is still in its nearest one and the distance to it."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.artifact import Artifact, read_table, shard_name, write_table
from pipeline.columns import column, matrix, vector_column
from pipeline.errors import DataError
from pipeline.keep_top import Thresholds, kept
from pipeline.stage import Run, ShardItem, Summary, total
from pipeline.uid import uids_from_bytes, uids_to_bytes
from stages.cut import select
from stages.kmeans import assign, fit
from stages.survivors import Survivors
from stages.uid_hash import UidHash

CENTROIDS = "centroids.npy"


@dataclass(frozen=True)
class Clusters:
    """Spherical k-means of the image vectors of what is still in.

    by: encoder. k: number of clusters. sample_per_cluster: the fit sees min(n, k times this) samples, drawn
    uniformly by a hash of the uid (faiss's own default is 256). The same samples give the same centroids whatever
    the sharding: they are put in the order of their uids first.
    """

    survivors: Survivors
    by: str
    k: int
    iterations: int
    sample_per_cluster: int
    seed: int
    name: ClassVar[str] = "clusters"
    version: ClassVar[int] = 1

    def run(self, run: Run, out: Artifact) -> Summary:
        """Sample, fit on one worker, assign on all."""
        n = self.survivors.count()
        if self.k > n:
            raise DataError(
                f"k-means needs a sample per cluster, but {self.k} clusters were asked of the {n} samples that are "
                f"still in; ask for fewer clusters, or keep more before this cut"
            )
        wanted = min(n, self.k * self.sample_per_cluster)
        source = UidHash(self.survivors, self.seed)
        if not storage.exists(out.file(CENTROIDS)):
            drawn = select(run, source, np.array([wanted], np.int64), "clusters: draw a sample")
            for _ in run.each(_Draw(self, source, drawn, out), run.items, "clusters: read the sample"):
                pass
            for _ in run.each(_Fit(self, len(run.items), wanted, out), [0], f"clusters: k-means, k = {self.k}"):
                pass
        summaries = run.fill(_Assign(self, out), out, "clusters: assign")
        sizes = cluster_sizes(summaries, self.k)
        return {
            "rows": total(summaries, "rows"),
            "sample": wanted,
            "empty": int((sizes == 0).sum()),
            "largest": int(sizes.max()),
            "median": float(np.median(sizes)),
        }


def cluster_sizes(summaries: Sequence[Summary], k: int) -> np.ndarray:
    """Members of every cluster over all shards of a clusters artifact: int64 (k,)."""
    sizes = np.zeros(k, np.int64)
    for summary in summaries:
        counts = cast(dict[str, int], summary["sizes"])
        np.add.at(sizes, np.array([*counts], np.int64), np.array([*counts.values()], np.int64))
    return sizes


def read_centroids(out: Artifact) -> np.ndarray:
    """Centroids of a clusters artifact: float32 (k, d), unit norm."""
    return cast(np.ndarray, np.load(io.BytesIO(storage.read_bytes(out.file(CENTROIDS))), allow_pickle=False))


def _sample_url(out: Artifact, index: int) -> str:
    return out.file(f"sample/{shard_name(index)}")


@dataclass(frozen=True)
class _Draw:
    """Commits the sampled rows of one shard: uid and vector."""

    stage: Clusters
    source: UidHash
    drawn: Thresholds
    out: Artifact

    def open(self) -> None:
        return None

    def run(self, state: None, item: ShardItem) -> Summary:
        chosen = np.flatnonzero(kept(self.source.rows(item), self.drawn))
        vectors = self.stage.survivors.vectors(item.index, item.url, self.stage.by, "image", chosen)
        uids = uids_to_bytes(self.stage.survivors.uids(item.index)[chosen])
        write_table(_sample_url(self.out, item.index), pa.table({"uid": uids, "vector": vector_column(vectors)}))
        return {"rows": len(chosen)}


@dataclass(frozen=True)
class _Fit:
    """Commits centroids.npy from the samples of all shards; one worker holds 6 d bytes per sample."""

    stage: Clusters
    shards: int
    wanted: int
    out: Artifact

    def open(self) -> None:
        return None

    def run(self, state: None, item: int) -> Summary:
        tables = [read_table(_sample_url(self.out, index)) for index in range(self.shards)]
        sample = pa.concat_tables([table for table in tables if table.num_rows])
        if sample.num_rows != self.wanted:
            raise DataError(
                f"{self.out.folder}/sample must hold {self.wanted} rows, but has {sample.num_rows}; delete that "
                f"folder and run again"
            )
        order = np.argsort(uids_from_bytes(sample["uid"]), kind="stable")
        vectors = matrix(sample["vector"])[order]
        # nothing else runs during a fit, and the bits do not depend on threads: take every core of this machine
        stage, cores = self.stage, os.cpu_count() or 1
        centroids = fit(vectors, stage.k, iterations=stage.iterations, seed=stage.seed, threads=cores)
        content = io.BytesIO()
        np.save(content, centroids)
        storage.write_bytes(self.out.file(CENTROIDS), content.getvalue())
        return {"rows": len(vectors)}


@dataclass(frozen=True)
class _Assign:
    """Commits row, cluster and distance of every sample of one shard that is still in."""

    stage: Clusters
    out: Artifact

    def open(self) -> np.ndarray:
        return read_centroids(self.out)

    def run(self, state: np.ndarray, item: ShardItem) -> Summary:
        survivors = self.stage.survivors
        rows = np.flatnonzero(survivors.mask(item.index))
        vectors = survivors.vectors(item.index, item.url, self.stage.by, "image", rows)
        if not len(rows):  # lists of which there are none have no width
            vectors = np.empty((0, state.shape[1]), np.float16)
        cluster, distance = assign(vectors, state)
        found, counts = np.unique(cluster, return_counts=True)
        sizes = {str(name): int(count) for name, count in zip(found, counts, strict=True)}
        table = pa.table({"row": pa.array(rows), "cluster": pa.array(cluster), "distance": pa.array(distance)})
        self.out.write(item.index, table, {"rows": len(rows), "sizes": sizes})
        return {"rows": len(rows), "sizes": sizes}


@dataclass(frozen=True)
class Members:
    """What the clusters artifact says of one shard, for every row of its embeddings file.

    rows: int64 (m,) row numbers that are still in. cluster: int32 (m,). distance: float32 (m,), 1 - cosine.
    """

    rows: np.ndarray
    cluster: np.ndarray
    distance: np.ndarray

    @classmethod
    def read(cls, clusters: Artifact, index: int) -> "Members":
        """Read one shard's members."""
        table = clusters.read(index)
        return cls(column(table, "row"), column(table, "cluster"), column(table, "distance"))
