"""Fields of the pool become typed columns beside the samples: exact, null where absent, all in one pass."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs.test_run import done, job_values, manifest
from tests.pools import Samples, members, pair, write_clip_retrieval, write_datacomp, write_tar
from winnow.jobs.job_file.job import parse
from winnow.jobs.plan.inputs import look_at_inputs
from winnow.jobs.run import laid_out
from winnow.jobs.verify.finished import RowSample
from winnow.jobs.verify.verify import verify_job
from winnow.pipeline.adoption import PARTS
from winnow.pipeline.artifact import Artifact, write_json
from winnow.pipeline.errors import DataError, FailedShards, JobError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run, StepResult, artifact_of, execute
from winnow.stages.fields import field_stages
from winnow.stages.pools.field_types import exact
from winnow.stages.pools.pool import Pool
from winnow.stages.pools.sample import Sample
from winnow.stages.pools.webdataset import Webdataset

TARS = {"punsafe": "json:punsafe", "lang": "json:language", "id": "json:id", "safe": "json:safe", "url": "json:url"}


def facts(n: int) -> dict[str, Any]:
    """What the json of sample n says; every fifth says less."""
    said = {"punsafe": n / 7, "id": (1 << 62) + n, "safe": n % 2 == 0, "language": ["en", "de", None][n % 3]}
    return said | ({} if n % 5 == 0 else {"url": f"http://x/{n}.jpg"})


def tars(folder: Path, count: int = 24, shards: int = 3, says: Any = facts) -> None:
    parts = np.array_split(np.arange(count), shards)
    for i, part in enumerate(parts):
        write_tar(
            folder / f"{i:05d}.tar", members([(f"{n:04d}", pair(n, f"caption {n}", **says(n))) for n in part.tolist()])
        )


def tar_job(folder: Path, fields: dict[str, str], **changes: Any) -> dict[str, Any]:
    values = job_values(folder, [{"random": {"fraction": 0.5}}], shards=None, **changes)
    return values | {"pool": {"shards": f"{folder}/pool/*.tar", "fields": fields}}


def read(folder: Path, fields: dict[str, str]) -> dict[str, StepResult]:
    """The steps that read fields of the tars of a folder, beside the places of their samples; no model runs."""
    pool = Pool((f"{folder}/pool/*.tar",), Webdataset(), fields)
    shards, store = pool.identities(), str(folder / "store")
    run = Run(store, LocalExecutor(2), shards)
    placed = Artifact(store, "samples", "0123456789abcdef")
    for item in run.items:
        samples = [sample for sample in pool.reader.samples(item.url) if isinstance(sample, Sample)]
        columns = ("position", "key", "caption", "offset", "size", "extra_ranges", "plain")
        table = {name: [getattr(sample, name) for sample in samples] for name in columns}
        placed.write(item.index, pa.table({**table, "uid": [sample.uid.hex() for sample in samples]}), {})
    write_json(placed.meta(PARTS), {"recipe": "", "parts": [fingerprint(shard, digits=32) for shard in shards]})
    stages, named = field_stages(fields, placed, pool.reader, "rows", store)
    return {field.name: execute(stage, run) for field, stage in zip(named, stages, strict=True)}


def values_in(step: StepResult) -> list[Any]:
    made = step.artifact
    return [value for index in sorted(made.present()) for value in made.read(index)["value"].to_pylist()]


def test_each_field_of_the_json_has_its_exact_type(tmp_path: Path) -> None:
    tars(tmp_path / "pool")
    result, lines = done(parse(tar_job(tmp_path, TARS)))
    said = [facts(n) for n in range(24)]
    keys = {"lang": "language"}
    for name in TARS:
        assert values_in(dict(result.steps)[f"field.{name}"]) == [row.get(keys.get(name, name)) for row in said]
    steps = dict(result.steps)
    assert [steps[f"field.{name}"].report["type"] for name in TARS] == ["double", "string", "int64", "bool", "string"]
    assert steps["field.url"].report["null"] == 5
    assert any("19 of 24 samples have json:url" in line for line in lines)
    rows = manifest(result)
    assert [row["field.punsafe"] for row in rows] == [row["punsafe"] for row in said]
    assert not [
        check
        for check in verify_job(result.job.store, "planted", LocalExecutor(1), RowSample(None))
        if check.findings and check.findings.wrong
    ]


def test_a_field_that_is_added_touches_nothing_else(tmp_path: Path) -> None:
    tars(tmp_path / "pool")
    jobs = [{}, {"punsafe": "json:punsafe"}, {"p": "json:punsafe", "url": "json:url"}]
    paths = [laid_out(parse(tar_job(tmp_path, fields)))[0] for fields in jobs]
    names = [{label: artifact_of(stage, "s").name for label, stage in path.stages} for path in paths]
    for label in ("samples", "vectors.clip", "distinct", "random"):
        assert names[0][label] == names[1][label] == names[2][label]
    assert names[1]["field.punsafe"] == names[2]["field.p"]  # the name is the job's, not the pool's
    assert len({name["manifest"] for name in names}) == 3


def test_all_fields_that_are_missing_are_read_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tars(tmp_path / "pool")
    asked: list[list[str]] = []
    fields = Webdataset.fields

    def counted(self: Webdataset, url: str, places: pa.Table, names: list[str]) -> Any:
        asked.append(list(names))
        return fields(self, url, places, names)

    monkeypatch.setattr(Webdataset, "fields", counted)
    read(tmp_path, {"id": "json:id"})
    assert asked == [["id"]] * 3
    asked.clear()
    assert all(not step.reused or name == "id" for name, step in read(tmp_path, TARS).items())
    assert asked == [["language", "safe", "url", "punsafe"]] * 3


def test_whole_numbers_and_fractions_of_other_shards_are_one_type(tmp_path: Path) -> None:
    says = [{"a": 1}, {"a": 2}, {"a": 0.5}, {"a": 1.5}, {}, {}]
    tars(tmp_path / "pool", 6, 3, lambda n: says[n])
    step = read(tmp_path, {"a": "json:a"})["a"]
    assert values_in(step) == [1.0, 2.0, 0.5, 1.5, None, None]
    assert {step.artifact.read(index)["value"].type for index in range(3)} == {pa.float64()}


def test_types_that_mix_are_an_error_with_both(tmp_path: Path) -> None:
    tars(tmp_path / "pool", 6, 1, lambda n: {"a": "x" if n == 4 else n, "b": [1]})
    with pytest.raises(DataError, match=r"00000.tar: json:a must .* sample 4 has text 'x'|sample 0 has whole number 0"):
        look_at_inputs(parse(values := tar_job(tmp_path, {"a": "json:a"})), *laid_out(parse(values)))
    with pytest.raises(DataError, match=r"json:b must be .* has a list, \[1\]; correct the pool"):
        look_at_inputs(parse(values := tar_job(tmp_path, {"b": "json:b"})), *laid_out(parse(values)))


def test_types_that_mix_between_shards_name_both_shards(tmp_path: Path) -> None:
    tars(tmp_path / "a/pool", 6, 3, lambda n: {"a": "x" if n == 4 else n})
    with pytest.raises(FailedShards, match=r"00002.tar: json:a must be .* sample 0 \(0004\) has text 'x' and sample 1"):
        read(tmp_path / "a", {"a": "json:a"})
    tars(tmp_path / "b/pool", 6, 3, lambda n: {"a": "x" if n > 3 else n})
    with pytest.raises(
        DataError, match=r"00000.tar, sample 0 \(0000\) has whole number and .*00002.tar, sample 0 \(0004\) has text"
    ):
        read(tmp_path / "b", {"a": "json:a"})


def test_plan_tells_a_field_that_no_sample_has(tmp_path: Path) -> None:
    tars(tmp_path / "pool")
    job = parse(tar_job(tmp_path, {"punsafe": "json:punsafe", "wrong": "json:pwatermark"}))
    told = look_at_inputs(job, *laid_out(job)).files
    assert told["field.punsafe"] == "json:punsafe: number in 8 of the first 8 samples"
    assert told["field.wrong"] == "none of the first 8 samples has json:pwatermark"
    step = read(tmp_path, {"wrong": "json:pwatermark"})["wrong"]
    assert values_in(step) == [None] * 24
    assert step.report["notes"] == ["none of 24 samples has json:pwatermark"]


@pytest.mark.parametrize("write", [write_datacomp, write_clip_retrieval])
def test_columns_of_metadata_are_fields(tmp_path: Path, write: Any) -> None:
    samples = Samples.drawn(20)
    urls = write(tmp_path / "pool", samples, 3)
    scores = np.random.default_rng(1).normal(size=20).astype(np.float32)
    edges = [20 * i // 3 for i in range(4)]
    for url, a, b in zip(urls, edges, edges[1:], strict=False):
        table = pq.read_table(url).append_column("score", pa.array(scores[a:b]))
        pq.write_table(
            table.append_column("lang", pa.array(["en"] * (b - a)).dictionary_encode()), url, row_group_size=3
        )
    kind = {"format": "datacomp", "use": ["l14"]} if write is write_datacomp else {"format": "clip-retrieval"}
    pool = {"shards": list(urls), "fields": {"score": "score", "lang": "lang", "link": "url"}, **kind}
    store = str(tmp_path / "store")
    result, _ = done(
        parse({"name": "planted", "store": store, "pool": pool, "policy": [], "limits": {"max_reject_fraction": 0.2}})
    )
    assert values_in(dict(result.steps)["field.score"]) == scores.astype(float).tolist()
    assert values_in(dict(result.steps)["field.link"]) == [f"http://x/{uid}" for uid in samples.uid]
    assert values_in(dict(result.steps)["field.lang"]) == ["en"] * 20
    rows = {row["uid"]: row["field.score"] for row in manifest(result) if row["uid"]}
    assert rows == dict(zip(samples.uid, scores.astype(float).tolist(), strict=True))


def test_a_job_names_fields_that_its_format_can_have(tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"pool.fields.a: pool.fields must name keys of the json member, as json:KEY, got 'a'"
    ):
        parse(tar_job(tmp_path, {"a": "a"}))
    with pytest.raises(JobError, match=r"must be named by letters, digits, dash or underscore, got 'a.b'"):
        parse(tar_job(tmp_path, {"a.b": "json:a"}))
    values = tar_job(tmp_path, {"a": "json:a"})
    assert parse(values).resolved["pool"]["fields"] == {"a": "json:a"}  # type: ignore[index]  # a mapping
    assert "fields" not in parse(tar_job(tmp_path, {})).resolved["pool"]  # type: ignore[operator]  # a mapping


ONE_KIND = st.one_of(
    st.lists(st.none() | st.booleans()),
    st.lists(st.none() | st.integers(-(1 << 63), (1 << 63) - 1)),
    st.lists(st.none() | st.floats(allow_nan=False) | st.integers(-(1 << 53), 1 << 53)),
    st.lists(st.none() | st.text()),
)


@given(ONE_KIND)
def test_no_value_changes(values: list[Any]) -> None:
    text = json.loads(json.dumps(values))
    found = exact(text, "a", str).to_pylist()
    assert found == [v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for v in text]
    if all(not isinstance(v, float) for v in values):
        assert [type(v) for v in found] == [type(v) for v in text]


def test_numbers_that_no_type_holds_are_named() -> None:
    with pytest.raises(
        DataError, match=r"row 1 has whole number 9007199254740993, which no float64 holds, while others"
    ):
        exact([0.5, (1 << 53) + 1], "a", "row {}".format)
    with pytest.raises(DataError, match=r"row 0 has whole number 9223372036854775808, which int64 does not hold"):
        exact([1 << 63], "a", "row {}".format)
    with pytest.raises(DataError, match=r"row 1 has whole number 18446744073709551615, which int64 does not hold"):
        exact(pa.chunked_array([pa.array([1, (1 << 64) - 1], pa.uint64())]), "a", "row {}".format)
    with pytest.raises(DataError, match=r"a must be a column of numbers, texts or bools, but it is date32"):
        exact(pa.chunked_array([pa.array([1], pa.date32())]), "a", str)
    assert exact([float("nan"), 1.5, float("inf")], "a", str).to_pylist() == [None, 1.5, float("inf")]
    assert exact(pa.chunked_array([pa.array([0.1, float("nan")], pa.float32())]), "a", str).to_pylist() == [
        float(np.float32(0.1)),
        None,
    ]


def test_an_artifact_of_fields_is_a_table_of_its_own(tmp_path: Path) -> None:
    tars(tmp_path / "pool")
    made = read(tmp_path, {"punsafe": "json:punsafe"})["punsafe"].artifact
    assert pq.read_table(made.folder)["value"].to_pylist() == [n / 7 for n in range(24)]
