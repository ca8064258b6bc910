"""Parts of a pool without a row, or with nothing but nulls or rejects: every cut and every command passes over them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.test_cli import called
from tests.jobs.verify.test_verify import DATACOMP, every_cut, finished, near_sets
from tests.pools import Samples, hex_uids, unit, write_parquet
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.jobs.why.explain import explain
from winnow.pipeline.errors import DataError, PoolError
from winnow.pipeline.executors.local import LocalExecutor

FORMATS = ("vectors", "datacomp", "clip-retrieval")
POOLS: dict[str, dict[str, Any]] = {
    "vectors": {"format": "vectors", "encoder": "l14", "text": "text", "fields": {"side": "height"}},
    "datacomp": DATACOMP,
    "clip-retrieval": {"format": "clip-retrieval", "encoder": "l14", "fields": {"side": "height"}},
}
SAMPLES = near_sets(240)


def lists(x: np.ndarray, missing: bool = False) -> pa.Array:
    return pa.array([None if missing else row.tolist() for row in x], pa.list_(pa.float16()))


def write_part(folder: Path, layout: str, number: int, part: Samples, dark: str = "") -> str:
    """One shard of a format; dark: what its vectors are instead, `null`, `nan`, `zero` or `bare` (of no type)."""
    folder.mkdir(parents=True, exist_ok=True)
    towers = {"image": part.image, "text": part.text}
    if dark in ("nan", "zero") or (dark == "null" and layout != "vectors"):
        towers = {name: np.full_like(x, 0 if dark == "zero" else np.nan) for name, x in towers.items()}
    if dark == "bare" and layout != "vectors":
        towers = {name: np.empty(0, np.float32) for name in towers}
    sides = {"width": pa.array(part.width, pa.int32()), "height": pa.array(part.height, pa.int32())}
    text = pa.array(part.caption, pa.string())
    meta = {"uid": pa.array(part.uid, pa.string()), "url": pa.array([f"http://x/{u}" for u in part.uid], pa.string())}
    if layout == "vectors":
        columns = {name: lists(x, dark == "null") for name, x in towers.items()}
        if dark == "bare":
            columns = {name: pa.nulls(len(part)) for name in towers}
        return write_parquet(f"{folder}/{number}.parquet", pa.table({**meta, "caption": text, **columns, **sides}))
    if layout == "datacomp":
        original = {f"original_{name}": column for name, column in sides.items()}
        np.savez(folder / f"{number}.npz", l14_img=towers["image"], l14_txt=towers["text"])
        return write_parquet(f"{folder}/{number}.parquet", pa.table({**meta, "text": text, **original}))
    for name, tower in (("img_emb", "image"), ("text_emb", "text")):
        (folder / name).mkdir(exist_ok=True)
        np.save(folder / name / f"{name}_{number}.npy", towers[tower])
    (folder / "metadata").mkdir(exist_ok=True)
    return write_parquet(f"{folder}/metadata/metadata_{number}.parquet", pa.table({**meta, "caption": text, **sides}))


def none_of(width: int = 16) -> Samples:
    return replace(SAMPLES.take([]), image=np.empty((0, width), np.float16), text=np.empty((0, width), np.float16))


def job_of(folder: Path, layout: str, shards: list[str], policy: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    np.save(folder / "target.npy", unit(30, 16, 9))
    el2n = np.random.default_rng(1).permutation(len(SAMPLES))
    write_parquet(f"{folder}/el2n.parquet", pa.table({"uid": SAMPLES.uid, "el2n": el2n}))
    return {
        "name": "parts",
        "store": str(folder / f"store-{len(shards)}"),
        "pool": {**POOLS[layout], "shards": shards},
        "policy": every_cut(folder) if policy is None else policy,
        "limits": {"max_reject_fraction": 1.0},
    }


def kept_of(values: dict[str, Any]) -> list[str]:
    done = finished(values)
    assert done.broken() == []
    files = sorted(Path(done.artifact("manifest").folder).glob("0*.parquet"))
    return [row["uid"] for file in files for row in pq.read_table(file).to_pylist() if row["kept"]]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What every cut keeps of the samples where each part has rows; no format is asked to differ."""
    folder = tmp_path_factory.mktemp("plain")
    plain = [write_part(folder / "pool", "vectors", n, part) for n, part in enumerate(SAMPLES.split(3))]
    return kept_of(job_of(folder, "vectors", plain))


@pytest.mark.parametrize("layout", FORMATS)
def test_every_cut_decides_as_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[str], layout: str
) -> None:
    whole = SAMPLES.split(3)
    dark = [replace(Samples.drawn(3, seed=50 + n), uid=hex_uids(3, 90 + n)) for n in range(3)]
    folder = tmp_path / "mixed"
    mixed = [
        write_part(folder, layout, 0, none_of()),
        write_part(folder, layout, 1, none_of(), "bare"),
        write_part(folder, layout, 2, whole[0]),
        write_part(folder, layout, 3, dark[0], "null"),
        write_part(folder, layout, 4, whole[1]),
        write_part(folder, layout, 5, none_of(8)),
        write_part(folder, layout, 6, dark[1], "zero"),
        write_part(folder, layout, 7, whole[2]),
        write_part(folder, layout, 8, dark[2], "nan"),
        write_part(folder, layout, 9, none_of()),
    ]
    values = job_of(tmp_path, layout, mixed)
    assert kept_of(values) == expected
    store, name = values["store"], values["name"]
    for words in (("report", store, name, "--executor", "local"), ("export", store, name, "--executor", "local")):
        assert called(monkeypatch, *words) == 0
    assert explain(store, name, uid=expected[0]).verdict == "kept"
    assert explain(store, name, shard=mixed[3], key=dark[0].uid[0]).verdict == "rejected"


