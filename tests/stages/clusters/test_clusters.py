"""Clusters of what is in: every member has its nearest centroid; the same for any shards, order and re-run."""

import json
import pickle
import uuid
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from tests.pools import Filtered, Samples, filtered, opened, write_vectors
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_table
from winnow.pipeline.errors import DataError
from winnow.pipeline.stage import ShardItem, artifact_of, execute
from winnow.pipeline.uid import uids_from_hex
from winnow.stages.clusters.clusters import (
    Known,
    Members,
    _ClusterSizes,
    clusters_of,
    read_centroids,
    read_sizes,
)
from winnow.stages.cuts.random import Random
from winnow.stages.kernels.uid_hash import hash_values


def clustered(pool: Filtered, k: int = 5, per_cluster: int = 256, seed: int = 0, known: str | None = None) -> Artifact:
    stage = clusters_of(pool.survivors, "clip", Known(source=known) if known else k, 20, per_cluster, seed)
    return execute(stage, pool.run).artifact


def saved(url: str, centroids: np.ndarray) -> None:
    with storage.committing(url) as file:
        np.save(file, centroids)


def members(pool: Filtered, made: Artifact) -> dict[str, tuple[int, float]]:
    """uid -> cluster and distance."""
    found = {}
    for item in pool.run.items:
        part = Members.read(made, item.index)
        uids = pool.survivors.samples.read(item.index, ["uid"])["uid"].to_pylist()
        for row, cluster, distance in zip(part.rows, part.cluster, part.distance, strict=True):
            found[uids[row]] = (int(cluster), float(distance))
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


def test_a_shard_of_several_blocks() -> None:
    """Every block's members are written in their place: 1,024 rows make one."""
    samples = Samples.drawn(2500)
    pool = filtered(samples, Random(fraction=0.9), shards=1)
    made = clustered(pool, k=4)
    nearest = dict(
        zip(samples.uid, (samples.image.astype(float) @ read_centroids(made).astype(float).T).argmax(1), strict=True)
    )
    found = members(pool, made)
    assert len(found) == 2250
    assert all(cluster == nearest[uid] for uid, (cluster, _) in found.items())


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
    tables = [read_table(found.url) for found in storage.listing(made.meta("sample"))]
    assert {uid.hex() for table in tables for uid in table["uid"].to_pylist()} == expected


def test_sizes_are_reported() -> None:
    pool = filtered(Samples.drawn(50), shards=4)
    made = clustered(pool, k=6)
    sizes = np.bincount([cluster for cluster, _ in members(pool, made).values()], minlength=6)
    report = made.done() or {}
    assert (report["clusters"], report["sample"]) == (6, 50)
    assert (report["largest"], report["median"], report["empty"], report["giant"]) == (
        sizes.max(),
        np.median(sizes),
        (sizes == 0).sum(),
        0,
    )


def test_sizes_lie_in_one_file_and_in_no_footer() -> None:
    """What grows with clusters stays out of what the driver gathers from every shard."""
    pool = filtered(Samples.drawn(50), shards=4)
    made = clustered(pool, k=6)
    found = [cluster for cluster, _ in members(pool, made).values()]
    assert read_sizes(made).dtype == np.int64
    assert read_sizes(made).tolist() == np.bincount(found, minlength=6).tolist()
    assert [made.summary(item.index).keys() for item in pool.run.items] == [{"rows"}] * 4


def test_giants_hold_more_than_ten_times_the_mean() -> None:
    """Of 12 known centroids one is near everything: 40 samples in it, a mean of 3.3."""
    samples = Samples.drawn(40, image=np.float16(np.tile(np.eye(16)[0], (40, 1))))
    url = f"memory://{uuid.uuid4().hex}/known.npy"
    saved(url, np.eye(16)[:12])
    made = clustered(filtered(samples, shards=2), known=url)
    report = made.done() or {}
    assert (report["giant"], report["largest"], report["empty"], report["clusters"]) == (1, 40, 11, 12)


def test_probes_are_the_next_nearest_in_order() -> None:
    samples = Samples.drawn(70)
    pool = filtered(samples, Random(count=50), shards=3)
    made = execute(clusters_of(pool.survivors, "clip", 6, 20, 256, 0, probes=2), pool.run).artifact
    cosine = samples.image.astype(np.float64) @ read_centroids(made).astype(np.float64).T
    nearest = dict(zip(samples.uid, np.argsort(-cosine, axis=1, kind="stable")[:, :3].tolist(), strict=True))
    seen = 0
    for item in pool.run.items:
        part = Members.read(made, item.index)
        uids = pool.survivors.samples.read(item.index, ["uid"])["uid"].to_pylist()
        assert part.probes is not None
        assert part.probes.dtype == np.int32
        for row, cluster, probes in zip(part.rows, part.cluster, part.probes, strict=True):
            assert [cluster, *probes] == nearest[uids[row]]
            seen += 1
    assert seen == 50
    without = clustered(pool, k=6)
    assert "probes" not in without.columns(0)
    assert Members.read(without, 0).probes is None
    assert without.name != made.name


