"""The same bench on a CPU: every sample is embedded, and each rate stands beside its limits."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.pools import members, pair, tiny_clip, write_tar
from winnow.jobs.lab.bench import gpu as bench_gpu


def test_a_tiny_bench_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "_ROUNDS", 1)
    samples = [(f"{i:05d}", pair(i, f"a picture of thing {i}")) for i in range(3)]
    url = write_tar(tmp_path / "pool/0.tar", members(samples))
    model, folder = tiny_clip(tmp_path).model, tmp_path / "bench"
    app = bench_gpu.typer.Typer()
    app.command()(bench_gpu.main)
    wanted = ["--pool", url, "--folder", str(folder), "--model", model, "--samples", "10", "--batch-size", "4"]
    result = CliRunner().invoke(app, [*wanted, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    for side in (224, 512):
        assert f"tiny, {side} px" in result.output
    assert "of the slower (decode" in result.output
    assert "busy" not in result.output  # which only a GPU tells
    files = sorted(folder.glob("store/**/vectors-*/*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [10] * 8


def test_busy_shares_come_from_the_driver_while_the_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 50\necho 100\nexec sleep 60\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with bench_gpu.busy_shares("cuda:0") as found:
        for _ in range(500):
            if len(found) == 2:
                break
            bench_gpu.threading.Event().wait(0.02)
    assert found == [0.5, 1.0]
