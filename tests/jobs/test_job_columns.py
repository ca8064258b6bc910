"""Jobs with columns: their values reach every command, a column that is added touches nothing else, pools may grow."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.test_run import done, manifest
from tests.pools import Samples, write_vectors
from winnow.jobs.export import export_job
from winnow.jobs.job_file.job import changed, parse
from winnow.jobs.run import laid_out
from winnow.jobs.verify.finished import RowSample
from winnow.jobs.verify.verify import verify_job
from winnow.jobs.why.explain import explain
from winnow.pipeline.artifact import write_table
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import artifact_of

COLUMNS: dict[str, Any] = {
    "words": {"captions": "words"},
    "copies": {"captions": "count"},
    "lang": {"language": "caption"},
    "sure": {"language": "caption", "value": "score"},
}
CAPTIONS = ["a dog on the beach", "ein Hund läuft am Strand entlang", "stock", "un chien court sur la plage"]
POLICY = [{"rules": {"fields": {"words": {"min": 2}, "copies": {"max": 8}}}}, {"cap": {"by": "lang", "most": 3}}]


def values(folder: Path, shards: int = 3, policy: list[dict[str, Any]] = POLICY, **changes: Any) -> dict[str, Any]:
    samples = Samples.drawn(40, seed=1)
    samples.caption[:] = [CAPTIONS[n % 4] if n % 5 else f"{CAPTIONS[n % 4]} {n}" for n in range(40)]
    if not (folder / "pool").exists():
        write_vectors(str(folder / "pool"), samples, shards)
    pool = {"shards": f"{folder}/pool/*.parquet", "format": "vectors", "encoder": "clip"}
    pool |= {"image": "image", "text": "text", "fields": {"side": "width"}}
    job = {"name": "columned", "store": f"{folder}/store", "pool": pool, "columns": COLUMNS, "policy": policy}
    return {**job, **changes}


def violations(store: str) -> dict[str, list[str]]:
    """What verify finds, by check."""
    checks = verify_job(store, "columned", LocalExecutor(1), RowSample(None))
    return {one.check: [text for *_, text in one.findings.first] for one in checks if one.findings and not one.holds}


def test_a_column_is_used_like_a_field(tmp_path: Path, executor: Executor) -> None:
    result, _ = done(parse(values(tmp_path)), executor)
    rows = manifest(result)
    for row in rows:
        assert row["column.words"] == len(row["caption"].split())
        assert row["column.copies"] == [other["caption"] for other in rows].count(row["caption"])
    kept = [row for row in rows if row["kept"]]
    assert {row["reason"] for row in rows} == {None, "rules", "cap"}
    assert all(row["column.words"] > 1 and row["column.copies"] < 9 for row in kept)
    assert max([row["column.lang"] for row in kept].count(lang) for lang in ("en", "de", "fr")) == 3
    assert violations(result.job.store) == {}
    lone = next(row for row in rows if row["reason"] == "rules")
    [said] = explain(result.job.store, "columned", lone["uid"]).said
    assert said.facts["column.words"] == 1
    folder = export_job(result.job.store, "columned", executor, ["lang", "sure", "side"])
    listed = [row for file in sorted(Path(folder).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert [(row["lang"], row["sure"]) for row in listed] == [(row["column.lang"], row["column.sure"]) for row in kept]
    assert all(row["side"] is None for row in listed)  # the pool calls it width


def test_a_changed_value_is_found(tmp_path: Path) -> None:
    result, _ = done(parse(values(tmp_path)))
    for name, column, value in (("words", "value", 77), ("copies", "value", 77), ("sure", "score", 0.25)):
        made = dict(result.steps)[f"column.{name}"].artifact
        table, before = made.read(1), made.shard(1)
        saved = Path(before).read_bytes()
        broken = [value, *table[column].to_pylist()[1:]]
        place = table.column_names.index(column)
        write_table(before, table.set_column(place, column, pa.array(broken, table[column].type)), made.summary(1))
        found = violations(result.job.store)
        assert any("must be" in text and f"is {value}" in text for text in found["columns"])
        Path(before).write_bytes(saved)
    assert violations(result.job.store) == {}


def test_a_column_that_is_added_touches_nothing_else(tmp_path: Path) -> None:
    first = parse(values(tmp_path, policy=[POLICY[0]], columns={name: COLUMNS[name] for name in ("words", "copies")}))
    done(first)
    before = {path: os.stat(path) for path in (tmp_path / "store").glob("*-*/*.parquet")}
    second = parse(values(tmp_path, policy=[POLICY[0]], name="more"))
    result, _ = done(second)
    made = {label for label, step in result.steps if not step.reused}
    assert made == {"column.lang", "manifest"}
    assert {path: os.stat(path).st_mtime_ns for path in before} == {path: s.st_mtime_ns for path, s in before.items()}
    renamed = {"w": COLUMNS["words"], "copies": COLUMNS["copies"]}
    path, _ = laid_out(parse(values(tmp_path, policy=[], columns=renamed)))
    names = {label: artifact_of(stage, "s").name for label, stage in path.stages}
    assert names["column.w"] == dict(result.steps)["column.words"].artifact.name


def test_a_pool_that_grows_computes_what_is_new(tmp_path: Path) -> None:
    done(parse(values(tmp_path)))
    write_vectors(str(tmp_path / "new"), Samples.drawn(5, seed=9), 1)
    os.rename(tmp_path / "new/00000.parquet", tmp_path / "pool/00009.parquet")
    result, lines = done(parse(values(tmp_path)))
    steps = dict(result.steps)
    assert steps["column.words"].report["adopted"] == steps["column.lang"].report["adopted"] == 3
    assert any("column.words" in line and "3 of 4 shards taken over" in line for line in lines)
    rows = manifest(result)
    assert [row["column.copies"] for row in rows] == [
        [other["caption"] for other in rows].count(row["caption"]) for row in rows
    ]
    assert violations(result.job.store) == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"side": {"captions": "words"}}, r"columns must not have a name of pool.fields, got side"),
        ({"a.b": {"captions": "words"}}, r"columns must be named by letters, digits, dash or underscore, got 'a.b'"),
        ({"a": {"captoins": "words"}}, r"columns.a must have exactly one of captions, language.*, got captoins"),
        ({"a": {"captions": "wrods"}}, r"columns.a.captions: .*'words'.* got 'wrods'"),
        ({"a": {"captions": "words", "n": 2}}, r"columns.a: .*n must be given for captions: repetition alone"),
        ({"a": "words"}, r"columns.a must be a mapping, got 'words'"),
    ],
)
def test_a_column_that_cannot_be_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse(values(tmp_path, policy=[], columns=columns))


def test_the_resolved_job_is_the_job_again(tmp_path: Path) -> None:
    job = parse(values(tmp_path))
    assert parse(job.resolved) == job  # type: ignore[arg-type]  # plain values
    assert changed(job)["columns"] == COLUMNS
