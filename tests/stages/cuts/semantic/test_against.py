"""Samples that repeat what another job kept: the obvious comparison of all pairs, for any shards of either job."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pools import Samples, jpeg, members, normed, pair, tiny_clip, unit, write_tar, write_vectors
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import JobResult, run_job
from winnow.jobs.verify.verify import verify_job
from winnow.jobs.why.explain import explain
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.cuts.semantic.against import near
from winnow.stages.kernels.products import nearest_above

EPSILON = 0.1


def run(folder: Path, store: str, samples: Samples, shards: int, policy: list[Any], executor: Any = None) -> JobResult:
    write_vectors(str(folder / f"{store}-pool"), samples, shards)
    pool = {"shards": str(folder / f"{store}-pool/*.parquet"), "format": "vectors", "encoder": "clip", "text": "text"}
    job = parse({"name": "job", "store": str(folder / store), "pool": pool, "policy": policy})
    return run_job(job, executor or LocalExecutor(2), lambda line: None)


def rows_of(result: JobResult) -> list[dict[str, Any]]:
    cut = dict(result.path.cuts)["duplicates"]
    samples = dict(result.steps)["samples"].artifact
    found = []
    for index in sorted(cut.present()):
        uids = samples.read(index, ["uid"])["uid"].to_pylist()
        found += [{"uid": uid, **row} for uid, row in zip(uids, cut.read(index).to_pylist(), strict=True)]
    return found


def two_jobs(n: int = 150) -> tuple[Samples, Samples]:
    """What another job had, and new samples: a third near some of those, some opposite, some with their captions."""
    rng = np.random.default_rng(8)
    old = Samples.drawn(n, seed=1, image=normed(unit(40, seed=5)[rng.integers(0, 40, n)] + 0.1 * unit(n, seed=6)))
    image = unit(n, seed=7).astype(np.float64)
    image[::3] = old.image[rng.integers(0, n, len(image[::3]))] + 0.1 * unit(len(image[::3]), seed=9)
    image[1] = -old.image[0].astype(np.float64)
    image[3] = old.image[5]
    captions = [f"another caption {i}" for i in range(n)]
    captions[4:60:7] = [old.caption[i] for i in rng.integers(0, n, len(captions[4:60:7]))]
    return old, Samples.drawn(n, seed=2, image=normed(image), caption=captions)


def expected(old: Samples, new: Samples, kept: set[str], caption: bool, image: bool) -> dict[str, str | None]:
    """uid -> whom it repeats: all pairs in float64, the smallest uid of equals."""
    found: dict[str, str | None] = {}
    theirs = sorted((uid, i) for i, uid in enumerate(old.uid) if uid in kept)
    for n, uid in enumerate(new.uid):
        same = [other for other, i in theirs if old.caption[i] == new.caption[n]] if caption else []
        cosine = {
            other: float(old.image[i].astype(np.float64) @ new.image[n].astype(np.float64)) for other, i in theirs
        }
        close = max(cosine, key=lambda other: cosine[other])  # of equals the first, which is the smallest
        found[uid] = same[0] if same else close if image and cosine[close] > 1 - EPSILON else None
    return found


@pytest.fixture(scope="module")
def old_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    folder = tmp_path_factory.mktemp("against")
    result = run(folder, "old", two_jobs()[0], 5, [{"density": {"by": "clip", "fraction": 0.6, "clusters": 4}}])
    rows = [row for i in range(5) for row in result.path.manifest.read(i, ["uid", "kept"]).to_pylist()]
    return folder, {row["uid"] for row in rows if row["kept"]}


CUTS = [
    ({"exact": "caption"}, True, False),
    ({"exact": False, "by": "clip", "epsilon": EPSILON}, False, True),
    ({"exact": "caption", "by": "clip", "epsilon": EPSILON}, True, True),
]


@pytest.mark.parametrize(("options", "caption", "image"), CUTS)
@pytest.mark.parametrize("shards", [1, 7, 40])
def test_all_pairs(
    tmp_path: Path,
    old_job: tuple[Path, set[str]],
    options: dict[str, Any],
    caption: bool,
    image: bool,
    shards: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(near, "_BLOCK_BYTES", 2 * 16 * 13)  # thirteen vectors
    (folder, kept), (old, new) = old_job, two_jobs()
    cut = {"duplicates": {**options, "against": {"store": str(folder / "old"), "job": "job"}}}
    result = run(tmp_path, "new", new, shards, [cut])
    rows, wanted = rows_of(result), expected(old, new, kept, caption, image)
    assert {row["uid"]: row["duplicate_of"] for row in rows} == wanted
    assert all(row["kept"] == (wanted[row["uid"]] is None) for row in rows)
    assert 0 < result.counts["kept"] < len(new)  # type: ignore[operator]
    checks = {c.check: c for c in verify_job(str(tmp_path / "new"), "job", LocalExecutor(2), RowSample(None))}
    assert all(check.holds for check in checks.values())
    assert str(checks["duplicates"]).startswith("ok")


def test_on_ray_too(tmp_path: Path, old_job: tuple[Path, set[str]], executor: Executor) -> None:
    (folder, kept), (old, new) = old_job, two_jobs()
    options, caption, image = CUTS[2]
    cut = {"duplicates": {**options, "against": {"store": str(folder / "old"), "job": "job"}}}
    rows = rows_of(run(tmp_path, "new", new, 6, [cut], executor))
    assert {row["uid"]: row["duplicate_of"] for row in rows} == expected(old, new, kept, caption, image)


def test_bytes_of_images_in_tars_and_the_same_weights(tmp_path: Path) -> None:
    store, encoder = str(tmp_path / "store"), tiny_clip(tmp_path / "model")
    clip = {"model": encoder.model, "pretrained": encoder.pretrained}
    write_tar(tmp_path / "a/0.tar", members([(f"{n:04d}", pair(n, f"words {n}")) for n in range(20)]))
    again = [(f"{n:04d}", {**pair(100 + n, f"other words {n}"), "jpg": jpeg(n + 10)}) for n in range(20)]
    write_tar(tmp_path / "b/0.tar", members(again))
    first = {
        "name": "first",
        "store": store,
        "pool": {"shards": str(tmp_path / "a/*.tar")},
        "embeddings": {"clip": clip},
    }
    run_job(parse({**first, "policy": [{"random": {"count": 18}}]}), LocalExecutor(2), lambda line: None)
    manifest = next(Path(store).glob("manifest-*/00000.parquet"))
    kept = {row["key"] for row in pq.read_table(manifest, columns=["key", "kept"]).to_pylist() if row["kept"]}
    pool, against = {"shards": str(tmp_path / "b/*.tar")}, {"store": store, "job": "first"}
    values = {"name": "second", "store": store, "pool": pool, "embeddings": {"clip": clip}}
    policy = [{"duplicates": {"by": "clip", "epsilon": 1e-4, "against": against}}]
    result = run_job(parse({**values, "policy": policy}), LocalExecutor(2), lambda line: None)
    rows = {row["uid"]: row for row in rows_of(result)}
    dropped = {n for n in range(20) if not rows[f"{100 + n + 1:032x}"]["kept"]}
    assert dropped == {n for n in range(10) if f"{n + 10:04d}" in kept}
    n = min(dropped)
    assert rows[f"{100 + n + 1:032x}"]["duplicate_of"] == f"{n + 11:032x}"
    assert f"it repeats {n + 11:032x}, kept by first of {store}" in str(explain(store, "second", f"{100 + n + 1:032x}"))
    other = tiny_clip(tmp_path / "model2")
    Path(other.model).write_text(Path(other.model).read_text().replace('"heads": 2', '"heads": 4'))
    values["embeddings"] = {"clip": {"model": other.model, "pretrained": "random"}}
    with pytest.raises(JobError, match="vectors can be compared if one model made them"):
        run_job(parse({**values, "policy": policy}), LocalExecutor(2), lambda line: None)


def test_verify_sees_a_sample_brought_back_and_another_name(tmp_path: Path, old_job: tuple[Path, set[str]]) -> None:
    folder, _ = old_job
    cut = {"duplicates": {**CUTS[1][0], "against": {"store": str(folder / "old"), "job": "job"}}}
    result = run(tmp_path, "new", two_jobs()[1], 3, [cut])
    artifact = dict(result.path.cuts)["duplicates"]
    table = artifact.read(1)
    row = next(at for at, name in enumerate(table["duplicate_of"]) if name.is_valid)
    names = table["duplicate_of"].to_pylist()
    names[row] = "0" * 31 + "1"
    at = table.schema.get_field_index("duplicate_of")
    pq.write_table(table.set_column(at, "duplicate_of", pa.array(names)), artifact.shard(1))
    checks = {c.check: c for c in verify_job(str(tmp_path / "new"), "job", LocalExecutor(2), RowSample(None))}
    assert not checks["duplicates"].holds
    assert "duplicates.duplicate_of must be" in str(checks["duplicates"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exact": "caption", "against": {"store": "STORE", "job": "none"}}, "has none called 'none'; it has job"),
        ({"against": {"store": "STORE", "job": "job"}}, "compares the bytes of images, but this pool has none"),
        ({"exact": False, "epsilon": 0.1, "against": {"store": "STORE", "job": "job"}}, "set by"),
        (
            {"by": "clip", "epsilon": 0.1, "clusters": 3, "against": {"store": "STORE", "job": "job"}},
            "compares every pair, got clusters",
        ),
        (
            {"exact": False, "by": "clip", "epsilon": 0.1, "against": {"store": "STORE", "job": "job", "by": "dino"}},
            "vectors of dino, but job has clip",
        ),
    ],
)
def test_wrong_options_say_what_is_right(
    tmp_path: Path, old_job: tuple[Path, set[str]], options: dict[str, Any], message: str
) -> None:
    options["against"]["store"] = str(old_job[0] / "old")
    with pytest.raises(JobError, match=message):
        run(tmp_path, "new", Samples.drawn(4), 1, [{"duplicates": options}])


def test_nearest_above_is_the_largest_product_with_its_sign() -> None:
    vectors, target = unit(300, seed=1), unit(200, seed=2)
    target[7] = -vectors[3]
    target[9] = target[150] = vectors[5]
    products = vectors.astype(np.float64) @ target.astype(np.float64).T
    value, where = nearest_above(vectors, target, 0.6)
    above = products.max(axis=1) > 0.6
    assert np.array_equal(where, np.where(above, products.argmax(axis=1), -1))
    assert np.array_equal(value, np.where(above, products.max(axis=1), 0))
    assert where[5] == 9
