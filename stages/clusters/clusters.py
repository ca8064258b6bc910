"""The stage `clusters`: assigns every survivor to its nearest centroid."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass as plain_dataclass
from functools import partial
from typing import Annotated, ClassVar, cast

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, is_artifact
from winnow.pipeline.columns import column, matrix, vector_column
from winnow.pipeline.errors import DataError, PoolError
from winnow.pipeline.stage import Run, ShardItem, Summary, total
from winnow.stages.clusters.centroids import (
    CENTROIDS,
    FIT,
    LOOK,
    KMeans,
    check_centroids,
    fit_centroids,
    import_centroids,
)
from winnow.stages.growth import Growth, KMeansFit, NearestOfK, Once
from winnow.stages.kernels.kmeans import Nearest
from winnow.stages.survivors import Survivors

SIZES = "sizes.npy"
_ASSIGN = "clusters: assign"
_GIANT = 10  # times the mean size


@dataclass(frozen=True, config=ConfigDict(extra="forbid", populate_by_name=True))
class Known:
    """Centroids that are there already, so that nothing is fitted and a pool that grew keeps its concepts.

    from: a `.npy` of floats (k, d), or the folder of a clusters artifact.
    """

    source: storage.File = Field(alias="from", min_length=1)


def _kind(option: object) -> str:
    return "known" if isinstance(option, dict | Known) else "k"


ClustersOption = Annotated[Annotated[int, Field(ge=1), Tag("k")] | Annotated[Known, Tag("known")], Discriminator(_kind)]
"""The option `clusters` of a cut: k, or `{from: URL}`; an error tells which of the two it read."""


def clusters_of(
    survivors: Survivors,
    by: str,
    clusters: int | Known,
    iterations: int,
    sample_per_cluster: int,
    seed: int,
    probes: int = 0,
) -> "Clusters":
    """The stage of a cut's options; looks up a file of known centroids, so that a changed one makes another artifact.

    Raises DataError where that file is not there.
    """
    if not isinstance(clusters, Known):
        return Clusters(survivors, by, KMeans(clusters, iterations, sample_per_cluster, seed), probes)
    url = _file_of(storage.absolute(clusters.source))
    try:
        [known] = storage.identify([url])
    except PoolError as error:
        raise DataError(
            f"clusters.from must be a .npy file, or the folder of a clusters artifact, but {url} is not there; "
            f"a folder clusters-… of a store has it, in clusters-….meta beside it"
        ) from error
    return Clusters(survivors, by, known, probes)


def _file_of(source: str) -> str:
    """The file of centroids that `from` names: itself, in the folder, or beside the data of a clusters artifact."""
    if source.endswith(".npy"):
        return source
    folder = source.rstrip("/")
    store, name = storage.parent_of(folder), storage.name_of(folder)
    return Artifact.named(store, name).meta(CENTROIDS) if is_artifact(name) else storage.join(folder, CENTROIDS)


@plain_dataclass(frozen=True)
class Clusters:
    """Nearest centroids of the image vectors of what is still in; the centroids by spherical k-means, or given.

    by: encoder. centroids: how to fit them, or the file that has them. The fit's sample is drawn uniformly by a hash
    of the uid (faiss's own default is 256 a cluster). The same samples give the same centroids whatever the
    sharding: they are put in the order of their uids first.
    probes: p, how many of the next nearest centroids each member notes.
    """

    survivors: Survivors
    by: str
    centroids: KMeans | storage.Identity
    probes: int = 0
    name: ClassVar[str] = "clusters"
    version: ClassVar[int] = 2

    def look(self, widths: Mapping[str, int]) -> str:
        """See Looking.look."""
        if isinstance(self.centroids, KMeans):
            return ""
        rows, width = check_centroids(self.centroids.url, widths.get(self.by), self.by)
        return f"{rows:,} centroids of {width} numbers in {storage.name_of(self.centroids.url)}"

    def make(self, run: Run, out: Artifact) -> Summary:
        """Fit on one worker or import, then assign on all, then count the members of every cluster.

        Memory of the driver: 8 k bytes, whatever the number of shards.
        """
        report: Summary
        if isinstance(self.centroids, KMeans):
            report = {"sample": fit_centroids(run, self.survivors, self.by, self.centroids, out)}
        else:
            report = {"from": self.centroids.url}
            import_centroids(run, self.survivors, self.by, self.centroids.url, out)
        summaries = run.fill_task(_Assign(self, out), out, _ASSIGN)
        sizes = _count_members(run, out, len(read_centroids(out)))
        return {
            "rows": total(summaries, "rows"),
            **report,
            "clusters": len(sizes),
            "empty": int((sizes == 0).sum()),
            "giant": int((sizes > _GIANT * sizes.mean()).sum()),
            "largest": int(sizes.max()),
            "median": float(np.median(sizes)),
        }

    def growth(self, label: str, step: str) -> Growth | None:
        """See Growing.growth."""
        how = self.centroids
        if label == LOOK:
            return Once()
        if not isinstance(how, KMeans):
            return None
        if label.startswith(FIT):
            return KMeansFit(how.k, how.iterations, how.sample_per_cluster)
        return NearestOfK(how.k, self.probes) if label == _ASSIGN else None

    def width(self, out: Artifact) -> int:
        """See Growing.width."""
        return int(read_centroids(out).shape[1])


def _count_members(run: Run, out: Artifact, k: int) -> np.ndarray:
    """Commit sizes.npy, the members of every cluster over all shards: int64 (k,)."""
    sizes = np.zeros(k, np.int64)
    for _, (found, count) in run.each(_Sizes(out), run.items, "clusters: sizes"):
        sizes[found] += count
    content = io.BytesIO()
    np.save(content, sizes)
    storage.write_bytes(out.meta(SIZES), content.getvalue())
    return sizes


def read_sizes(out: Artifact) -> np.ndarray:
    """Members of every cluster of a finished clusters artifact: int64 (k,)."""
    return _read_array(out, SIZES)


def read_centroids(out: Artifact) -> np.ndarray:
    """Centroids of a clusters artifact: float32 (k, d), unit norm."""
    return _read_array(out, CENTROIDS)


def _read_array(out: Artifact, name: str) -> np.ndarray:
    return cast(np.ndarray, np.load(io.BytesIO(storage.read_bytes(out.meta(name))), allow_pickle=False))


@plain_dataclass(frozen=True)
class _Assign:
    """Commits row, cluster, distance and probes of every sample of one shard that is still in."""

    stage: Clusters
    out: Artifact

    def open(self) -> Callable[[ShardItem], Summary]:
        return partial(self._assign, Nearest(read_centroids(self.out), self.stage.probes))

    def _assign(self, nearest: Nearest, item: ShardItem) -> Summary:
        survivors = self.stage.survivors
        rows = np.flatnonzero(survivors.mask(item.index))
        cluster, distance = np.empty(len(rows), np.int32), np.empty(len(rows), np.float32)
        near = np.empty((len(rows), self.stage.probes), np.int32)
        done = 0
        for vectors in survivors.blocks(item.index, item.url, self.stage.by, "image", rows):
            part = slice(done, done + len(vectors))
            cluster[part], distance[part], near[part] = nearest(vectors)
            done = part.stop
        table = pa.table({"row": pa.array(rows), "cluster": pa.array(cluster), "distance": pa.array(distance)})
        if self.stage.probes:
            table = table.append_column("probes", vector_column(near))
        summary = {"rows": len(rows)}
        self.out.write(item.index, table, summary)
        return summary


@plain_dataclass(frozen=True)
class _Sizes:
    """The clusters that occur in one shard and how often: int32 and int64 (m,), m at most its rows."""

    out: Artifact

    def __call__(self, item: ShardItem) -> tuple[np.ndarray, np.ndarray]:
        found, count = np.unique(column(self.out.read(item.index, ["cluster"]), "cluster"), return_counts=True)
        return found, count


@plain_dataclass(frozen=True)
class Members:
    """What the clusters artifact says of one shard, for every row of its embeddings file.

    rows: int64 (m,) row numbers that are still in. cluster: int32 (m,). distance: float32 (m,), 1 - cosine.
    probes: int32 (m, p), the next nearest clusters in order, -1 where there are no more; None where p = 0.
    """

    rows: np.ndarray
    cluster: np.ndarray
    distance: np.ndarray
    probes: np.ndarray | None = None

    @classmethod
    def read(cls, clusters: Artifact, index: int) -> "Members":
        """Read one shard's members."""
        table = clusters.read(index)
        probes = matrix(table["probes"]) if "probes" in table.column_names else None
        return cls(column(table, "row"), column(table, "cluster"), column(table, "distance"), probes)
