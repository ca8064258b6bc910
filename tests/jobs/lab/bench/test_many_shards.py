"""A tiny run of the real thing: every stage has its line, the second run makes nothing, nothing is left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from winnow.jobs.job_file.job import load_job
from winnow.jobs.lab.bench import many_shards as bench_many


def test_a_tiny_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(bench_many, "again", lambda *_: (1.5, 0.5))  # tests of the command start it often enough
    app = bench_many.typer.Typer()
    app.command()(bench_many.main)
    options = ["--folder", str(tmp_path / "bench"), "--shards", "6", "--rows", "4", "--executor", "local"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    for told in ("6 shards of 4 samples", "samples", "distinct", "rules", "random", "manifest", "all is done"):
        assert told in result.output
    assert "the whole command, all done: 1.5 s, 0.5 CPU s; at most 10 s" in result.output
    assert list((tmp_path / "bench").iterdir()) == []


def test_a_stage_is_charged_with_its_passes_and_bytes(tmp_path: Path) -> None:
    job = load_job(str(bench_many.prepare_many_shards(tmp_path, 6, 4)))
    cold, warm = (bench_many.stage_costs(job, "local", 2) for _ in range(2))
    passes = {line.stage: line.passes for line in cold}
    assert passes.pop("random") in (2, 3)  # one count or two find the last that stays
    assert passes == {"pool": 0, "samples": 1, "distinct": 1, "rules": 1, "manifest": 2}
    assert all(line.items == 6 * line.passes for line in cold)
    assert all(line.cpu > 0 and line.peak > 10**7 for line in cold)
    assert [line.items for line in warm] == [0] * 6
    [folder] = [path for path in Path(job.store).glob("rules-*") if path.suffix != ".meta"]
    assert cold[3].bytes == sum(path.stat().st_size for path in folder.glob("*.parquet"))
    [record] = Path(job.store, "jobs").glob("*.json")
    assert json.loads(record.read_text())["counts"]["kept"] == 12


_PEAK = """
import numpy as np
from winnow.jobs.lab.bench.meter import peak_bytes
peak_bytes(forget=True)
before = peak_bytes()
held = np.ones(64 << 20, np.uint8)
assert peak_bytes() > before + (48 << 20)
del held
peak_bytes(forget=True)
assert peak_bytes() < before + (32 << 20)
"""


def test_the_peak_is_forgotten() -> None:
    """In a process of its own: what earlier tests leave to be freed would count."""
    subprocess.run([sys.executable, "-c", _PEAK], check=True)
