"""One answer for any sharding: all cuts over the same samples in 1, 7 and 40 shards, in threads and on Ray."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pools import ON_EACH, Samples, normed, unit, write_vectors
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.pipeline import storage
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.uid import uids_from_hex
from winnow.stages.cuts.kinds import CUTS
from winnow.stages.results.manifest import UIDS

COLUMNS = {
    "copies": {"captions": "count"},
    "repeated": {"captions": "repetition", "n": 2},
    "lang": {"language": "caption"},
    "sure": {"language": "caption", "value": "score"},
}
POLICY = [
    {"rules": {"min_words": 3, "fields": {"copies": {"max": 3}, "lang": {"not_in": ["xx"]}}}},
    {"duplicates": {"by": "clip", "exact": False, "epsilon": 0.1, "clusters": 6, "probes": 2}},
    {"similarity": {"by": "clip", "fraction": 0.9}},
    {"negclip": {"by": "clip", "fraction": 0.9, "batch": 64, "partitions": 2}},
    {"normsim": {"by": "clip", "target": "TARGET", "p": "inf", "fraction": 0.9}},
    {"image_based": {"by": "clip", "target": "TARGET", "clusters": 30}},
    {"feature_mapping": {"by": "clip", "target": "TARGET", "clusters": 12, "top": 8}},
    {"coverage": {"by": "clip", "fraction": 0.9, "beta": 0.05}},
    {"prototypes": {"by": "clip", "fraction": 0.9, "clusters": 5, "balance": 0.5}},
    {"density": {"by": "clip", "fraction": 0.8, "clusters": 7}},
    {"score": {"from": "SCORES", "column": "value", "fraction": 0.9}},
    {
        "mix": {
            "values": [{"by": "clip"}, {"from": "SCORES", "column": "value", "weight": 0.5}, {"field": "sure"}],
            "fraction": 0.9,
        }
    },
    {"subset": {"uids": "LIST", "keep": False}},
    {"cap": {"by": "side", "most": 2, "similarity": "clip"}},
    {
        "any": [
            {"similarity": {"by": "clip", "fraction": 0.4}},
            {"density": {"by": "clip", "fraction": 0.7, "clusters": 5}},
        ]
    },
    {"random": {"fraction": 0.9}},
    {"epochs": {"fraction": 0.3, "epochs": 2}},
]


def crowds(n: int = 900) -> Samples:
    """Samples around 40 directions, a third of them near copies, some captions too short."""
    rng = np.random.default_rng(5)
    image = unit(40, 16, 1)[rng.integers(0, 40, n)] + 0.4 * rng.normal(size=(n, 16)) / 4
    image[-300:] = image[rng.integers(0, 600, 300)] + 0.02 * rng.normal(size=(300, 16))
    text = normed(image + 0.5 * rng.normal(size=(n, 16)))
    samples = Samples.drawn(n, seed=5, image=normed(image), text=text)
    samples.caption[::50] = ["x"] * len(samples.caption[::50])
    samples.width[:] = [200 + side for side in rng.integers(0, 20, n).tolist()]
    return samples.take(rng.permutation(n))


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples in 1, 7 and 40 shards, a target of vectors, and scores."""
    folder, samples = tmp_path_factory.mktemp("shardings"), crowds()
    for shards in (1, 7, 40):
        write_vectors(str(folder / f"pool-{shards}"), samples, shards)
    np.save(folder / "list.npy", uids_from_hex(samples.uid[::3]))
    np.save(folder / "target.npy", samples.image[::30])
    pq.write_table(pa.table({"uid": samples.uid, "value": np.arange(900) % 97}), folder / "scores.parquet")
    return folder


def decided(folder: Path, shards: int, executor: Executor) -> tuple[str, dict[str, int]]:
    """sha256 of the kept uids, and how many each cut dropped."""
    text = (
        json.dumps(POLICY)
        .replace("TARGET", str(folder / "target.npy"))
        .replace("SCORES", str(folder / "scores.parquet"))
        .replace("LIST", str(folder / "list.npy"))
    )
    pool: dict[str, object] = {
        "shards": str(folder / f"pool-{shards}/*.parquet"),
        "format": "vectors",
        "encoder": "clip",
    }
    pool |= {"image": "image", "text": "text", "fields": {"side": "width"}}
    store = str(folder / f"store-{type(executor).__name__}-{shards}")
    job = parse({"name": "all", "store": store, "pool": pool, "columns": COLUMNS, "policy": json.loads(text)})
    result = run_job(job, executor, lambda line: None)
    kept = storage.read_bytes(result.path.manifest.meta(UIDS))
    return hashlib.sha256(kept).hexdigest(), dict(result.counts["dropped"])  # type: ignore[call-overload]  # counts by cut


@pytest.fixture(scope="module")
def one_shard(pools: Path) -> tuple[str, dict[str, int]]:
    """The answer for one shard, in threads."""
    return decided(pools, 1, LocalExecutor(1))


def test_every_cut_takes_part(one_shard: tuple[str, dict[str, int]]) -> None:
    assert {next(iter(cut)) for cut in POLICY} == set(CUTS)
    assert all(one_shard[1].values()), one_shard[1]


@pytest.mark.parametrize(("shards", "executor"), ON_EACH, indirect=["executor"])
def test_one_answer(pools: Path, one_shard: tuple[str, dict[str, int]], shards: int, executor: Executor) -> None:
    assert decided(pools, shards, executor) == one_shard
