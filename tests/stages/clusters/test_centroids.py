"""The fit's sample is checked before it is drawn and after, and what is imported must fit the encoder."""

import uuid

import numpy as np
import pytest

from tests.pools import Samples, filtered
from winnow.jobs.job_file.job import parse
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import DataError, FailedShards
from winnow.pipeline.executors.contract import Needs, Stateless
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import Run, artifact_of, execute
from winnow.stages.clusters import centroids
from winnow.stages.clusters.centroids import KMeans, _Fit
from winnow.stages.clusters.clusters import Known, clusters_of, read_centroids
from winnow.stages.kernels.kmeans import fit


def test_the_fit_sees_the_sample_in_the_order_of_uids() -> None:
    """So its bits are those of one array, whatever the shards."""
    samples = Samples.drawn(60)
    pool = filtered(samples, shards=4)
    made = execute(clusters_of(pool.survivors, "clip", 6, 15, 256, 3), pool.run).artifact
    ordered = samples.image[np.argsort(samples.uid)].astype(np.float32)
    assert read_centroids(made).tobytes() == fit(ordered, 6, iterations=15, seed=3).tobytes()


def test_a_sample_that_lost_rows_is_refused() -> None:
    """A run that was ended after drawing, whose folder somebody then thinned out."""
    pool = filtered(Samples.drawn(30), shards=2)
    how = KMeans(5, 20, 256, 0)
    made = execute(clusters_of(pool.survivors, "clip", 5, 20, 256, 0), pool.run).artifact
    with pytest.raises(FailedShards, match="sample must hold 31 rows, but has 30; delete that folder"):
        list(pool.run.executor.map(Stateless(_Fit(how, 2, 31, made)), [0], "fit", Needs(retries=0)))


def test_a_sample_beyond_the_workers_memory_is_refused_before_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = filtered(Samples.drawn(30), shards=2)
    stage = clusters_of(pool.survivors, "clip", 5, 20, 4, 0)
    monkeypatch.setattr(centroids, "memory_bytes", lambda: 2000)
    with pytest.raises(
        DataError,
        match=r"k-means of 20 samples \(5 clusters · 4, or all\), 16 numbers of 4 bytes each, takes 2.8e-06 GB, but "
        r"must fit in 0.8 of the 2e-06 GB that the worker's machine has; ask for fewer clusters, a smaller",
    ):
        execute(stage, pool.run)
    assert storage.folders(artifact_of(stage, pool.run.store).folder) == []


def test_the_arithmetic_of_50_000_clusters() -> None:
    """12.8M rows of 768 numbers: 39.3 GB, places and eight files of 1,000; 64 GB hold that, 48 do not."""
    task = _Fit(KMeans(50_000, 100, 256, 0), 1000, 12_800_000, Artifact("memory://x", "clusters", "0" * 8))
    task.check(768, 64 * 10**9)
    with pytest.raises(
        DataError, match=r"12,800,000 samples \(50,000 clusters · 256.* takes 40 GB, but must fit in 0.8"
    ):
        task.check(768, 48 * 10**9)


class Seen(LocalExecutor):
    """Notes what every call needs."""

    def map(self, task, items, label, needs):  # type: ignore[no-untyped-def]  # as LocalExecutor.map
        self.needs = {**getattr(self, "needs", {}), label: needs.gpus}
        self.asked = {**getattr(self, "asked", {}), label: (needs.cpus, needs.gpus)}
        yield from super().map(task, items, label, needs)


@pytest.mark.parametrize("gpus", [0.0, 0.25, 1.0])
def test_the_fit_asks_for_a_gpu_where_the_job_has_them(gpus: float) -> None:
    pool = filtered(Samples.drawn(30), shards=2)
    executor = Seen(1)
    stage = clusters_of(pool.survivors, "clip", 5, 20, 256, 0)
    execute(stage, Run(pool.run.store, executor, pool.run.shards, Needs(gpus=gpus)))
    asked = {label for label, wants in executor.needs.items() if wants == 1.0}
    assert asked == ({"clusters: k-means, k = 5", "clusters: look at width and memory"} if gpus else set())


def test_centroids_of_another_encoder_are_refused() -> None:
    pool = filtered(Samples.drawn(30), shards=2)
    url = f"memory://{uuid.uuid4().hex}/known.npy"
    with storage.committing(url) as file:
        np.save(file, np.eye(9))
    with pytest.raises(
        DataError, match=rf"vectors of clip, but those of {url} have 9 numbers and the vectors have 16; name"
    ):
        execute(clusters_of(pool.survivors, "clip", Known(source=url), 20, 256, 0), pool.run)


@pytest.mark.parametrize(
    ("resources", "cores", "gpus"),
    [
        ({"gpus": 0.5}, 1.0, 1.0),
        ({"gpus": 1, "kmeans_gpus": 0}, 1.0, 0.0),
        ({"gpus": 1, "kmeans_cpus": 16, "kmeans_gpus": 2}, 16.0, 2.0),
        ({"kmeans_gpus": 1}, 1.0, 1.0),
    ],
)
def test_the_job_says_what_the_fit_gets(resources: dict[str, float], cores: float, gpus: float) -> None:
    pool = filtered(Samples.drawn(30), shards=2)
    executor = Seen(1)
    job = parse(
        {
            "name": "a",
            "store": pool.run.store,
            "pool": {"shards": pool.run.shards[0].url, "format": "vectors", "encoder": "clip", "image": "image"},
            "resources": resources,
        }
    )
    execute(
        clusters_of(pool.survivors, "clip", 5, 20, 256, 0),
        Run(pool.run.store, executor, pool.run.shards, job.needs, alone=job.alone),
    )
    assert executor.asked["clusters: k-means, k = 5"] == (cores, gpus)
    assert executor.asked["clusters: read the sample"] == (1.0, 0.0)
