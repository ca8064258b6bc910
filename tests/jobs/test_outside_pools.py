"""Formats and an encoder of another distribution go through every command, and no file of winnow knows their names."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.plugins import install
from tests.pools import jpeg, read_tar, unit
from winnow.jobs import loader
from winnow.jobs.cli import app
from winnow.jobs.job_file.job import load_job, parse
from winnow.jobs.run import laid_out
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import JobError
from winnow.stages.encoders.kinds import ENCODERS
from winnow.stages.pools.formats import FORMATS

HERE = Path(__file__).parents[1]
OFFERS = {
    "winnow.pools": {"zipped": "acme_pools:Zipped", "listed": "acme_pools:Listed"},
    "winnow.encoders": {"mean_colours": "acme_encoder:MeanColours"},
}
SHARDS, ROWS = 3, 12


def plugins(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str = "1.0") -> None:
    files = {"acme_pools.py": "outside_pools.py", "acme_encoder.py": "example_plugin/winnow_example/mean_colours.py"}
    modules = {module: (HERE / source).read_text() for module, source in files.items()}
    install(monkeypatch, folder, "acme", OFFERS, modules, version)


@pytest.fixture(autouse=True)
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(tmp_path / "site", monkeypatch)


def written(folder: Path, **values: Any) -> Path:
    """A job file over a pool beside it."""
    job = {"name": "outside", "store": str(folder / "store"), "resources": {"workers": 1}, **values}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


@pytest.fixture
def zips(tmp_path: Path) -> Path:
    """Pictures of which the last of each shard cannot be decoded."""
    for shard in range(SHARDS):
        with zipfile.ZipFile(tmp_path / f"{shard}.zip", "w") as archive:
            for row in range(ROWS):
                image = b"none" if row == ROWS - 1 else jpeg(ROWS * shard + row)
                archive.writestr(f"{shard}{row:02d}.jpg", image)
                archive.writestr(f"{shard}{row:02d}.txt", f"a caption of picture {shard} {row}")
    return written(
        tmp_path,
        pool={"shards": f"{tmp_path}/*.zip", "format": "zipped"},
        embeddings={"colours": {"kind": "mean_colours", "grid": 3}},
        policy=[{"rules": {"min_words": 2}}, {"density": {"by": "colours", "fraction": 0.5, "clusters": 2}}],
        shards={"samples_per_shard": 5},
        limits={"max_reject_fraction": 0.2},
    )


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Vectors of any norm, of which the last of each shard has no direction."""
    for shard in range(SHARDS):
        vectors = 3 * unit(ROWS, seed=shard).astype(float)
        vectors[-1] = 0
        rows = [{"caption": f"row {shard} {row}", "vector": v.tolist()} for row, v in enumerate(vectors)]
        (tmp_path / f"{shard}.json").write_text(json.dumps(rows))
    return written(
        tmp_path,
        pool={"shards": f"{tmp_path}/?.json", "format": "listed"},
        policy=[{"density": {"by": "listed", "fraction": 0.5, "clusters": 2}}],
        limits={"max_reject_fraction": 0.2},
    )


def winnow(*words: object) -> str:
    """What a command says; it must succeed."""
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == 0, (words, found.output, found.exception)
    return found.output


