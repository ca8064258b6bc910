"""A cut of another distribution is whole: it runs, is planned, explained and checked; its version is in its name."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.test_cli import called
from tests.outside_cut import Briefest, install
from tests.pools import Samples, write_datacomp
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import laid_out, run_job
from winnow.jobs.show.documents import verify_document
from winnow.jobs.verify.verify import verify_job
from winnow.jobs.why.explain import Why, explain
from winnow.jobs.why.show import lines_of, verdict_of
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import artifact_of
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.cuts.kinds import CUTS, OWN

UNSAID = "longest: the cut does not say how its columns are made, so they are not checked"


def values_of(folder: Path, *policy: dict[str, Any]) -> dict[str, Any]:
    """60 samples in three shards, with captions of 1 to 20 characters."""
    captions = ["x" * (n % 20 + 1) for n in range(60)]
    if not (folder / "pool").exists():
        write_datacomp(folder / "pool", Samples.drawn(60, caption=captions), 3)
    pool = {"shards": f"{folder}/pool/*.parquet", "format": "datacomp", "use": ["l14"]}
    return {"name": "outside", "store": str(folder / "store"), "pool": pool, "policy": [*policy]}


def done(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifest's rows of a job that ran."""
    result = run_job(parse(values), LocalExecutor(1), lambda line: None)
    files = sorted(Path(result.path.manifest.folder).glob("0*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def lines(values: dict[str, Any]) -> dict[str, str]:
    """What verify prints, by check."""
    return {x.check: str(x) for x in verify_job(values["store"], values["name"], LocalExecutor(1), RowSample(None))}


def why(values: dict[str, Any], row: dict[str, Any]) -> Why:
    return explain(values["store"], values["name"], uid=row["uid"], workers=1)


@pytest.mark.parametrize(
    ("options", "stay", "said"),
    [
        ({"count": 21}, 21, "chars 14, must be at least 14: equal, so uids decide"),
        ({"count": 21, "keep": "shortest"}, 21, "chars 7, must be at most 7: equal, so uids decide"),
        ({"threshold": 10}, 30, "chars 11, must be above 10: passes by 1"),
        ({"threshold": 10, "keep": "shortest"}, 27, "chars 9, must be below 10: passes by 1"),
        ({"count": 0}, 0, None),
    ],
)
def test_the_smallest_cut_of_a_plugin_is_explained_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], stay: int, said: str | None
) -> None:
    install(monkeypatch, tmp_path / "installed")
    values = values_of(tmp_path, {"longest": options})
    rows = done(values)
    assert sum(row["kept"] for row in rows) == stay
    printed = lines(values)
    assert not [line for line in printed.values() if line.startswith("NOT")]
    assert printed["cuts"].startswith("ok   cuts: 60 rows, 1 cuts, 1 groups")
    assert UNSAID in printed["values"]
    for row in rows[::7]:
        found = why(values, row)
        assert found.reason == row["reason"]
        [cut] = found.said
        [limit] = cut.limits
        assert limit.margin is None or (limit.margin >= 0) == row["kept"] or limit.margin == 0
        assert cut.facts["size"] == 60
    if said is not None:  # of the last one that stays
        last = [row for row in rows if row["kept"]]
        last = [row for row in last if f"chars {row['longest.chars']:g}," in said]
        assert said in [line for line in lines_of(why(values, last[0]).said[0]) if line.startswith("chars")]


def turned(values: dict[str, Any], name: str, uids: set[str]) -> None:
    """The verdict of a cut on these samples is turned round in its files."""
    path, _ = laid_out(parse(values))
    made = dict(path.cuts)[name]
    for shard in range(3):
        table, there = pq.read_table(made.shard(shard)), path.manifest.read(shard)["uid"].to_pylist()
        kept = [stays ^ (uid in uids) for stays, uid in zip(table["kept"].to_pylist(), there, strict=True)]
        pq.write_table(table.set_column(0, table.schema.field(0), pa.array(kept)), made.shard(shard))


