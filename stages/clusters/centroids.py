"""Makes the centroids of a clustering: k-means on a sample of the survivors, or a given file."""

import io
import math
from dataclasses import dataclass, replace

import numpy as np

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, array_if_whole
from winnow.pipeline.errors import DataError, ShardError
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.machine import check_memory, cores, memory_bytes
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.stages.clusters.checkpoint import Checkpoint
from winnow.stages.clusters.sample import READERS, draw_sample, files_of_sample, read_sample
from winnow.stages.kernels.kmeans import fit, fit_bytes, imported
from winnow.stages.pools.precomputed.npy_files import npy_blocks
from winnow.stages.survivors import Survivors, Tower

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


def fit_centroids(run: Run, survivors: Survivors, by: str, how: KMeans, out: Artifact, tower: Tower = "image") -> int:
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
        Checkpoint(out).remove()  # of a run that was ended between the two
        return wanted
    needs = run.alone or replace(run.plain, cpus=0.0, gpus=1.0 if run.needs.gpus else 0.0)
    task = _Fit(how, len(run.items), wanted, out, math.ceil(needs.cpus) or None, needs.gpus > 0)
    needs = replace(needs, cpus=needs.cpus or 1.0, deadline_floor_s=math.inf)
    # Check the memory before the sample is read. The look asks for the same needs, so it may run on such a worker.
    task.check(*_look(run, survivors, by, needs, tower))
    draw_sample(run, survivors, by, how.seed, wanted, out, tower)
    for _ in run.each(task, [0], f"{FIT}, k = {how.k}", needs):
        pass
    Checkpoint(out).remove()
    return wanted


def import_centroids(run: Run, survivors: Survivors, by: str, url: str, out: Artifact, tower: Tower = "image") -> None:
    """Commit the centroids of a file, scaled to unit norm, unless an earlier run did.

    Raises DataError if the file does not hold centroids, or if they are not as wide as the vectors of `by`.
    """
    if array_if_whole(out.meta(CENTROIDS)) is not None:
        return
    centroids = imported(storage.read_bytes(url), url)
    width, _ = _look(run, survivors, by, run.plain, tower)
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


def _look(run: Run, survivors: Survivors, by: str, needs: Needs, tower: Tower) -> tuple[int, int]:
    """Width of the encoder's vectors (0 if no sample is in), and bytes of memory of a worker's machine."""
    [(_, found)] = run.each(_WidthAndMemory(survivors, by, tower), [tuple(run.items)], LOOK, needs)
    return found


def _write(out: Artifact, centroids: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, centroids)
    storage.write_bytes(out.meta(CENTROIDS), content.getvalue())


@dataclass(frozen=True)
class _WidthAndMemory:
    """Returns the width of the vectors and the memory in bytes of the machine that this worker runs on."""

    survivors: Survivors
    by: str
    tower: Tower

    def __call__(self, item: tuple[ShardItem, ...]) -> tuple[int, int]:
        for shard in item:  # until a shard has a survivor, whose vector has the width
            rows = np.flatnonzero(self.survivors.mask(shard.index))[:1]
            if len(rows):
                vectors = self.survivors.vectors(shard.index, shard.url, self.by, self.tower, rows)
                return vectors.shape[1], memory_bytes()
        return 0, memory_bytes()


@dataclass(frozen=True)
class _Fit:
    """Commits centroids.npy from the sample of all shards. One worker holds all of it, and some of its files twice.

    It goes on from the checkpoint of a fit that was ended. threads: None for every core of the machine, because
    nothing else of the job runs during a fit; they do not change its bits. gpu: whether faiss may use one.
    """

    how: KMeans
    shards: int
    wanted: int
    out: Artifact
    threads: int | None = None
    gpu: bool = False

    def __call__(self, item: int) -> Summary:
        how, checkpoint = self.how, Checkpoint(self.out)
        vectors = read_sample(self.out, self.shards, self.wanted)
        centroids = fit(
            vectors,
            how.k,
            iterations=how.iterations,
            seed=how.seed,
            threads=min(cores(), self.threads or cores()),
            gpu=self.gpu,
            begun=checkpoint.read(),
            after=checkpoint.keep,
        )
        _write(self.out, centroids)
        return {"rows": len(vectors)}

    def check(self, width: int, available: int) -> None:
        """Raises DataError if the sample does not fit. width: numbers of a vector. available: bytes of memory."""
        # beside the fit: uids and places of all rows, and the float16 vectors of the files that are read at once
        files = files_of_sample(self.shards, self.wanted)
        places, share = 32 * self.wanted, 2 * width * -(-self.wanted // files) * min(READERS, files)
        check_memory(
            fit_bytes(self.wanted, width) + places + share,
            available,
            f"k-means of {self.wanted:,} samples ({self.how.k:,} clusters · {self.how.sample_per_cluster:,}, or all), "
            f"{width:,} numbers of 4 bytes each,",
            "ask for fewer clusters, a smaller sample_per_cluster, or workers with more memory",
        )
