"""Real processes over a few drawn pictures: winnow and the plain loop come to the same vectors."""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from winnow.jobs.lab.bench import peer as bench_peer
from winnow.jobs.lab.bench.peer import least_cosines, make_shards
from winnow.jobs.lab.bench.peer_runs import (
    WEIGHTS,
    PairVectors,
    Ran,
    Workload,
    plain_loop,
    sorted_vectors,
    timed,
    winnow,
)
from winnow.jobs.quickstart import pocket
from winnow.pipeline.errors import ModelError, ShardError
from winnow.stages.pools.sample import Sample
from winnow.stages.pools.webdataset import Webdataset


def vectors(keys: str, image: np.ndarray) -> PairVectors:
    return sorted_vectors(np.array(list(keys)), image, image)


def test_both_come_to_the_same_vectors(tmp_path: Path) -> None:
    weights = tmp_path / "random.pt"
    words = [sys.executable, "-c", WEIGHTS, str(pocket.POCKET_CONFIG), str(weights)]
    timed(words, {}, tmp_path / "weights.log")
    shards = make_shards(bench_peer._drawn(64), 6, 2, tmp_path / "shards")
    work = Workload(tmp_path, shards, str(pocket.POCKET_CONFIG), weights, cores=1, batch_size=2)
    ours, theirs = winnow(work, "exact", "local"), plain_loop(work, 1)
    assert least_cosines(ours.vectors, theirs.vectors)[0] > 0.999
    assert len(ours.vectors.keys) == 6
    assert ours.vectors.image.shape == ours.vectors.text.shape == (6, 64)
    assert ours.stage is not None
    assert 0 < ours.embedding < ours.stage < ours.whole
    assert 0 < theirs.embedding < theirs.whole
    assert theirs.stage is None
    assert min(ours.cpu, theirs.cpu) > 0.5  # both import torch


def test_vectors_are_compared_by_key() -> None:
    rows = np.eye(3, 8, dtype=np.float16)
    assert least_cosines(vectors("abc", rows), vectors("cba", rows[::-1])) == (1, 1)
    with pytest.raises(ShardError, match="cosine"):
        least_cosines(vectors("abc", rows), vectors("abc", rows[::-1]))
    with pytest.raises(ShardError, match="same samples"):
        least_cosines(vectors("abc", rows), vectors("abd", rows))


def test_shards_are_of_one_size(tmp_path: Path) -> None:
    pairs = list(islice(bench_peer._drawn(32), 7))
    paths = make_shards(iter(pairs), 7, 3, tmp_path / "shards")
    assert [path.name for path in paths] == ["00000.tar", "00001.tar", "00002.tar"]
    found = [[s for s in Webdataset().samples(str(path)) if isinstance(s, Sample)] for path in paths]
    assert [[(bytes(s.image), s.caption) for s in shard] for shard in found] == [pairs[i:6:3] for i in range(3)]
    assert len({s.key for shard in found for s in shard}) == 6
    assert list(bench_peer._photos(f"{tmp_path}/shards/*.tar")) == [*pairs[0:6:3], *pairs[1:6:3], *pairs[2:6:3]]
    with pytest.raises(ShardError, match="got 2"):
        make_shards(iter(pairs[:2]), 7, 3, tmp_path / "shards")


def test_what_a_table_tells() -> None:
    done = vectors("ab", np.eye(2, dtype=np.float16))
    ours = [Ran(done, embedding=seconds, stage=2.0, whole=4.0, cpu=1.5) for seconds in (0.5, 1.0, 2.0)]
    theirs = [Ran(done, embedding=4.0, stage=None, whole=10.0, cpu=3.0)] * 3
    assert bench_peer._rates(ours, True) == ["2", "1", "0", "1.5"]
    assert bench_peer._rates(theirs, False) == ["0", "", "0", ""]
    assert bench_peer._ratios(ours, theirs) == "4.00 (2.00 to 8.00), 2.50"


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such thing"):
        timed([sys.executable, "-c", "raise SystemExit('no such thing')"], {}, tmp_path / "log")
