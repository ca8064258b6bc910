"""Training in place: each kept sample once over nodes and workers, each epoch's own, and clear refusals."""

import json
import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests import outside_cut
from tests.jobs.test_run import job_values, planted
from tests.pools import Samples, read_tar, write_vectors
from winnow.jobs import loader
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import JobResult, job_url, run_job
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.uid import uids_to_hex

POLICY = [{"rules": {"min_words": 3}}, {"duplicates": {}}, {"epochs": {"epochs": 3, "count": 30}}]
KEPT = 90  # 120 without 12 useless captions, 12 copies and 6 that cannot be read; three epochs of 30 take all


def finished(values: dict[str, Any]) -> JobResult:
    return run_job(parse(values), LocalExecutor(2), lambda line: None)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> JobResult:
    """A job over four tars, with shards to compare with."""
    folder = tmp_path_factory.mktemp("loader")
    planted(folder / "pool", 4)
    return finished(job_values(folder, POLICY, limits={"max_reject_fraction": 0.1}))


def exported(result: JobResult) -> dict[str, bytes]:
    """Member contents of the exported shards by name."""
    assert result.path.shards is not None
    return dict(entry for path in sorted(Path(result.path.shards.folder).glob("*.tar")) for entry in read_tar(path))


def by_name(found: Iterable[dict[str, Any]]) -> dict[str, bytes]:
    """Member contents of samples by name; a sample may come once."""
    every = [
        (f"{sample['__key__']}.{suffix}", content)
        for sample in found
        for suffix, content in sample.items()
        if not suffix.startswith("__")
    ]
    assert len(dict(every)) == len(every)
    return dict(every)


def uids(found: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(json.loads(sample["json"])["uid"] for sample in found)


def test_every_kept_sample_comes_with_the_bytes_of_its_exported_shard(result: JobResult) -> None:
    every = list(loader.samples(result.job.store, "planted"))
    assert by_name(every) == exported(result)
    assert loader.open_kept_samples(result.job.store, "planted").count == len(every) == KEPT
    assert {sample["__url__"] for sample in every} == {shard.url for shard in result.job.pool.identities()}


# torch warns where a machine has fewer cores than workers
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_nodes_divide_the_shards(result: JobResult, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.loads(pickle.dumps(loader.samples(result.job.store, "planted", shuffle=7)))  # noqa: S301  # our own
    assert isinstance(data, torch.utils.data.IterableDataset)
    with_workers = list(DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork"))
    assert by_name(with_workers) == exported(result)
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        parts.append(list(data))
    assert by_name(sample for part in parts for sample in part) == exported(result)
    assert all(parts)


def test_shards_come_in_another_order_for_another_seed(result: JobResult) -> None:
    orders = {
        seed: [sample["__url__"] for sample in loader.samples(result.job.store, "planted", shuffle=seed)]
        for seed in (None, 0, 1)
    }
    assert orders[None] == sorted(orders[None])
    assert len({tuple(order) for order in orders.values()}) == 3
    assert len({tuple(sorted(Counter(order).items())) for order in orders.values()}) == 1


def test_an_epoch_has_its_own_samples(result: JobResult) -> None:
    drawn = dict(result.steps)["epochs"].artifact
    for epoch in range(3):
        found = list(loader.samples(result.job.store, "planted", epoch=epoch))
        assert uids(found) == uids_to_hex(np.load(drawn.meta(f"epoch_{epoch:03d}.npy")))
        assert loader.open_kept_samples(result.job.store, "planted", epoch=epoch).count == len(found) == 30


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "other"}, "none called 'other'; it has planted"),
        ({"epoch": 3}, "got 3; planted has 0 to 2"),
        ({"epoch": -1}, "got -1"),
    ],
)
def test_what_is_not_there_is_refused(result: JobResult, options: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError, match=says):
        loader.open_kept_samples(result.job.store, **{"name": "planted", **options})


@pytest.mark.parametrize("shard", [-1, 4])
def test_a_shard_that_the_pool_has_not_is_refused(result: JobResult, shard: int) -> None:
    with pytest.raises(JobError, match=f"a shard of planted must be 0 to 3, got {shard}"):
        loader.open_kept_samples(result.job.store, "planted").plan(shard)


def test_epochs_of_another_package_are_loaded_where_it_is_not_installed(tmp_path: Path) -> None:
    planted(tmp_path / "pool", 4)
    policy = [{"rules": {"min_words": 3}}, {"slices": {"epochs": 2, "each": 7}}]
    values = job_values(tmp_path, policy, limits={"max_reject_fraction": 0.1}, shards=None)
    with pytest.MonkeyPatch.context() as patch:
        outside_cut.install(patch, tmp_path / "installed")
        manifest = finished(values).path.manifest
        with pytest.raises(JobError, match="slices must be the last cut of a policy, because a later cut would remove"):
            parse({**values, "policy": [policy[1], policy[0]]})
    stay = [[row["uid"] for row in manifest.read(shard).to_pylist() if row["kept"]] for shard in range(4)]
    assert [len(uids) for uids in stay] == [14] * 4
    for epoch in range(2):
        found = list(loader.samples(values["store"], "planted", epoch=epoch))
        assert uids(found) == sorted(uid for shard in stay for uid in shard[7 * epoch : 7 * epoch + 7])
        assert loader.open_kept_samples(values["store"], "planted", epoch=epoch).count == len(found) == 28
    with pytest.raises(JobError, match="got 2; planted has 0 to 1"):
        loader.open_kept_samples(values["store"], "planted", epoch=2)


def test_a_pool_without_images_is_refused(tmp_path: Path) -> None:
    pool = {"shards": list(write_vectors(f"{tmp_path}/pool", Samples.drawn(9))), "format": "vectors"}
    values = {"name": "v", "store": f"{tmp_path}/store", "pool": {**pool, "text": "text", "encoder": "clip"}}
    finished({**values, "policy": [{"random": {"count": 4}}]})
    with pytest.raises(JobError, match=r"the pool of v \(vectors\) has no images.*uids\.npy"):
        loader.open_kept_samples(values["store"], "v")
    record = Path(job_url(values["store"], "v"))
    record.write_text("{}")
    with pytest.raises(DataError, match=r"the record of v in .* must be as its run left it, but: KeyError"):
        loader.open_kept_samples(values["store"], "v")


def test_a_job_without_epochs_and_one_whose_files_are_gone_say_so(tmp_path: Path) -> None:
    planted(tmp_path / "pool", 1)
    values = job_values(tmp_path, [{"random": {"count": 9}}], limits={"max_reject_fraction": 0.1}, shards=None)
    done = finished(values)
    with pytest.raises(JobError, match="got 0; planted has no cut that draws any, such as `epochs`"):
        loader.open_kept_samples(values["store"], "planted", epoch=0)
    Path(dict(done.steps)["pool"].artifact.meta("_done.json")).unlink()
    with pytest.raises(JobError, match=r"must be whole, but has no _done\.json; run the job again"):
        loader.open_kept_samples(values["store"], "planted")
