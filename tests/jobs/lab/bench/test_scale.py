"""The benchmark of the driver on few shards: every pass has its row, its folds see every shard, and nothing is left."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

from tests.tree import ROOT
from winnow.jobs.lab.bench.scale import Drawn, Replayed, passes
from winnow.pipeline.stage import Run
from winnow.pipeline.storage import Identity


class Here:
    """Makes the answers in this process."""

    def submit(self, function, *given):
        function(*given)
        return self

    def result(self):
        return None


def test_a_tiny_bench(tmp_path: Path) -> None:
    """In a process of its own, for it fails where its process holds more than the driver of a run may."""
    folder = tmp_path / "bench"
    options = ["--folder", str(folder), "--shards", "4,9", "--clusters", "600", "--rows", "50", "--together", "3"]
    command = [sys.executable, "-m", "winnow.jobs.lab.bench.scale", *options]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    drawn = Drawn(50, 600)
    for told in (
        *passes(drawn, 9),
        "9 shards of 50 rows, 600 clusters",
        "growth since 4 shards",
        "answers are simulated",
    ):
        assert told in result.stdout
    assert not folder.exists()


def test_every_shard_is_in_the_folds_and_an_answer_is_for_a_whole_call(tmp_path: Path) -> None:
    executor = Replayed(tmp_path, Here(), together=4, distinct=2)  # type: ignore[arg-type]  # a pool of no process
    run = Run("out", executor, tuple(Identity(f"{i}.tar", 1, "") for i in range(12)))
    found = {name: work(run) for name, work in passes(Drawn(20, 600), 12).items()}
    assert len(found["list the shards: every pass"]) == 12
    assert found["a stage's files: summaries"] == 240
    assert sum(found["sizes: clusters"][0]) == sum(found["moments: density"][0]) == 240
    assert found["standings: verify"].looked == {"rows": 240}
    assert executor.largest < len(pickle.dumps(found["sizes: clusters"]))
