"""A tiny run of the real thing: every step is timed, the tables come out, nothing is left."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from winnow.jobs.lab.bench import decisions as bench_decide
from winnow.jobs.lab.bench.meter import Meter
from winnow.jobs.lab.bench.vector_pool import Shape, drawn_vectors, make
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.executors.watching import Watch


def command() -> "bench_decide.typer.Typer":
    app = bench_decide.typer.Typer()
    app.command()(bench_decide.main)
    return app


TINY = [
    "--samples",
    "600,1500",
    "--clusters",
    "5",
    "--iterations",
    "3",
    "--executor",
    "local",
    "--rows-per-shard",
    "250",
]


def test_a_tiny_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(
        bench_decide, "EXTRAS", (lambda made: [bench_decide.Measurement("extra", f"{made.sample}", "")],)
    )
    result = CliRunner().invoke(command(), ["--folder", str(tmp_path / "bench"), *TINY])
    assert result.exit_code == 0, result.output
    text = result.output
    for step in (
        "samples",
        "vectors",
        "draw a sample",
        "read the sample",
        "k-means",
        "assign",
        "moments",
        "density",
        "manifest",
    ):
        assert step in text
    assert "600 samples, 5 clusters" in text
    assert "1,500 samples, as a multiple of 600" in text
    assert "extra" in text
    assert list((tmp_path / "bench").iterdir()) == []


def test_deciding_again_decides_again(tmp_path: Path) -> None:
    """The command in a process of its own: its record says another number, and that the clusters were done before."""
    made = bench_decide.decide_pool(Shape(600, rows_per_shard=250), tmp_path, 5, 3, 1, "local")
    assert all(lap.seconds > 0 and lap.driver > 10**7 for lap in made.laps.values())
    assert made.laps["clusters: assign"].read > 600 * 1024
    [line] = bench_decide.decide_again(made)
    assert line.found.endswith(" s")
    store = tmp_path / "store-600"
    folders = [path.name.partition("-")[0] for path in store.iterdir() if path.suffix != ".meta"]
    assert (folders.count("density"), folders.count("clusters")) == (2, 1)


def test_a_lap_ends_where_the_next_begins() -> None:
    meter = Meter()
    watch = Watch(LocalExecutor(1), (meter,))
    task = bench_decide._Products(Shape(100, width=8, concepts=5, rows_per_shard=50), 4)
    for label in ("one (pass 1)", "two", "one (pass 2)"):
        assert len(dict(watch.map(task, [0, 1], label, Needs()))) == 2
    meter.close()
    assert list(meter.laps) == ["one", "two"]


def test_the_pool_is_the_same_every_time_and_of_unit_norm(tmp_path: Path) -> None:
    shape = Shape(120, width=16, concepts=7, rows_per_shard=50)
    make(shape, tmp_path, LocalExecutor(2))
    assert sorted(path.name for path in tmp_path.glob("*/*")) == [
        *(f"img_emb_{i}.npy" for i in range(3)),
        *(f"metadata_{i}.parquet" for i in range(3)),
    ]
    stored = [np.load(tmp_path / f"img_emb/img_emb_{i}.npy") for i in range(3)]
    assert [len(part) for part in stored] == [50, 50, 20]
    assert all(np.array_equal(part, drawn_vectors(shape, i)) for i, part in enumerate(stored))
    assert not np.array_equal(stored[0], stored[1])
    assert np.linalg.norm(np.concatenate(stored).astype(float), axis=1) == pytest.approx(1, abs=2e-3)
