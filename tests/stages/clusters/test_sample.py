"""The sample of k-means lies in few files, and is the same for any number of workers that gather it."""

from dataclasses import replace

import numpy as np
import pytest

from tests.pools import Filtered, Samples, filtered
from winnow.pipeline import storage
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import artifact_of
from winnow.pipeline.uid import uids_from_hex
from winnow.stages.clusters import sample
from winnow.stages.clusters.clusters import clusters_of
from winnow.stages.clusters.sample import draw_sample, files_of_sample, read_sample
from winnow.stages.kernels.uid_hash import hash_values


def drawn(pool: Filtered, wanted: int, workers: int = 1) -> tuple[list[storage.Identity], np.ndarray]:
    """Files of the sample, and its rows, in a store of its own."""
    store = f"{pool.run.store}/drawn-by-{workers}"
    out = artifact_of(clusters_of(pool.survivors, "clip", 5, 20, 256, 0), store)
    draw_sample(replace(pool.run, executor=LocalExecutor(workers)), pool.survivors, "clip", 7, wanted, out)
    return storage.listing(out.meta("sample")), read_sample(out, len(pool.run.items), wanted)


def expected(samples: Samples, wanted: int) -> np.ndarray:
    """The rows with the highest hashes, in the order of their uids."""
    best = np.argsort(-hash_values(uids_from_hex(samples.uid), 7))[:wanted]
    return samples.image[sorted(best, key=lambda row: samples.uid[row])].astype(np.float32)


@pytest.mark.timeout(600)  # 300 shards through three stages
def test_many_tiny_shards_make_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "_GROUP_ROWS", 5)  # files of several row groups
    samples = Samples.drawn(600)
    files, rows = drawn(filtered(samples, shards=300), 200)
    assert len(files) == 38
    assert np.array_equal(rows, expected(samples, 200))


def test_one_and_three_workers_gather_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "_SHARDS_A_FILE", 3)
    samples = Samples.drawn(90)
    pool = filtered(samples, shards=20)
    one, three = (drawn(pool, 40, workers) for workers in (1, 3))
    assert [storage.name_of(found.url) for found in one[0]] == [storage.name_of(found.url) for found in three[0]]
    assert [storage.read_bytes(found.url) for found in one[0]] == [storage.read_bytes(found.url) for found in three[0]]
    assert one[1].tobytes() == three[1].tobytes() == expected(samples, 40).tobytes()


def test_shards_without_drawn_rows_leave_files_without_rows() -> None:
    samples = Samples.drawn(12)
    files, rows = drawn(filtered(samples, shards=12), 1)
    assert len(files) == 2
    assert np.array_equal(rows, expected(samples, 1))


@pytest.mark.parametrize(
    ("shards", "wanted", "files"),
    [
        (1, 500, 1),
        (3, 24, 1),
        (20, 12_800_000, 20),
        (300, 200, 38),
        (2_000, 12_800_000, 2_000),
        (400_000, 128_000, 2048),
    ],
)
def test_files_by_shards_and_rows(shards: int, wanted: int, files: int) -> None:
    assert files_of_sample(shards, wanted) == files
