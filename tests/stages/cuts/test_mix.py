"""A weighted sum of normalised values against plain Python: exact statistics, exact amounts, one answer."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Samples, answers, filtered, opened_with, write_datacomp, write_parquet
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.jobs.verify.verify import verify_job
from winnow.jobs.why.explain import explain
from winnow.pipeline.errors import DataError, FailedShards, JobError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import artifact_of
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.cuts.mix import Mix, Part
from winnow.stages.cuts.random import Random
from winnow.stages.kernels.exact_sums import Moments

SAMPLES = Samples.drawn(60)
A = np.random.default_rng(3).normal(size=60)
B = np.random.default_rng(4).integers(0, 1000, 60)


def scores(folder: Path, name: str, values: Any, uids: list[str] = SAMPLES.uid) -> dict[str, str]:
    url = write_parquet(str(folder / f"{name}.parquet"), pa.table({"uid": uids, name: values}))
    return {"from": url, "column": name}


def three(folder: Path) -> tuple[Part, ...]:
    cosine = Part(by="clip", weight=0.5)
    return cosine, Part(**scores(folder, "a", A), weight=2), Part(**scores(folder, "b", B), weight=-1.5)


def cosines() -> list[float]:
    return [float(np.float32(value)) for value in SAMPLES.cosine]


def oracle(normalise: str, at: list[int]) -> dict[str, float]:
    """The value of each of these samples, by statistics of all of them."""
    total = dict.fromkeys(at, 0.0)
    for column, weight in ((cosines(), 0.5), (A.tolist(), 2), (B.tolist(), -1.5)):
        some = [Fraction(column[i]) for i in at]
        mean = sum(some) / len(some)
        less, by = {
            "z": (float(mean), math.sqrt(float(sum(v * v for v in some) / len(some) - mean * mean))),
            "minmax": (float(min(some)), float(max(some)) - float(min(some))),
            "none": (0.0, 1.0),
        }[normalise]
        for i in at:
            total[i] += weight * ((column[i] - less) / by)
    return {SAMPLES.uid[i]: value for i, value in total.items()}


def best(values: dict[str, float], n: int) -> set[str]:
    return set(sorted(values, key=lambda uid: (-values[uid], uid))[:n])


@pytest.mark.parametrize("normalise", ["z", "minmax", "none"])
def test_it_keeps_the_highest_sums(tmp_path: Path, normalise: Any) -> None:
    out = filtered(SAMPLES, Mix(values=three(tmp_path), normalise=normalise, fraction=0.35), shards=3)
    expected = oracle(normalise, [*range(60)])
    assert {row["uid"]: row["value"] for row in out.rows} == expected
    assert set(out.kept) == best(expected, 21)
    assert out.step("mix").report["threshold"] == min(expected[uid] for uid in out.kept)


def test_statistics_are_those_of_the_survivors_that_have_all_values(tmp_path: Path) -> None:
    pool = filtered(SAMPLES, Random(count=30), shards=4)
    some = set(pool.kept) & set(SAMPLES.uid[:50])
    cosine, _, b = three(tmp_path)
    part = Part(**scores(tmp_path, "a", A[:50], SAMPLES.uid[:50]), weight=2, missing="drop")
    out = pool.through(Mix(values=(cosine, part, b), count=9))
    expected = oracle("z", [i for i in range(60) if SAMPLES.uid[i] in some])
    assert {row["uid"]: row["value"] for row in out.rows if row["value"] is not None} == expected
    assert set(out.kept) == best(expected, 9)
    assert out.step("mixed").report["missing"] == 30 - len(some)
    with pytest.raises((DataError, FailedShards), match="every sample must have a value in column a, but"):
        pool.through(Mix(values=(cosine, Part(**scores(tmp_path, "a", A[:50], SAMPLES.uid[:50])), b), count=9))


def test_one_answer_for_any_shards_and_order(tmp_path: Path) -> None:
    cut = Mix(values=three(tmp_path), count=20)
    found = answers(SAMPLES, cut)
    assert all(answer == found[0] for answer in found)
    assert all(sorted(filtered(SAMPLES, cut, shards=n).kept) == found[0] for n in (1, 7, 40))


def test_a_threshold_and_a_constant(tmp_path: Path) -> None:
    constant = Part(**scores(tmp_path, "c", np.full(60, 7)))
    out = filtered(SAMPLES, Mix(values=(Part(**scores(tmp_path, "a", A)), constant), threshold=0.0), shards=2)
    assert out.kept == [uid for uid, value in zip(SAMPLES.uid, A, strict=True) if value > A.mean()]
    assert out.step("mixed").report["scales"][1] == (7.0, 0.0)


def test_a_field_is_mixed_as_the_same_column_of_a_file(tmp_path: Path) -> None:
    values = three(tmp_path)
    by_files = filtered(SAMPLES, Mix(values=values, count=9), shards=2)
    said = {"a": A.tolist(), "b": [None if n == 5 else int(value) for n, value in enumerate(B)]}
    fields = Part(field="a", weight=2), Part(field="b", weight=-1.5, missing="drop")
    by_fields = opened_with(SAMPLES, said, 3).through(Mix(values=(values[0], *fields), count=9))
    assert by_fields.step("mixed").report["missing"] == 1
    whole = opened_with(SAMPLES, {**said, "b": B.tolist()}, 3).through(Mix(values=(values[0], *fields), count=9))
    assert sorted(whole.kept) == sorted(by_files.kept)


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"mix\.values must have at least one value"):
        Mix(values=(), count=1)
    with pytest.raises(JobError, match=r"must have one of by \(an encoder\), field \(of the pool\), and from with col"):
        Part(by="clip", column="a")
    with pytest.raises(JobError, match=r"got by = clip, field = a, from = None, column = None"):
        Part(by="clip", field="a")
    infinite = Part(**scores(tmp_path, "a", np.where(np.arange(60) == 4, np.inf, A)))
    with pytest.raises((DataError, FailedShards), match=r"must be finite, but value 0 of shard .* is inf in row 4"):
        filtered(SAMPLES, Mix(values=(infinite,), count=1))


def test_a_job_mixes_explains_and_checks(tmp_path: Path, executor: Executor) -> None:
    pool = {"shards": [*write_datacomp(tmp_path / "pool", SAMPLES, 3)], "format": "datacomp", "use": ["l14"]}
    values = [
        {"by": "l14", "weight": 0.5},
        {**scores(tmp_path, "a", A), "weight": 2},
        {**scores(tmp_path, "b", B), "weight": -1.5},
    ]
    job = {
        "name": "j",
        "store": str(tmp_path / "store"),
        "pool": pool,
        "policy": [{"mix": {"values": values, "count": 21}}],
    }
    result = run_job(parse(job), executor, lambda line: None)
    rows = [row for shard in range(3) for row in result.path.manifest.read(shard).to_pylist()]
    expected = oracle("z", [*range(60)])
    assert {row["uid"] for row in rows if row["kept"]} == best(expected, 21)
    found = {x.check: str(x) for x in verify_job(job["store"], "j", LocalExecutor(1), RowSample(None))}
    assert [line for line in found.values() if line.startswith("NOT")] == []
    assert found["mixed"] == "ok   mixed: 60 samples"
    said = explain(job["store"], "j", uid=rows[7]["uid"], workers=1).said[0]
    assert said.limits[0].value == rows[7]["mix.value"]
    assert said.facts["size"] == 60
    url = artifact_of(dict(result.path.stages)["mix.mixed"], job["store"]).shard(1)
    table = pq.read_table(url)
    pq.write_table(table.set_column(0, "value", pa.array(table["value"].to_numpy() + 1)), url)
    found = {x.check: str(x) for x in verify_job(job["store"], "j", LocalExecutor(1), RowSample(None))}
    assert "mix.mixed must be" in found["mixed"]


FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1, 1, width=32) | st.just(5e-324)


@settings(max_examples=80, deadline=None)
@given(values=st.lists(FINITE, max_size=30), cut=st.integers(0, 30), seed=st.integers(0, 9))
def test_moments_are_those_of_fractions_in_any_order_and_parts(values: list[float], cut: int, seed: int) -> None:
    array = np.array(values, np.float64)
    found = Moments.of(array)
    mixed = np.random.default_rng(seed).permutation(array)
    assert Moments.of(mixed[:cut]) + Moments.of(mixed[cut:]) == found
    exact = [Fraction(value) for value in values]
    assert Fraction(found.total, 1 << 1127) == sum(exact)
    assert Fraction(found.squares, 1 << 2254) == sum(value * value for value in exact)
    if values:
        assert (found.low, found.high) == (min(values), max(values))
        assert found.mean == float(sum(exact) / len(exact))
