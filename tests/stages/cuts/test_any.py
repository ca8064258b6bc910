"""A union against sets in plain Python: each cut sees all that came, its columns stay, and every check takes part."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.pools import Samples, answers, filtered, write_vectors
from winnow.jobs.job_file.job import changed, parse
from winnow.jobs.run import run_job
from winnow.jobs.sweep import Variation, policies, run_sweep
from winnow.jobs.verify.verify import verify_job
from winnow.jobs.why.explain import explain
from winnow.jobs.why.show import verdict_of
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.stages.cuts.any import AnyOf
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.cuts.similarity import Similarity

SAMPLES = Samples.drawn(60)
FEW = Similarity(by="clip", fraction=0.3), Random(count=10), Random(count=9, seed=4)


def test_it_keeps_what_one_of_its_cuts_keeps_alone() -> None:
    """`random` comes first, so that not all of the pool reaches the union."""
    first = Random(fraction=0.8, seed=7)
    alone = [filtered(SAMPLES, first, cut, shards=3) for cut in FEW]
    out = filtered(SAMPLES, first, AnyOf(FEW), shards=3)
    assert set(out.kept) == set.union(*(set(one.kept) for one in alone))
    names = ("similarity", "random", "random_2")
    kept = {row["uid"]: row for row in out.rows}
    for name, one in zip(names, alone, strict=True):
        came = {uid for uid, row in kept.items() if row[f"{name}.kept"] is not None}
        assert len(came) == 48
        assert {uid for uid in came if kept[uid][f"{name}.kept"]} == set(one.kept)
    report = out.step("any").report
    assert report["by"] == {"similarity": 14, "random": 10, "random_2": 9}
    assert report["several"] == sum(sum(uid in one.kept for one in alone) > 1 for uid in kept)


def test_one_answer_for_any_shards() -> None:
    found = answers(SAMPLES, AnyOf(FEW))
    assert all(answer == found[0] for answer in found)
    assert found[0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([{"random": {"count": 1}}], "at least two cuts, got 1"),
        ([{"random": {"count": 1}}, {"any": [{"rules": {}}, {"rules": {}}]}], "any must not have any among its cuts"),
        ([{"rules": {}}, {"epochs": {"epochs": 2, "count": 3}}], "make epochs the last cut of the policy"),
        ({"random": {"count": 1}}, "policy.0.any must be a list"),
        (None, "policy.0.any must be a list, got None"),
        ([{"rules": {}}, {"randm": {}}], "policy.0.any.1 must be one of .*did you mean random"),
        ([{"rules": {}}, {"random": {"cuont": 3}}], "policy.0.any.1.random has no key 'cuont'; did you mean count"),
        ([{"rules": {}}, {"similarity": {"by": "other", "fraction": 0.5}}], "other"),
    ],
)
def test_other_lists_are_refused(entry: Any, message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse(job("s3://pool/*.parquet", "s3://bucket/store", entry))


def job(pool: str, store: str, union: Any) -> dict[str, Any]:
    shards = {"shards": pool, "format": "vectors", "encoder": "clip", "image": "image", "text": "text"}
    return {"name": "union", "store": store, "pool": shards, "policy": [{"any": union}]}


def test_verify_why_and_sweep(tmp_path: Path) -> None:
    write_vectors(str(tmp_path / "pool"), SAMPLES, 3)
    union = [{"similarity": {"by": "clip", "threshold": 0.2}}, {"random": {"count": 20}}]
    values = job(f"{tmp_path}/pool/*.parquet", f"{tmp_path}/store", union)
    whole = parse(values)
    assert parse(whole.resolved) == whole
    assert changed(whole)["policy"] == [{"any": union}]
    result = run_job(whole, LocalExecutor(2), lambda line: None)
    labels = [label for label, _ in result.path.stages]
    assert labels[-4:] == ["any.similarity", "any.random", "any", "manifest"]
    lines = {one.check: one for one in verify_job(values["store"], "union", LocalExecutor(2), RowSample(None))}
    assert [str(line) for line in lines.values() if not line.holds] == []
    assert lines["cuts"].findings is not None
    assert lines["cuts"].findings.looked["cuts"] == 2
    rows = [row for url in sorted(Path(result.path.manifest.folder).glob("0*.parquet")) for row in read(url)]
    for row in rows[::7]:
        found = explain(values["store"], "union", uid=row["uid"])
        assert found.reason == row["reason"]
        assert {cut.cut: cut.kept for cut in found.said} == {
            "any.similarity": row["any.similarity.cosine"] > 0.2,
            "any.random": row["any.random.kept"],
            "any": row["kept"],
        }
        wanted = "kept by every cut" if row["kept"] else "dropped by any: none of its cuts keeps the sample"
        assert verdict_of(found) == wanted
        json.dumps(found.record())
    damage(result.path.cuts[0][1].store, "random")
    broken = [
        one.check for one in verify_job(values["store"], "union", LocalExecutor(2), RowSample(None)) if not one.holds
    ]
    assert {"ledger", "values", "cuts"} <= set(broken)


def read(url: Path) -> list[dict[str, Any]]:
    return pq.read_table(url).to_pylist()


def damage(store: str, stage: str) -> None:
    """One row of a branch's file changes sides."""
    url = sorted(Path(store).glob(f"{stage}-*/00001.parquet"))[0]
    table = pq.read_table(url)
    kept = table["kept"].to_pylist()
    kept[0] = not kept[0]
    pq.write_table(table.set_column(0, "kept", [kept]).cast(table.schema), url)


def test_a_sweep_varies_a_cut_of_a_union(tmp_path: Path) -> None:
    write_vectors(str(tmp_path / "pool"), SAMPLES, 2)
    union = [{"random": {"count": 20}}, {"random": {"count": 5, "seed": 1}}]
    values = job(f"{tmp_path}/pool/*.parquet", f"{tmp_path}/store", union)
    found = run_sweep(
        policies(values, [Variation.parse("policy.0.any.1.random.count=5,60")]), LocalExecutor(2), lambda line: None
    )
    assert found.outcomes[1].kept == 60
    assert found.outcomes[0].kept <= 25
    assert "any.random" not in found.outcomes[1].seconds  # the first policy made it


def test_the_small_run_of_a_price_shrinks_each_cut() -> None:
    union = AnyOf((Random(count=300_000), Rules(min_words=3)))
    assert union.smaller(1_000, 1e6) == AnyOf((Random(count=300), Rules(min_words=3)))