def test_known_centroids_stay_as_a_pool_grows() -> None:
    """Nothing is fitted: the old samples keep their clusters and distances, the new ones get theirs."""
    samples = Samples.drawn(80)
    small = filtered(samples.take(np.arange(50)), shards=2)
    fitted = clustered(small)
    grown = filtered(samples, shards=3)
    made = clustered(grown, known=fitted.folder)
    assert read_centroids(made).tobytes() == read_centroids(fitted).tobytes()
    assert storage.folders(made.folder) == []
    before, after = members(small, fitted), members(grown, made)
    assert {uid: after[uid] for uid in before} == before
    assert len(after) == 80
    report = made.done() or {}
    assert report["from"] == fitted.meta("centroids.npy")
    assert "sample" not in report
    shares = [Counter(cluster for cluster, _ in found.values()) for found in (before, after)]
    changes = {j: shares[1][j] / 80 - shares[0][j] / 50 for j in range(5)}
    assert report["drift"]["distance"] == pytest.approx(sum(map(abs, changes.values())) / 2)
    largest = max(changes, key=lambda j: abs(changes[j]))
    assert report["drift"]["most"][0] == [largest, shares[0][largest] / 50, shares[1][largest] / 80]
    assert report["told"].startswith(
        f"the clusters drifted by {100 * report['drift']['distance']:.1f} % from those of {fitted.name}"
    )


def test_a_plain_file_of_centroids_has_no_drift() -> None:
    pool, folder = filtered(Samples.drawn(20)), f"memory://{uuid.uuid4().hex}"
    saved(f"{folder}/known.npy", np.eye(16)[:3])
    saved(f"{folder}/sizes.npy", np.array([1, 2, 3]))
    assert "drift" not in (clustered(pool, known=f"{folder}/known.npy").done() or {})


def test_another_file_of_centroids_is_another_artifact() -> None:
    pool = filtered(Samples.drawn(20))
    url = f"memory://{uuid.uuid4().hex}/known.npy"
    saved(url, np.eye(16)[:3])
    first = artifact_of(clusters_of(pool.survivors, "clip", Known(source=url), 20, 256, 0), pool.run.store)
    again = artifact_of(clusters_of(pool.survivors, "clip", Known(source=url), 9, 99, 1), pool.run.store)
    assert first == again  # how to fit says nothing where nothing is fitted
    saved(url, np.eye(16)[:4])
    assert artifact_of(clusters_of(pool.survivors, "clip", Known(source=url), 20, 256, 0), pool.run.store) != first
    with pytest.raises(
        DataError, match=r"folder of a clusters artifact, but memory://nowhere/centroids.npy does not exist"
    ):
        clusters_of(pool.survivors, "clip", Known(source="memory://nowhere"), 20, 256, 0)


def test_nothing_in_and_known_centroids() -> None:
    pool = filtered(Samples.drawn(20), Random(count=0), shards=2)
    url = f"memory://{uuid.uuid4().hex}/known.npy"
    saved(url, np.eye(16)[:3])
    report = clustered(pool, known=url).done() or {}
    assert (report["rows"], report["empty"], report["largest"], report["giant"]) == (0, 3, 0, 0)


def test_centroids_that_are_there_are_not_fitted_again() -> None:
    """Another run that was ended after the fit assigns to the same centroids."""
    pool = filtered(Samples.drawn(50), shards=3)
    stage = clusters_of(pool.survivors, "clip", 5, 20, 256, 0)
    out = artifact_of(stage, pool.run.store)
    own = np.eye(16, dtype=np.float32)[:5]
    saved(out.meta("centroids.npy"), own)
    execute(stage, pool.run)
    assert read_centroids(out).tolist() == own.tolist()
    assert storage.folders(out.folder) == []


def test_more_clusters_than_samples_are_refused() -> None:
    pool = filtered(Samples.drawn(30), Random(count=9), shards=2)
    with pytest.raises(DataError, match="asks for 10 clusters of the 9 samples that are still in; ask for fewer"):
        clustered(pool, k=10)


@pytest.mark.parametrize("empty", [0, 1])
def test_a_shard_without_rows_has_no_members(empty: int) -> None:
    """First or last: the width of the vectors comes from the other."""
    root = f"memory://{uuid.uuid4().hex}"
    urls = [*write_vectors(f"{root}/pool", Samples.drawn(30)), *write_vectors(f"{root}/empty", Samples.drawn(0))]
    pool = opened(tuple(urls if empty else urls[::-1]), store=f"{root}/store")
    made = clustered(pool, k=3)
    assert len(members(pool, made)) == 30
    assert len(Members.read(made, empty).rows) == 0


def test_a_shard_of_three_rows_says_little_of_50_000_clusters() -> None:
    made = Artifact(f"memory://{uuid.uuid4()}", "clusters", "0" * 16)
    columns = {"row": [0, 1, 2], "cluster": pa.array([49_999, 7, 7], pa.int32()), "distance": pa.array([0.5] * 3)}
    made.write(0, pa.table(columns), {"rows": 3})
    found = _ClusterSizes(made)(ShardItem(0, "a.tar"))
    assert dict(zip(found.index.tolist(), found.values[0].tolist(), strict=True)) == {7: 2, 49_999: 1}
    assert len(pickle.dumps(found)) < 1_000
    assert len(json.dumps(made.summary(0))) < 100, "counts of clusters are in no footer"
