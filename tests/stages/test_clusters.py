"""Clusters of what is in: every member has its nearest centroid; the same for any shards, order and re-run."""

import uuid

import numpy as np
import pytest

from pipeline import storage
from pipeline.artifact import Artifact, read_table
from pipeline.errors import DataError, FailedShards
from pipeline.executor import Needs
from pipeline.stage import artifact_of, execute
from pipeline.uid import uids_from_hex
from stages.clusters import Clusters, Members, _Fit, read_centroids
from stages.random import Random
from stages.uid_hash import hash_values
from tests.pools import Filtered, Samples, filtered, opened, write_vectors


def clustered(pool: Filtered, k: int = 5, per_cluster: int = 256, seed: int = 0) -> Artifact:
    stage = Clusters(pool.survivors, "clip", k, 20, per_cluster, seed)
    return execute(stage, pool.run).artifact


def members(pool: Filtered, made: Artifact) -> dict[str, tuple[int, float]]:
    """uid -> cluster and distance."""
    found = {}
    for item in pool.run.items:
        part = Members.read(made, item.index)
        uids = pool.survivors.embeddings.read(item.index, ["uid"])["uid"].to_pylist()
        for row, cluster, distance in zip(part.rows, part.cluster, part.distance, strict=True):
            found[uids[row].hex()] = (int(cluster), float(distance))
    return found


def test_members_have_the_nearest_centroid() -> None:
    samples = Samples.drawn(80)
    pool = filtered(samples, Random(count=60), shards=3)
    made = clustered(pool)
    centroids = read_centroids(made)
    assert centroids.shape == (5, samples.image.shape[1])
    assert centroids.dtype == np.float32
    cosine = samples.image.astype(np.float64) @ centroids.astype(np.float64).T
    nearest = dict(zip(samples.uid, zip(cosine.argmax(1), 1 - cosine.max(1), strict=True), strict=True))
    found = members(pool, made)
    assert set(found) == set(pool.kept)
    assert all(found[uid][0] == nearest[uid][0] for uid in found)
    assert all(found[uid][1] == pytest.approx(nearest[uid][1], abs=1e-6) for uid in found)


def test_one_answer_for_any_shards_and_order() -> None:
    """To the bit, though the sample that the fit sees comes from other files in another order."""
    samples = Samples.drawn(80)
    order = np.random.default_rng(1).permutation(80)
    pools = [filtered(part, shards=n) for part in (samples, samples.take(order)) for n in (1, 3, 7)]
    made = [clustered(pool, per_cluster=8) for pool in pools]
    assert len({read_centroids(artifact).tobytes() for artifact in made}) == 1
    found = [members(pool, artifact) for pool, artifact in zip(pools, made, strict=True)]
    assert all(other == found[0] for other in found)


def test_the_fit_sees_a_hashed_sample() -> None:
    samples = Samples.drawn(90)
    pool = filtered(samples, shards=3)
    made = clustered(pool, k=4, per_cluster=6, seed=5)
    report = made.done() or {}
    assert report["sample"] == 24
    assert report["rows"] == 90
    values = hash_values(uids_from_hex(samples.uid), 5)
    expected = {samples.uid[i] for i in np.argsort(-values)[:24]}
    tables = [read_table(made.file(f"sample/{index:05d}.parquet")) for index in range(3)]
    assert {uid.hex() for table in tables for uid in table["uid"].to_pylist()} == expected


def test_sizes_are_reported() -> None:
    pool = filtered(Samples.drawn(50), shards=4)
    made = clustered(pool, k=6)
    sizes = np.bincount([cluster for cluster, _ in members(pool, made).values()], minlength=6)
    report = made.done() or {}
    assert (report["largest"], report["median"], report["empty"]) == (
        sizes.max(),
        np.median(sizes),
        (sizes == 0).sum(),
    )


def test_centroids_that_are_there_are_not_fitted_again() -> None:
    """Another run that was ended after the fit assigns to the same centroids."""
    pool = filtered(Samples.drawn(50), shards=3)
    stage = Clusters(pool.survivors, "clip", 5, 20, 256, 0)
    out = artifact_of(stage, pool.run.store)
    own = np.eye(16, dtype=np.float32)[:5]
    with storage.committing(out.file("centroids.npy")) as file:
        np.save(file, own)
    execute(stage, pool.run)
    assert read_centroids(out).tolist() == own.tolist()
    assert storage.folders(out.folder) == []


def test_more_clusters_than_samples_are_refused() -> None:
    pool = filtered(Samples.drawn(30), Random(count=9), shards=2)
    with pytest.raises(DataError, match="10 clusters were asked of the 9 samples that are still in; ask for fewer"):
        clustered(pool, k=10)


def test_a_sample_that_lost_rows_is_refused() -> None:
    """A run that was ended after drawing, whose folder somebody then thinned out."""
    pool = filtered(Samples.drawn(30), shards=2)
    made = clustered(pool)
    stage = Clusters(pool.survivors, "clip", 5, 20, 256, 0)
    with pytest.raises(FailedShards, match="sample must hold 31 rows, but has 30; delete that folder"):
        list(pool.run.executor.map(_Fit(stage, 2, 31, made), [0], "fit", Needs(retries=0)))


def test_a_shard_without_rows_has_no_members() -> None:
    root = f"memory://{uuid.uuid4().hex}"
    urls = (*write_vectors(f"{root}/pool", Samples.drawn(30)), *write_vectors(f"{root}/empty", Samples.drawn(0)))
    pool = opened(urls, store=f"{root}/store")
    made = clustered(pool, k=3)
    assert len(members(pool, made)) == 30
    assert len(Members.read(made, 1).rows) == 0
