"""A run whose first shards are rejected nearly whole ends there: always the same shards, and never for one of them."""

from pathlib import Path

import numpy as np
import pytest

from tests.pools import READER, Samples, write_vectors
from winnow.pipeline.errors import RejectsError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import Limits, Run, artifact_of, execute, spread
from winnow.stages.pools.pool import Pool, PoolStage
from winnow.stages.preview.early import example
from winnow.stages.samples import Samples as SamplesStage
from winnow.stages.vectors import StoredVectors

SHARDS, EACH = 40, 5


def embedded(folder: Path, bad: set[int], limits: Limits, executor: Executor | None = None) -> int:
    """How many shards are done of a pool in which every vector of the bad shards is zero; raises what the run does."""
    samples = Samples.drawn(SHARDS * EACH)
    for shard in bad:
        samples.image[shard * EACH : (shard + 1) * EACH] = 0
    if not (folder / "pool").exists():
        write_vectors(str(folder / "pool"), samples, SHARDS)
    shards = Pool((f"{folder}/pool/*.parquet",), READER).identities()
    store = str(folder / "store")
    run = Run(store, executor or LocalExecutor(1), shards, limits=limits)
    samples_stage = SamplesStage(artifact_of(PoolStage(shards), store), READER, None)
    stage = StoredVectors(execute(samples_stage, run).artifact, READER, "", "clip")
    try:
        execute(stage, run)
    finally:
        done = len(artifact_of(stage, store).present())
    return done


def test_all_bad_ends_after_the_first_shards(tmp_path: Path) -> None:
    with pytest.raises(RejectsError) as error:
        embedded(tmp_path, set(range(SHARDS)), Limits())
    first, kind, *more = str(error.value).splitlines()
    assert first == "a pool must be readable, but 25 of the 25 samples of 5 of its 40 shards are rejected:"
    assert kind.startswith(f"  vector-zero          25  100.00%  such as {tmp_path}/pool/00000.parquet, ")
    assert "limits.stop_early: false" in more[-1]
    made = list((tmp_path / "store").glob("vectors-*/0*.parquet"))
    assert len(made) < 10
    assert {f"{number:05d}" for number in spread(SHARDS)} <= {path.stem for path in made}


def test_the_same_command_ends_at_once_and_goes_on_when_told(tmp_path: Path) -> None:
    with pytest.raises(RejectsError):
        embedded(tmp_path, set(range(SHARDS)), Limits())
    with pytest.raises(RejectsError, match="25 of the 25 samples of 5 of its 40"):
        embedded(tmp_path, set(range(SHARDS)), Limits())
    assert embedded(tmp_path, set(range(SHARDS)), Limits(stop_early=False)) == SHARDS


@pytest.mark.parametrize(
    ("bad", "limits"),
    [
        ({0}, Limits()),
        ({0, 9, 19, 29}, Limits()),
        (set(range(1, 39)), Limits()),
        (set(range(20)), Limits()),
        (set(range(SHARDS)), Limits(max_reject_fraction=1.0)),
    ],
)
def test_some_bad_shards_are_for_the_limits_to_judge(tmp_path: Path, bad: set[int], limits: Limits) -> None:
    assert embedded(tmp_path, bad, limits) == SHARDS


def test_every_executor_ends_for_the_same_shards(tmp_path: Path, executor: Executor) -> None:
    bad = set(spread(SHARDS))
    with pytest.raises(RejectsError, match="25 of the 25 samples of 5 of its 40 shards"):
        embedded(tmp_path, bad, Limits(), executor)


def test_a_shard_with_one_in_ten_sound_goes_on(tmp_path: Path) -> None:
    samples = Samples.drawn(50)
    samples.image[np.arange(50) % 10 > 0] = 0
    [url] = write_vectors(str(tmp_path / "pool"), samples)
    shards = Pool((url,), READER).identities()
    run = Run(str(tmp_path / "store"), LocalExecutor(1), shards)
    samples_stage = SamplesStage(artifact_of(PoolStage(shards), run.store), READER, None)
    stage = StoredVectors(execute(samples_stage, run).artifact, READER, "", "clip")
    assert execute(stage, run).report["rejected"] == 45


def test_a_reject_is_named_by_its_key_or_its_place() -> None:
    assert example("a.tar", "0001", 3, "no image") == "a.tar, 0001: no image"
    assert example("a.parquet", "", 3, "no image") == "a.parquet, sample 3: no image"
