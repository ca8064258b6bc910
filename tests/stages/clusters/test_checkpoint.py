"""A fit that is killed goes on from its checkpoint to the same bits, and no checkpoint stays behind."""

import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pools import Filtered, Samples, filtered, opened, write_vectors
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.stage import artifact_of, execute
from winnow.stages.clusters.checkpoint import Checkpoint
from winnow.stages.clusters.clusters import Clusters, clusters_of, read_centroids
from winnow.stages.kernels.kmeans import Progress, fit

ITERATIONS = 40
ROOT = Path(__file__).parents[3]

SLOW = """
import sys, time
from pathlib import Path
from tests.stages.clusters.test_checkpoint import stage_in
from winnow.pipeline.stage import execute
from winnow.stages.clusters.checkpoint import Checkpoint

keep = Checkpoint.keep
def slowly(self, progress):
    keep(self, progress)
    time.sleep(0.05)
Checkpoint.keep = slowly
pool, stage = stage_in(Path(sys.argv[1]))
execute(stage, pool.run)
"""


def stage_in(folder: Path) -> tuple[Filtered, Clusters]:
    urls = [f"{folder}/pool/{shard:05d}.parquet" for shard in range(3)]
    if not (folder / "pool").exists():  # files that are written again are another pool
        write_vectors(str(folder / "pool"), Samples.drawn(3000), 3)
    pool = opened(urls, store=str(folder / "store"))
    return pool, clusters_of(pool.survivors, "clip", 40, ITERATIONS, 64, 0)


def checkpoint_of(out: Artifact) -> Path:
    return Path(out.meta("checkpoint.parquet"))


@pytest.mark.timeout(300)
def test_killed_in_the_middle_of_the_fit_and_run_again_gives_equal_bits(tmp_path: Path) -> None:
    pool, stage = stage_in(tmp_path)
    out = artifact_of(stage, pool.run.store)
    running = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], cwd=ROOT)
    try:
        while not checkpoint_of(out).exists():
            assert running.poll() is None
            time.sleep(0.005)
    finally:
        running.kill()
        running.wait()
    assert not Path(out.meta("centroids.npy")).exists()
    begun = Checkpoint(out).read()
    assert begun is not None
    assert 0 < begun.iterations < ITERATIONS
    execute(stage, pool.run)
    assert not checkpoint_of(out).exists()
    undisturbed = replace(pool.run, store=str(tmp_path / "other"))
    assert read_centroids(out).tobytes() == read_centroids(execute(stage, undisturbed).artifact).tobytes()


def test_a_fit_goes_on_from_the_checkpoint_that_is_there() -> None:
    """A planted one of another fit: the result is that of going on from it."""
    samples = Samples.drawn(60)
    pool = filtered(samples, shards=2)
    stage = clusters_of(pool.survivors, "clip", 4, 6, 256, 0)
    out = artifact_of(stage, pool.run.store)
    rows = samples.image[sorted(range(60), key=lambda row: samples.uid[row])]
    planted: list[Progress] = []
    fit(rows, 4, iterations=6, seed=9, after=planted.append)
    begun = replace(planted[1], iterations=5)
    Checkpoint(out).keep(begun)
    execute(stage, pool.run)
    assert read_centroids(out).tobytes() == fit(rows, 4, iterations=6, seed=0, begun=begun).tobytes()
    assert read_centroids(out).tobytes() != fit(rows, 4, iterations=6, seed=0).tobytes()


def test_every_fifth_iteration_is_kept_whole() -> None:
    out = Artifact(f"memory://{uuid.uuid4().hex}", "clusters", "0" * 16)
    kept = Checkpoint(out)
    progress: list[Progress] = []
    fit(Samples.drawn(400).image, 30, iterations=8, seed=0, after=progress.append)
    for one in progress[:4]:
        kept.keep(one)
    assert kept.read() is None
    for one in progress[4:]:
        kept.keep(one)
    found = kept.read()
    assert found is not None
    assert (found.iterations, found.objective) == (5, progress[4].objective)
    assert found.centroids.tobytes() == progress[4].centroids.tobytes()
    storage.write_bytes(out.meta("checkpoint.parquet"), b"PAR1 and no more")
    assert kept.read() is None
    kept.remove()
    kept.remove()
    assert not storage.exists(out.meta("checkpoint.parquet"))
