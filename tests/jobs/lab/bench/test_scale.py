"""The benchmark of the driver on few shards: every pass has its row, its folds see every shard, and nothing is left."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

from tests.tree import ROOT
from winnow.jobs.lab.bench.scale_passes import Drawn, Passes
from winnow.jobs.lab.bench.scale_replay import Replayed
from winnow.jobs.lab.bench.scale_store import FilledStore
from winnow.pipeline.stage import Run


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
    for told in (
        *passes(tmp_path, Drawn(50, 600), 9)[1],
        "9 shards of 50 rows, 600 clusters",
        "growth since 4 shards",
        "answers are simulated",
    ):
        assert told in result.stdout
    assert not folder.exists()


def passes(folder: Path, drawn: Drawn, shards: int):
    """The run and the passes over a store of so many shards, and the executor that replays four shards a call."""
    store = FilledStore.make(folder / "store", shards, drawn.rows, real=shards)
    executor = Replayed(folder, Here(), together=4, distinct=2)  # type: ignore[arg-type]  # a pool of no process
    return Run(store.url, executor, store.shards), Passes(drawn, store, executor).of(), executor


def test_every_shard_is_in_the_folds_and_an_answer_is_for_a_whole_call(tmp_path: Path) -> None:
    run, works, executor = passes(tmp_path, Drawn(20, 600), 12)
    found = {}
    for name, work in works.items():
        executor.largest = 0
        found[name] = work(run)
        if name == "sizes: clusters":
            assert 0 < executor.largest < len(pickle.dumps(found[name]))
    assert len(found["list the shards: every pass"]) == 12
    for name in ("a stage's files, none there: run", "a stage's files, all there: run"):
        assert found[name].number("rows") == 240
    assert found["shards taken over: samples"] == 12
    assert found["a stage that is done: run, sweep"] is True
    assert sum(found["sizes: clusters"][0]) == sum(found["moments: density"][0]) == 240
    assert sum(found["votes: image_based, feature_mapping"]) == 153 * 65_536
    assert found["one exchange: duplicates"].number("links") == 12 * 5_000
    # one finding each: what a check compares is there, and nothing in it differs
    for name in ("pool: verify", "files: verify", "ledger: verify", "uids: verify", "standings: verify"):
        assert found[name].wrong == 0, found[name]
    assert found["pool: verify"].looked == {"shards": 12}
    assert found["ledger: verify"].sums["in density"] == 36
    assert found["standings: verify"].looked == {"rows": 240}
    assert sum(tar.samples for tar in found["plan of the tars: run, verify"]) == 72
    assert found["facts: report"].counts["kept"] == 72
    assert found["samples: report"].rows == 240
    assert not list(tmp_path.rglob("scratch/*"))