@pytest.mark.parametrize("pool", ["zips", "lists"])
def test_a_pool_of_another_distribution_is_whole(pool: str, request: pytest.FixtureRequest) -> None:
    job: Path = request.getfixturevalue(pool)
    store, kept = job.parent / "store", int((ROWS - 1) * SHARDS * 0.5)
    assert "of the first 12 samples of a shard, 1 cannot be read" in winnow("plan", job)
    assert "density" in winnow("plan", job, "--price", "--executor", "local")
    winnow("run", job, "--executor", "local")
    record = json.loads((store / "jobs/outside.json").read_text())
    assert (record["counts"]["kept"], record["counts"]["pool"]) == (kept, ROWS * SHARDS)
    last = len(load_job(str(job)).policy) - 1
    winnow("sweep", job, "--vary", f"policy.{last}.density.fraction=0.5,0.25", "--executor", "local")
    assert "violat" not in winnow("verify", store, "outside", "--executor", "local")
    assert "density" in winnow("why", store, "outside", "--shard", "0", "--key", keys_of(store)[0])
    winnow("report", store, "outside", "--executor", "local")
    winnow("export", store, "outside", "--executor", "local")
    if pool == "zips":
        found = loader.open_kept_samples(str(store), "outside")
        samples = [sample for shard in range(found.shards) for sample in found.samples(shard)]
        assert len(samples) == kept
        keys = [str(sample["__key__"]) for sample in samples]
        assert [sample["jpg"] for sample in samples] == [jpeg(ROWS * int(key[0]) + int(key[1:])) for key in keys]
        names = [f"{key}.{suffix}" for key in keys for suffix in ("jpg", "txt", "json")]
        streamed = [catted(store, shard, job.parent / f"cat{shard}.tar") for shard in range(found.shards)]
        assert [name for found in streamed for name in found] == names
        members = [name for path in sorted(store.glob("shards-*/*.tar")) for name, _ in read_tar(path)]
        assert members == names


def catted(store: Path, shard: int, target: Path) -> list[str]:
    """Names of the members that `winnow cat` writes, in a process of its own."""
    words = [sys.executable, "-m", "winnow.jobs", "cat", str(store), "outside", str(shard)]
    path = os.pathsep.join([str(store.parent / "site"), *sys.path])
    with target.open("wb") as out:
        subprocess.run(words, stdout=out, check=True, env={**os.environ, "PYTHONPATH": path})
    return [name for name, _ in read_tar(target)]


def keys_of(store: Path) -> list[str]:
    """Keys of the first shard's readable samples."""
    record = json.loads((store / "jobs/outside.json").read_text())
    found: list[str] = Artifact.named(str(store), record["artifacts"]["samples"]).read(0, ["key"])["key"].to_pylist()
    return found


@pytest.mark.parametrize("pool", ["zips", "lists"])
def test_another_version_of_the_distribution_makes_other_artifacts(
    pool: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: Path = request.getfixturevalue(pool)
    first = laid_out(load_job(str(job)))[0].manifest
    assert laid_out(load_job(str(job)))[0].manifest == first
    plugins(tmp_path / "newer", monkeypatch, "2.0")
    assert laid_out(load_job(str(job)))[0].manifest != first


def test_the_resolved_job_is_the_same_job(zips: Path) -> None:
    job = load_job(str(zips))
    assert job.resolved["embeddings"] == {"colours": {"kind": "mean_colours", "grid": 3}}
    assert parse(job.resolved).embeddings == job.embeddings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "pool.format=ziped",
            "format must be one of webdataset, .*, zipped, got 'ziped'; did you mean zipped",
        ),
        (
            "embeddings.colours.kind=mean_colour",
            "kind must be one of open_clip, timm, brought, mean_colours, got 'mean_colour'; did you mean mean_colours",
        ),
        ("embeddings.colours.grids=3", "embeddings.colours has no key 'grids'; did you mean grid"),
        ("policy.1={similarity: {by: colours, fraction: 0.5}}", "colours has none; name a CLIP model"),
    ],
)
def test_a_job_that_names_them_wrongly_is_refused(zips: Path, change: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        load_job(str(zips), [change])


@pytest.mark.parametrize(
    ("group", "offered", "message"),
    [
        (
            "winnow.pools",
            "acme_encoder:MeanColours",
            "must be a subclass of winnow.stages.pools.reader.Reader, but is not",
        ),
        ("winnow.pools", "acme_pools:Listed", "must have this name as its kind, but has 'listed'"),
        ("winnow.encoders", "acme_pools:Zipped", "must be a subclass of winnow.stages.encoders.encoder.Encoder"),
        ("winnow.encoders", "acme_encoder:MeanColours", "must have this name as its kind, but has 'mean_colours'"),
    ],
)
def test_a_plugin_that_offers_another_thing_is_refused(
    group: str, offered: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "wrong", "wrong", {group: {"odd": offered}}, {})
    table: Mapping[str, type] = {"winnow.pools": FORMATS, "winnow.encoders": ENCODERS}[group]
    with pytest.raises(JobError, match=message):
        table["odd"]
