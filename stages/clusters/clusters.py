"""The stage `clusters`: assigns every survivor to its nearest centroid."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
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
from winnow.pipeline.fingerprint import IF_GIVEN
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.sums import Sums, dense, merge_sums
from winnow.stages.clusters.centroids import (
    CENTROIDS,
    FIT,
    LOOK,
    KMeans,
    check_centroids,
    fit_centroids,
    import_centroids,
)
from winnow.stages.clusters.drift import drift_from
from winnow.stages.growth import Growth, KMeansFit, NearestOfK, Once
from winnow.stages.kernels.nearest import Nearest
from winnow.stages.survivors import Survivors, Tower

CLUSTER_SIZES = "sizes.npy"
_ASSIGN = "clusters: assign"
_GIANT = 10  # times the mean size


@dataclass(frozen=True, config=ConfigDict(extra="forbid", populate_by_name=True))
class Known:
    """Centroids that exist already. Nothing is fitted, so a pool that grew keeps its clusters.

    from: a `.npy` file of floats (k, d), or the folder of a clusters artifact.
    """

    source: storage.File = Field(alias="from", min_length=1)


def _kind(option: object) -> str:
    return "known" if isinstance(option, dict | Known) else "k"


ClustersOption = Annotated[Annotated[int, Field(ge=1), Tag("k")] | Annotated[Known, Tag("known")], Discriminator(_kind)]
"""The option `clusters` of a cut: k, or `{from: URL}`. An error names the one of the two that was given."""


def clusters_of(
    survivors: Survivors,
    by: str,
    clusters: int | Known,
    iterations: int,
    sample_per_cluster: int,
    seed: int,
    probes: int = 0,
    tower: Tower = "image",
) -> "Clusters":
    """The clusters stage for a cut's options.

    It looks up the file of known centroids, because a changed file must make another artifact. Raises DataError if that
    file does not exist.
    """
    if not isinstance(clusters, Known):
        return Clusters(survivors, by, KMeans(clusters, iterations, sample_per_cluster, seed), probes, tower)
    url = _file_of(storage.absolute(clusters.source))
    try:
        [known] = storage.identify([url])
    except PoolError as error:
        raise DataError(
            f"clusters.from must be a .npy file, or the folder of a clusters artifact, but {url} does not exist; "
            f"name a folder clusters-… of a store, which has centroids.npy in clusters-….meta beside it"
        ) from error
    return Clusters(survivors, by, known, probes, tower)


def _file_of(source: str) -> str:
    """The file of centroids that `from` names: the file itself, or that in a folder or in an artifact's meta folder."""
    if source.endswith(".npy"):
        return source
    folder = source.rstrip("/")
    store, name = storage.parent_of(folder), storage.name_of(folder)
    return Artifact.named(store, name).meta(CENTROIDS) if is_artifact(name) else storage.join(folder, CENTROIDS)


@plain_dataclass(frozen=True)
class Clusters:
    """Finds the nearest centroid of every survivor's vector. Centroids come from spherical k-means or a file.

    by: encoder. tower: whether the vectors are those of images or of captions. centroids: how to fit them, or the file
    that has them. A hash of the uid draws the sample for the fit uniformly (faiss's own default is 256 samples a
    cluster). The sample is sorted by uid before the fit, so the same samples give the same centroids for any sharding.
    probes: p, how many of the next nearest centroids are stored for each sample.
    """

    survivors: Survivors
    by: str
    centroids: KMeans | storage.Identity
    probes: int = 0
    tower: Tower = field(default="image", metadata=IF_GIVEN)
    name: ClassVar[str] = "clusters"
    version: ClassVar[int] = 2

    def look(self, widths: Mapping[str, int]) -> str:
        """See Looking.look."""
        if isinstance(self.centroids, KMeans):
            return ""
        rows, width = check_centroids(self.centroids.url, widths.get(self.by), self.by)
        return f"{rows:,} centroids of {width} numbers in {storage.name_of(self.centroids.url)}"

    def make(self, run: Run, out: Artifact) -> Summary:
        """Fit on one worker or import, then assign on all workers, then count the members of every cluster.

        Memory of the driver: 8 k bytes, for any number of shards.
        """
        report: Summary
        if isinstance(self.centroids, KMeans):
            report = {"sample": fit_centroids(run, self.survivors, self.by, self.centroids, out, self.tower)}
        else:
            report = {"from": self.centroids.url}
            import_centroids(run, self.survivors, self.by, self.centroids.url, out, self.tower)
        totals = run.fill_task(_Assign(self, out), out, _ASSIGN)
        sizes = _count_members(run, out, len(read_centroids(out)))
        if not isinstance(self.centroids, KMeans):
            report |= drift_from(self.centroids.url, CLUSTER_SIZES, sizes)
        return {
            "rows": totals.number("rows"),
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


def tower_of(out: Artifact) -> Tower:
    """Whose vectors a finished clusters artifact is of. Earlier versions had none but those of images."""
    config = cast(Mapping[str, object], (out.done() or {}).get("config", {}))
    return cast(Tower, config.get("tower", "image"))


def _count_members(run: Run, out: Artifact, k: int) -> np.ndarray:
    """Commit sizes.npy, the members of every cluster over all shards: int64 (k,)."""
    [sizes] = dense(run.reduce(_ClusterSizes(out), merge_sums, run.items, "clusters: sizes"), k)
    content = io.BytesIO()
    np.save(content, sizes)
    storage.write_bytes(out.meta(CLUSTER_SIZES), content.getvalue())
    return sizes


def read_sizes(out: Artifact) -> np.ndarray:
    """Members of every cluster of a finished clusters artifact: int64 (k,)."""
    return _read_array(out, CLUSTER_SIZES)


def read_centroids(out: Artifact) -> np.ndarray:
    """Centroids of a clusters artifact: float32 (k, d), unit norm."""
    return _read_array(out, CENTROIDS)


def _read_array(out: Artifact, name: str) -> np.ndarray:
    return cast(np.ndarray, np.load(io.BytesIO(storage.read_bytes(out.meta(name))), allow_pickle=False))


@plain_dataclass(frozen=True)
class _Assign:
    """Commits row, cluster, distance and probes of every survivor of one shard."""

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
        # the vectors come in blocks, so that a worker never holds those of a whole shard in float32
        for vectors in survivors.blocks(item.index, item.url, self.stage.by, self.stage.tower, rows):  # (b, d)
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
class _ClusterSizes:
    """Returns how many members the clusters of one shard have, those that occur in it."""

    out: Artifact

    def __call__(self, item: ShardItem) -> Sums:
        return Sums.of(column(self.out.read(item.index, ["cluster"]), "cluster"))


@plain_dataclass(frozen=True)
class Members:
    """One shard of a clusters artifact.

    rows: int64 (m,), the rows of the samples file that are still in. cluster: int32 (m,). distance: float32 (m,),
    1 - cosine with the centroid. probes: int32 (m, p), the next nearest clusters in order, -1 if there are no more;
    None if p = 0.
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
