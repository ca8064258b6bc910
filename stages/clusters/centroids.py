"""Makes the centroids of a clustering: k-means on a sample of the survivors, or a given file."""

import io
import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, array_if_whole, read_table, shard_name, write_table
from winnow.pipeline.columns import matrix, vector_column
from winnow.pipeline.errors import DataError, ShardError
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.keep_top import Thresholds, kept
from winnow.pipeline.machine import check_memory, cores, memory_bytes
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.uid import uids_from_bytes, uids_to_bytes
from winnow.stages.cuts.keeping import UidHash, select
from winnow.stages.kernels.kmeans import fit, fit_bytes, imported
from winnow.stages.pools.precomputed.npy_files import npy_blocks
from winnow.stages.survivors import Survivors

CENTROIDS = "centroids.npy"
FIT, LOOK = "clusters: k-means", "clusters: look at width and memory"
"""Labels of the passes that run on one worker."""


@dataclass(frozen=True)
class KMeans:
    """How to fit centroids. k: number of clusters. The fit sees a sample of min(n, k · sample_per_cluster) rows."""

    k: int
    iterations: int
    sample_per_cluster: int
    seed: int


def fit_centroids(run: Run, survivors: Survivors, by: str, how: KMeans, out: Artifact) -> int:
    """Draw a sample of the survivors and fit centroids on one worker, unless an earlier run did.

    Returns how many samples the fit sees. Raises DataError for more clusters than samples, and if the sample does not
    fit into the worker's memory.
    """
    n = survivors.count()
    if how.k > n:
        raise DataError(
            f"k-means needs at least one sample per cluster, but the job asks for {how.k} clusters of the {n} samples "
            f"that are still in; ask for fewer clusters, or keep more samples before this cut"
        )
    wanted = min(n, how.k * how.sample_per_cluster)
    if array_if_whole(out.meta(CENTROIDS)) is not None:
        return wanted
    task = _Fit(how, len(run.items), wanted, out)
    # faiss uses a GPU if it sees one, and on Ray a worker sees only the GPUs that it asked for
    needs = replace(run.plain, gpus=1.0 if run.needs.gpus else 0.0, deadline_floor_s=math.inf)
    # Check the memory before the sample is read. The look asks for the same needs, so it may run on such a worker.
    task.check(*_look(run, survivors, by, needs))
    source = UidHash(survivors, how.seed)
    drawn = select(run, source, np.array([wanted], np.int64), "clusters: draw a sample")
    for _ in run.each(_Draw(survivors, by, source, drawn, out), run.items, "clusters: read the sample"):
        pass
    for _ in run.each(task, [0], f"{FIT}, k = {how.k}", needs):
        pass
    return wanted


def import_centroids(run: Run, survivors: Survivors, by: str, url: str, out: Artifact) -> None:
    """Commit the centroids of a file, scaled to unit norm, unless an earlier run did.

    Raises DataError if the file does not hold centroids, or if they are not as wide as the vectors of `by`.
    """
    if array_if_whole(out.meta(CENTROIDS)) is not None:
        return
    centroids = imported(storage.read_bytes(url), url)
    width, _ = _look(run, survivors, by, run.plain)
    _check_width(centroids.shape[1], width, by, url)
    _write(out, centroids)


def check_centroids(url: str, width: int | None, by: str) -> tuple[int, int]:
    """Number and width of a file's centroids, from its header; raises as `import_centroids` does.

    width: that of the vectors of `by`, None if it is not known yet.
    """
    try:
        with npy_blocks(url) as blocks:
            count, numbers = blocks.rows, blocks.width
    except ShardError:  # its message is about a shard of a pool; `imported` says what is wrong with centroids
        count, numbers = imported(storage.read_bytes(url), url).shape
    _check_width(numbers, width, by, url)
    return count, numbers


def _check_width(centroids: int, vectors: int | None, by: str, url: str) -> None:
    if vectors and vectors != centroids:
        raise DataError(
            f"centroids must be as wide as the vectors of {by}, but those of {url} have {centroids} numbers and the "
            f"vectors have {vectors}; name centroids of that encoder"
        )