SEMDEDUP = {"by": "l14", "exact": False, "epsilon": 0.02, "clusters": 3, "method": "semdedup"}


@pytest.mark.parametrize("policy", [[{"duplicates": SEMDEDUP}], [{"duplicates": {**SEMDEDUP, "method": "greedy"}}]])
@pytest.mark.parametrize("empty", ["first", "last"])
def test_duplicates_are_compared_around_them(tmp_path: Path, policy: list[dict[str, Any]], empty: str) -> None:
    parts = [none_of(), *SAMPLES.split(2)] if empty == "first" else [*SAMPLES.split(2), none_of()]
    shards = [write_part(tmp_path / "pool", "vectors", n, part) for n, part in enumerate(parts)]
    found = kept_of(job_of(tmp_path, "vectors", shards, policy))
    plain = [write_part(tmp_path / "plain", "vectors", n, part) for n, part in enumerate(SAMPLES.split(2))]
    assert found == kept_of(job_of(tmp_path, "vectors", plain, policy))


@pytest.mark.parametrize("layout", FORMATS)
def test_a_price_is_measured_around_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    parts = [none_of(), SAMPLES.take(range(120)), none_of(), SAMPLES.take(range(120, 240))]
    shards = [write_part(tmp_path / "pool", layout, n, part) for n, part in enumerate(parts)]
    values = job_of(tmp_path, layout, shards, [{"density": {"by": "l14", "clusters": 2, "fraction": 0.5}}])
    (tmp_path / "job.yaml").write_text(json.dumps(values))
    assert (
        called(monkeypatch, "plan", str(tmp_path / "job.yaml"), "--price", "--sample-rows", "60", "--executor", "local")
        == 0
    )


@pytest.mark.parametrize("layout", FORMATS)
def test_two_widths_are_one_error_that_names_both(tmp_path: Path, layout: str) -> None:
    narrow = Samples.drawn(5, seed=70)
    narrow = replace(narrow, image=unit(5, 8, 1), text=unit(5, 8, 2))
    parts = [none_of(4), SAMPLES.take(range(20)), narrow, SAMPLES.take(range(20, 40))]
    shards = [write_part(tmp_path / "pool", layout, n, part) for n, part in enumerate(parts)]
    values = job_of(tmp_path, layout, shards)
    with pytest.raises(PoolError) as error:
        run_job(parse(values), LocalExecutor(2), lambda line: None)
    said = f"vectors of l14 must have one width in all shards, but those of {shards[1]} have 16 numbers and those of"
    assert f"{said} {shards[2]} 8; give the shards of one model, or each its own job" in str(error.value)
    assert not [*Path(values["store"]).glob("rules-*"), *Path(values["store"]).glob("distinct-*")]


@pytest.mark.parametrize("layout", FORMATS)
def test_towers_differ_only_where_both_are_there(tmp_path: Path, layout: str) -> None:
    some = SAMPLES.take(range(20))
    write_part(tmp_path / "pool", layout, 0, some)
    url = write_part(tmp_path / "pool", layout, 1, replace(SAMPLES.take(range(20, 40)), text=unit(20, 8)))
    with pytest.raises(PoolError, match=r"must be as wide, but are \[16, 8\]"):
        finished(job_of(tmp_path, layout, [url], [{"similarity": {"by": "l14", "fraction": 0.5}}]))


@pytest.mark.parametrize("layout", FORMATS)
def test_a_pool_without_a_row_keeps_none(tmp_path: Path, layout: str) -> None:
    shards = [write_part(tmp_path / "pool", layout, n, none_of(), dark) for n, dark in enumerate(("", "bare"))]
    np.save(tmp_path / "centroids.npy", unit(4))
    known = {"by": "l14", "clusters": {"from": str(tmp_path / "centroids.npy")}}
    policy = [
        {"rules": {"min_side": 100}},
        {"duplicates": {**known, "exact": False, "epsilon": 0.02}},
        {"similarity": {"by": "l14", "fraction": 0.9}},
        {"negclip": {"by": "l14", "fraction": 0.9, "batch": 32, "partitions": 2}},
        {"coverage": {"by": "l14", "fraction": 0.9, "strata": 4}},
        {"normsim": {"by": "l14", "target": str(tmp_path / "target.npy"), "fraction": 0.95}},
        {"image_based": {**known, "target": str(tmp_path / "target.npy")}},
        {"prototypes": {**known, "fraction": 0.9, "balance": 0.8}},
        {"density": {**known, "fraction": 0.9}},
        {"score": {"from": f"{tmp_path}/el2n.parquet", "column": "el2n", "fraction": 0.95}},
    ]
    assert kept_of(job_of(tmp_path, layout, shards, policy)) == []
    with pytest.raises(
        DataError, match="at least one sample per cluster, but the job asks for 3 clusters of the 0 samples"
    ):
        finished(job_of(tmp_path, layout, shards, [{"density": {"by": "l14", "clusters": 3, "fraction": 0.5}}]))
