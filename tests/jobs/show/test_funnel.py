"""What a finished job says: results by whole names, and a training command that training's own reader opens."""

import io
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from winnow.jobs.job_file.job import parse
from winnow.jobs.run import JobResult
from winnow.jobs.show import funnel
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.stage import StepResult
from winnow.stages.policy import Path


def finished(store: str, shards: int, kept: int, **more: int) -> JobResult:
    """A job that left so many shards."""
    job = parse(
        {
            "name": "a",
            "store": store,
            "pool": {"shards": "a.tar"},
            "embeddings": {"clip": {"model": "RN50", "pretrained": "random"}},
        }
    )
    written = Artifact(store, "shards", "0" * 16)
    step = StepResult("shards", written, {"shards": shards, "samples": kept, **more}, 1.0, False)
    path = Path((), (), Artifact(store, "manifest", "1" * 16), written)
    counts = {"pool": 9, "kept": kept, "dropped": {"random": 9 - kept}, "rejected": {}}
    return JobResult(job, path, counts, (("shards", step),))


@pytest.mark.parametrize(
    ("store", "shards", "data"),
    [
        ("/a b", 1, "/a b/shards-0000000000000000/00000.tar"),
        ("gs://b/s", 12, "gs://b/s/shards-0000000000000000/{00000..00011}.tar"),
        ("s3://b/s", 2, "pipe:aws s3 cp s3://b/s/shards-0000000000000000/{00000..00001}.tar -"),
        ("s3://b/s; ls", 2, "pipe:aws s3 cp 's3://b/s; ls/shards-0000000000000000'/{00000..00001}.tar -"),
    ],
)
def test_the_training_command_names_the_shards_as_webdataset_opens_them(store: str, shards: int, data: str) -> None:
    words = shlex.split(funnel.training_command(finished(store, shards, 5)))
    assert words[words.index("--train-data") + 1] == data
    assert words[words.index("--train-num-samples") + 1] == "5"
    assert words[words.index("--model") + 1] == "RN50"


@pytest.mark.parametrize("kept", [0, 5])
def test_long_names_stay_whole_and_nothing_is_trained_on_nothing(kept: int) -> None:
    out = io.StringIO()
    store = "/" + "[long]" * 30
    funnel.show_funnel(finished(store, min(kept, 1), kept), Console(file=out, width=60))
    lines = out.getvalue().splitlines()
    assert f"manifest  {store}/manifest-1111111111111111" in lines
    assert f"uids      {store}/manifest-1111111111111111.meta/uids.npy" in lines
    assert f"shards    {store}/shards-0000000000000000" in lines
    assert ("train on them:" in lines) == (kept > 0)


@pytest.mark.parametrize(("more", "said"), [({}, False), ({"renamed": 0}, False), ({"renamed": 1200}, True)])
def test_members_that_were_renamed_are_told(more: dict[str, int], said: bool) -> None:
    out = io.StringIO()
    funnel.show_funnel(finished("/s", 1, 5, **more), Console(file=out))
    line = "renamed   1,200 members of samples, so that open_clip's loader reads the judged pairs"
    assert (line in out.getvalue().splitlines()) is said
    assert ("renamed" in out.getvalue()) is said


@given(st.integers(1, 5000), st.integers(1, 3000))
def test_every_loader_worker_has_a_batch(samples: int, samples_per_shard: int) -> None:
    sizes = [min(samples_per_shard, samples - start) for start in range(0, samples, samples_per_shard)]
    batch, workers = funnel.loading(samples, len(sizes))
    # webdataset gives worker w of n the shards [w::n] of some order: at worst the fewest, and the short one among them
    worst = sum(sorted(sizes)[: len(sizes) // workers])
    assert 1 <= batch <= min(256, worst)
    assert workers <= len(sizes)


def test_a_large_job_has_large_batches() -> None:
    assert funnel.loading(1_000_000, 100) == (256, 8)
    assert funnel.loading(178, 1) == (128, 1)
    assert funnel.loading(600, 1000) == (256, 1)  # in the pool's own shards, most of them without one that is kept
