"""A tiny run of the real thing: every way writes the same samples, the table comes out, nothing is left."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import bench_shards
from pipeline.executor_local import LocalExecutor
from tests.pools import read_tar


def members(folder: Path) -> list[tuple[str, bytes]]:
    return [entry for tar in sorted(folder.glob("*.tar")) for entry in read_tar(tar)]


def test_every_way_writes_the_same_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_shards, "_SHARD_SAMPLES", 20)
    monkeypatch.setattr(bench_shards, "_PART", 1.0)
    bench = bench_shards.Bench.prepared(tmp_path, 3_000_000)
    kept = members(bench.kept)
    pool = members(tmp_path / "pool")
    assert len(pool) == 3 * 20 * len(list((tmp_path / "pool").glob("*.tar"))) > 3 * 20
    assert len({name for name, _ in pool}) == len(pool)
    assert 0.1 < len(kept) / len(pool) < 0.4
    assert set(kept) <= set(pool)
    ways: dict[str, Callable[[], float]] = {
        "winnow": lambda: bench.by_winnow(LocalExecutor(1)),
        "cp": lambda: bench.by_cp(sync=True),
        "tarfile": bench.by_tarfile,
        "webdataset": bench.by_webdataset,
    }
    for name, way in ways.items():
        assert bench.rate(way, cold=name == "cp") > 0
        found = members(bench.made if name == "winnow" else bench.out)
        assert sorted(found) == sorted(kept), name


def test_a_tiny_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_shards, "_SHARD_SAMPLES", 20)
    monkeypatch.setattr(bench_shards, "open_executor", lambda *how: LocalExecutor(1))
    app = bench_shards.typer.Typer()
    app.command()(bench_shards.main)
    folder = tmp_path / "bench"
    result = CliRunner().invoke(app, ["--folder", str(folder), "--gigabytes", "0.003", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    for state in ("warm", "cold"):
        for what in ("cp", "cp and fsync", "winnow, 1 thread", "tarfile", "webdataset's TarWriter"):
            assert f"shards, {state}: {what} " in result.output
    assert "of cp and fsync" in result.output
    assert list(folder.iterdir()) == []


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"needs 1800000\.0 GB of room, but has"):
        bench_shards.measure(bench_shards.Table(), tmp_path, 1e6, LocalExecutor(1))