def read_sample(out: Artifact, shards: int, wanted: int) -> np.ndarray:
    """The sample that the fit sees, rows of all shards in the order of their uids: float32 (wanted, d).

    Each row is copied once, straight to its place. Raises DataError if rows are missing.
    """
    urls = [_sample_url(out, index) for index in range(shards)]
    uids = np.concatenate([uids_from_bytes(read_table(url, ["uid"])["uid"]) for url in urls])
    if len(uids) != wanted:
        raise DataError(
            f"{out.meta('sample')} must hold {wanted} rows, but has {len(uids)}; delete that folder and run again"
        )
    # (wanted,): the rank of each row's uid. k-means depends on the order of rows, and shards must not set it.
    place = np.empty(len(uids), np.int64)
    place[np.lexsort((uids["f1"], uids["f0"]))] = np.arange(len(uids))
    vectors, done = np.empty((0, 0), np.float32), 0
    for url in urls:
        for part in read_table(url, ["vector"])["vector"].chunks:
            if not len(part):  # an empty shard does not know the width of the vectors
                continue
            rows = matrix(part)
            if not len(vectors):
                vectors = np.empty((len(uids), rows.shape[1]), np.float32)
            vectors[place[done : done + len(rows)]] = rows
            done += len(rows)
    return vectors


def _look(run: Run, survivors: Survivors, by: str, needs: Needs) -> tuple[int, int]:
    """Width of the encoder's vectors (0 if no sample is in), and bytes of memory of a worker's machine."""
    [(_, found)] = run.each(_WidthAndMemory(survivors, by), [tuple(run.items)], LOOK, needs)
    return found


def _write(out: Artifact, centroids: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, centroids)
    storage.write_bytes(out.meta(CENTROIDS), content.getvalue())


def _sample_url(out: Artifact, index: int) -> str:
    return out.meta(f"sample/{shard_name(index)}")


@dataclass(frozen=True)
class _Draw:
    """Commits the sampled rows of one shard: uid and vector."""

    survivors: Survivors
    by: str
    source: UidHash
    drawn: Thresholds
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        chosen = np.flatnonzero(kept(self.source.rows(item), self.drawn))
        vectors = self.survivors.vectors(item.index, item.url, self.by, "image", chosen)
        uids = uids_to_bytes(self.survivors.uids(item.index)[chosen])
        write_table(_sample_url(self.out, item.index), pa.table({"uid": uids, "vector": vector_column(vectors)}))
        return {"rows": len(chosen)}


@dataclass(frozen=True)
class _WidthAndMemory:
    """Returns the width of the vectors and the memory in bytes of the machine that this worker runs on."""

    survivors: Survivors
    by: str

    def __call__(self, item: tuple[ShardItem, ...]) -> tuple[int, int]:
        for shard in item:  # until a shard has a survivor, whose vector has the width
            rows = np.flatnonzero(self.survivors.mask(shard.index))[:1]
            if len(rows):
                return self.survivors.vectors(shard.index, shard.url, self.by, "image", rows).shape[1], memory_bytes()
        return 0, memory_bytes()


@dataclass(frozen=True)
class _Fit:
    """Commits centroids.npy from the samples of all shards. One worker holds all of them, and one shard's twice."""

    how: KMeans
    shards: int
    wanted: int
    out: Artifact

    def __call__(self, item: int) -> Summary:
        # Nothing else runs during a fit, and threads do not change its bits, so use every core of this machine.
        how = self.how
        vectors = read_sample(self.out, self.shards, self.wanted)
        _write(self.out, fit(vectors, how.k, iterations=how.iterations, seed=how.seed, threads=cores()))
        return {"rows": len(vectors)}

    def check(self, width: int, available: int) -> None:
        """Raises DataError if the sample does not fit. width: numbers of a vector. available: bytes of memory."""
        # beside the fit: uids and places of all rows, and the float16 vectors of an average shard
        places, share = 32 * self.wanted, 2 * width * -(-self.wanted // self.shards)
        check_memory(
            fit_bytes(self.wanted, width) + places + share,
            available,
            f"k-means of {self.wanted:,} samples ({self.how.k:,} clusters · {self.how.sample_per_cluster:,}, or all), "
            f"{width:,} numbers of 4 bytes each,",
            "ask for fewer clusters, a smaller sample_per_cluster, or workers with more memory",
        )