def test_the_quotas_of_a_plugins_groups_are_checked_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captions of 1 to 20 characters, three times each; 4 stay of each remainder, so its shortest, and one other."""
    install(monkeypatch, tmp_path / "installed")
    values = values_of(tmp_path, {"briefest": {"each": 4}})
    rows = done(values)
    kept = [row for row in rows if row["kept"]]
    assert sorted(row["briefest.chars"] for row in kept) == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6]
    printed = lines(values)
    assert not [line for line in printed.values() if line.startswith("NOT")]
    assert printed["cuts"] == "ok   cuts: 60 rows, 1 cuts, 3 groups"
    assert printed["values"] == "ok   values: 120 values"
    [row] = [row for row in kept if row["briefest.chars"] == 5]
    assert lines_of(why(values, row).said[0])[0] == "chars 5, must be at most 5: equal, so uids decide"

    [last] = [row["uid"] for row in kept if row["briefest.chars"] == 4]
    first = min(row["uid"] for row in rows if row["briefest.chars"] == 5 and not row["kept"])
    turned(values, "briefest", {last, first})  # as many stay, and in order
    said = lines(values)["cuts"]
    assert "2 violations\n" in said
    for group, stay in ((1, 3), (2, 5)):
        assert f"briefest, group {group}: its quota is 4 of 21 samples, but {stay} are kept" in said
    monkeypatch.delattr(Briefest, "quotas")
    assert lines(values)["cuts"] == (
        "ok   cuts: 60 rows, 1 cuts, 3 groups\n"
        "       briefest: the cut gives no quotas of its groups, so the counts per group are not checked"
    )


@pytest.mark.parametrize("options", [{"count": 21}, {"count": 21, "keep": "shortest"}, {"threshold": 10}])
def test_what_changes_places_in_a_plugins_cut_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    install(monkeypatch, tmp_path / "installed")
    values = values_of(tmp_path, {"longest": options})
    done(values)
    [cut] = [artifact for name, artifact in laid_out(parse(values))[0].cuts if name == "longest"]
    url = cut.shard(1)
    table = pq.read_table(url)
    kept = table["kept"].to_pylist()
    a, b = kept.index(True), kept.index(False)
    kept[a], kept[b] = False, True
    pq.write_table(table.set_column(0, table.schema.field(0), pa.array(kept)), url)
    said = lines(values)["cuts"]
    assert said.startswith("NOT  cuts: ")
    assert ("it must be kept too" in said) or ("must keep what is beyond 10" in said)


def test_a_cut_that_orders_nothing_is_told_and_never_passed_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "installed")
    values = values_of(tmp_path, {"odd": {}}, {"random": {"fraction": 0.5}})
    rows = done(values)
    printed = lines(values)
    assert not [line for line in printed.values() if line.startswith("NOT")]
    assert "odd: the cut gives no order, so its choice of samples is not checked" in printed["cuts"]
    assert "random: " not in printed["cuts"] + printed["values"]
    checked = list(verify_job(values["store"], values["name"], LocalExecutor(1), RowSample(None)))
    notes = {check["check"]: check["notes"] for check in verify_document("", "", checked)["checks"]}
    assert len(notes["cuts"]) == len(notes["values"]) == 1
    assert notes["ledger"] == []
    [dropped] = [row for row in rows if row["reason"] == "odd"][:1]
    found = why(values, dropped)
    assert verdict_of(found) == "dropped by odd"
    assert lines_of(found.said[0]) == ["place 0", "it does not say how it decides, beyond its columns"]


def test_the_version_of_a_plugin_is_in_the_name_of_what_it_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for version in ("1.0", "1.1"):
        with monkeypatch.context() as inside:
            install(inside, tmp_path / version, version)
            values = values_of(tmp_path, {"random": {"fraction": 0.9}}, {"longest": {"fraction": 0.5}})
            path, _ = laid_out(parse(values))
            found.append({label: artifact_of(stage, values["store"]).name for label, stage in path.stages})
            run_job(parse(values), LocalExecutor(1), lambda line: None)
            record = json.loads((tmp_path / "store/jobs/outside.json").read_text())
            assert record["versions"]["winnow-outside"] == version
    assert {label for label in found[0] if found[0][label] != found[1][label]} == {"longest", "manifest"}


def test_plan_names_a_plugins_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, tmp_path / "installed")
    values = values_of(tmp_path, {"longest": {"fraction": 0.5}})
    (tmp_path / "job.yaml").write_text(str(values))
    assert called(monkeypatch, "plan", str(tmp_path / "job.yaml")) == 0
    assert "longest" in capsys.readouterr().out
    (tmp_path / "job.yaml").write_text(str(values_of(tmp_path, {"longest": {"fractoin": 0.5}})))
    assert called(monkeypatch, "plan", str(tmp_path / "job.yaml")) == 2
    assert "policy.0.longest has no key 'fractoin'; did you mean fraction?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "target", "said"),
    [
        ("longer", "tests.outside_cut:Longest", "must have the name of its entry point as kind, got 'longest'"),
        ("length", "tests.outside_cut:Length", "must be a dataclass that inherits winnow.stages.cuts.cut.Cut"),
        ("lost", "tests.no_such_module:Lost", "but: ModuleNotFoundError: No module named 'tests.no_such_module'"),
        (
            "rules",
            "tests.outside_cut:Longest",
            "one distribution must offer rules in winnow.cuts, but winnow and acme 2.0 do",
        ),
    ],
)
def test_a_plugin_that_is_none_is_refused_when_a_job_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, target: str, said: str
) -> None:
    from tests import plugins

    plugins.install(monkeypatch, tmp_path / "installed", "acme", {"winnow.cuts": {kind: target}}, {}, "2.0")
    assert set(CUTS) == {*OWN, kind}
    assert parse(values_of(tmp_path, {"random": {"fraction": 0.5}})).policy
    with pytest.raises(JobError) as refused:
        parse(values_of(tmp_path, {kind: {}}))
    assert said in str(refused.value)


def test_an_unknown_cut_is_answered_with_the_names_of_plugins_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "installed")
    with pytest.raises(
        JobError, match=r"one of rules, .*, epochs, briefest, longest, odd, slices, got 'longst'; did you"
    ):
        parse(values_of(tmp_path, {"longst": {}}))
