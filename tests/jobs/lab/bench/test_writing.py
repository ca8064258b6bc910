"""A tiny run of the real thing: every way writes the same samples, the table comes out, nothing is left."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner

from tests.pools import read_tar
from winnow.jobs.lab.bench import writing as bench_shards
from winnow.pipeline.executors.local import LocalExecutor


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
        "cp": lambda: bench.by_shell(bench_shards._CP_FSYNC),
        "two cp": lambda: bench.by_shell(bench_shards._CP, at_once=2),
        "past the page cache": lambda: bench.by_shell(bench_shards._DIRECT, at_once=2),
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
        for what in (
            "cp",
            "cp and fsync",
            "cp and fsync, two at once",
            "winnow, 1 thread",
            "tarfile",
            "webdataset's TarWriter",
        ):
            assert f"shards, {state}: {what} " in result.output
    assert "of cp and fsync" in result.output
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="only Linux has a folder in memory")
def test_in_memory_there_is_no_disk_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_shards, "_SHARD_SAMPLES", 20)
    table = bench_shards.Table("what", "rate", "ratio")
    with TemporaryDirectory(dir="/dev/shm") as folder:
        bench_shards.measure_writing(table, Path(folder), 0.003, LocalExecutor(1), rounds=1)
    told = [str(cell) for cell in table.columns[0].cells]
    assert {"shards, warm: cp", "shards, warm: cp, two at once", "shards, warm: winnow, 1 thread"} <= set(told)
    assert not [what for what in told if "cold" in what or "fsync" in what or "disk" in what]


def test_a_copy_that_fails_is_no_rate(tmp_path: Path) -> None:
    bench = bench_shards.Bench(tmp_path, bench_shards._job(tmp_path), tmp_path / "made", tmp_path / "kept", [])
    bench.kept.mkdir()
    (bench.kept / "0.tar").touch()
    with pytest.raises(OSError, match=r"must copy .*kept by .*, got \[1\]"):
        bench.by_shell(bench_shards._CP + "; exit 1")


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"needs 1800000\.0 GB of free space, but has"):
        bench_shards.measure_writing(bench_shards.Table(), tmp_path, 1e6, LocalExecutor(1))
