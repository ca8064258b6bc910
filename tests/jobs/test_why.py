"""`winnow why`: a sample's reason is that of the manifest, its rank and margin those of a sort, its text harmless."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.jobs.test_cli import called
from tests.jobs.test_run import BROKEN, COPIES, PLANTED, USELESS, job_values, planted
from tests.jobs.verify.test_verify import DATACOMP, every_cut, near_sets
from tests.pools import jpeg, members, pair, unit, write_datacomp, write_parquet, write_tar
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import JobResult, run_job
from winnow.jobs.why.cuts import Said
from winnow.jobs.why.explain import Why, explain
from winnow.jobs.why.show import escaped, show_why, verdict_of
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.stages.cuts.contract.explained import Asked, Limit
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.kinds import CUTS
from winnow.stages.cuts.rules import Rules

HOSTILE = "[bold]red[/] \x1b[2J\x1b]0;owned\x07 \u202egnp.exe :smile:"


@dataclass(frozen=True)
class Finished:
    """A job that ran, and its manifest's rows by uid or key."""

    store: str
    name: str
    result: JobResult
    rows: list[dict[str, Any]]

    def why(self, **named: Any) -> Why:
        return explain(self.store, self.name, **named, workers=2)


def done(values: dict[str, Any]) -> Finished:
    result = run_job(parse(values), LocalExecutor(2), lambda line: None)
    files = sorted(Path(result.path.manifest.folder).glob("0*.parquet"))
    return Finished(
        values["store"], values["name"], result, [row for f in files for row in pq.read_table(f).to_pylist()]
    )


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A job of every cut; each has something to drop."""
    folder = tmp_path_factory.mktemp("every")
    samples = near_sets()
    write_datacomp(folder / "pool", samples, 4)
    np.save(folder / "target.npy", unit(30, 16, 9))
    scores = 1_700_000_000_000_000_000 + np.random.default_rng(1).permutation(len(samples))  # as no float64 tells apart
    write_parquet(f"{folder}/el2n.parquet", pa.table({"uid": samples.uid, "el2n": scores}))
    return done(
        {
            "name": "every",
            "store": str(folder / "store"),
            "pool": {"shards": f"{folder}/pool/*.parquet", **DATACOMP},
            "policy": every_cut(folder),
        }
    )


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The planted pool, and a sample whose key and caption are hostile."""
    folder = tmp_path_factory.mktemp("tars")
    planted(folder / "pool")
    hostile = [("bad", {**pair(500, HOSTILE), "jpg": jpeg(500)}), ("again", pair(13, "the uid of another"))]
    write_tar(folder / "pool/00003.tar", members(hostile))
    return done(job_values(folder, PLANTED, limits={"max_reject_fraction": 0.2}))


def text_of(found: Why) -> str:
    console = Console(file=io.StringIO(), width=200)
    show_why(found, console)
    return console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def dropped_by_each(job: Finished) -> Iterator[tuple[str, dict[str, Any]]]:
    """The first sample in the manifest for each reason."""
    seen: dict[str, dict[str, Any]] = {}
    for row in job.rows:
        seen.setdefault(row["reason"] or "kept", row)
    yield from seen.items()


def test_the_reason_is_that_of_the_manifest_for_every_cut(every: Finished) -> None:
    kinds = set()
    for reason, row in dropped_by_each(every):
        found = every.why(uid=row["uid"])
        assert found.reason == (None if reason == "kept" else reason)
        assert found.place.key == row["key"]
        for cut in found.said:
            told = {name.removeprefix(f"{cut.cut}."): v for name, v in row.items() if name.startswith(f"{cut.cut}.")}
            assert {**cut.values, **({} if cut.part_of is None else {"kept": cut.kept})} == told
            margins = [limit.margin for limit in cut.limits if limit.margin is not None]
            if cut.kind not in ("coverage", "prototypes"):  # there a floor or a hash keeps what is beyond
                assert all(margin >= 0 for margin in margins) if cut.kept else all(margin <= 0 for margin in margins)
        kinds |= {cut.kind for cut in found.said}
        assert verdict_of(found).startswith("kept" if reason == "kept" else f"dropped by {reason}")
        assert verdict_of(found) in text_of(found)
        assert json.loads(json.dumps(found.record()))["reason"] == found.reason
    assert kinds == set(CUTS)


def test_the_rank_is_that_of_a_sort(every: Finished) -> None:
    """In its cluster by distance, then uid."""
    inside = [row for row in every.rows if row["density.cluster"] is not None]
    for row in inside[::17]:
        group = [r for r in inside if r["density.cluster"] == row["density.cluster"]]
        order = sorted(group, key=lambda r: (-r["density.distance"], r["uid"]))
        stay = [r for r in group if r["kept"] or r["reason"] in ("subset", "cap", "mix", "any", "random", "epochs")]
        [density] = [cut for cut in every.why(uid=row["uid"]).said if cut.cut == "density"]
        assert density.facts["cluster_rank"] == 1 + order.index(row)
        assert (density.facts["cluster_size"], density.facts["cluster_kept"]) == (len(group), len(stay))
        assert density.facts["quota"] == len(stay)
        [limit] = density.limits
        assert limit.limit == min(r["density.distance"] for r in stay)


def test_a_repeated_sample_names_the_one_that_stays(tars: Finished) -> None:
    n = COPIES[0] + 18  # 30 repeats 12
    found = tars.why(uid=f"{n + 1:032x}")
    assert found.reason == "duplicates"
    assert found.twin is not None
    assert found.twin.place.uid == f"{COPIES[0] + 1:032x}"
    assert found.twin.place.caption == f"a picture of thing {COPIES[0]}"
    assert f"duplicate of {COPIES[0] + 1:032x}" in text_of(found)
    assert tars.why(uid=f"{n + 1:032x}", ranks=False).twin is None


def test_rejects_are_found_by_key(tars: Finished) -> None:
    for n in BROKEN:
        [row] = [row for row in tars.rows if row["key"] == f"{n:04d}"]
        found = tars.why(shard=row["shard"], key=row["key"])
        assert (found.verdict, found.reason) == ("rejected", row["reason"])
        assert f"rejected  {row['reason'].removeprefix('reject:')}: " in text_of(found)
    repeated = tars.why(shard="00003.tar", key="again")
    assert (repeated.reason, repeated.place.uid) == ("reject:repeated-uid", f"{14:032x}")
    assert repeated.place.caption == "the uid of another"
    assert tars.why(uid=f"{14:032x}").place.key == "0013"


def test_a_rule_says_by_how_much(tars: Finished) -> None:
    n = USELESS[0]
    found = tars.why(uid=f"{n + 1:032X}")
    assert verdict_of(found) == "dropped by rules: words 1, must be at least 3: fails by 2"


def test_a_rule_without_a_number_is_named_and_not_one_that_is_met_exactly(tars: Finished) -> None:
    found = tars.why(uid=f"{USELESS[0] + 1:032x}")
    exact = Limit("words", 3, 3, 0, "at least", ties=False)
    by = Said("rules", "rules", False, {"broken": "caption_matches"}, (exact,), decided="caption_matches")
    assert by.missed is None
    assert verdict_of(replace(found, said=(by,))) == "dropped by rules: caption_matches"
    tied = replace(exact, ties=True)
    assert replace(by, limits=(tied,)).missed == tied


def test_a_picture_that_is_not_known_in_size_has_no_margin(every: Finished) -> None:
    place = replace(every.why(uid=every.rows[0]["uid"]).place, width=None, height=None)
    cut = replace(every_rules(every), options=Rules(min_words=1, min_side=200, max_aspect=3))
    found = cut.options.explain(Asked(cut, place, {}, False, {}))
    assert [limit.what for limit in found.limits] == ["words"]
    assert "is not known" in found.facts["note"]


def every_rules(job: Finished) -> FinishedCut:
    [rules] = [cut for cut in job.why(uid=job.rows[0]["uid"]).job.cuts if cut.kind == "rules"]
    return rules


def test_a_picture_of_a_shard_that_changed_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the same place there may be another sample by now."""
    url = write_tar(tmp_path / "pool/0.tar", members([("a", pair(1, "a picture of thing 1"))]))
    job = done(job_values(tmp_path, [{"random": {"count": 1}}], shards=None))
    write_tar(Path(url), members([("b", pair(2, "a picture of something else"))]))
    words = ["why", job.store, job.name, job.rows[0]["uid"], "--image", str(tmp_path / "a.jpg")]
    assert called(monkeypatch, *words) == 1
    assert "0.tar must stay as it was when the run listed it" in capsys.readouterr().err
    assert not (tmp_path / "a.jpg").exists()


def test_captions_cannot_command_a_terminal(tars: Finished) -> None:
    text = text_of(tars.why(shard="3", key="bad"))
    assert "\x1b" not in text.replace("\x1b[0m", "")
    assert "\x07" not in text
    assert "\u202e" not in text
    assert r"[bold]red[/] \x1b[2J\x1b]0;owned\x07 \u202egnp.exe :smile:" in text
    assert escaped("é 猫") == "é 猫"


def test_the_command_writes_the_picture(
    tars: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["why", tars.store, tars.name, f"{501:032x}", "--image", str(tmp_path / "a.jpg")]
    assert called(monkeypatch, *words, "--thumbnail", str(tmp_path / "b.jpg"), "--json") == 0
    assert (tmp_path / "a.jpg").read_bytes() == jpeg(500)
    assert (tmp_path / "b.jpg").read_bytes()[:4] == b"RIFF"
    assert json.loads(capsys.readouterr().out)["caption"] == HOSTILE


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["f" * 31], 2, "winnow: a uid must be 32 hex digits, got 'fff"),
        (["f" * 32], 2, "winnow: a uid must be that of a readable sample, but ffff"),
        ([], 2, "winnow: a sample must be named by its uid, or by --shard and --key together"),
        (["--shard", "1"], 2, "winnow: a sample must be named by its uid, or by --shard and --key together"),
        (
            ["--shard", "9.tar", "--key", "a"],
            2,
            "winnow: --shard must name one shard of the pool, but '9.tar' names none",
        ),
        (["--shard", "00001.tar", "--key", "a"], 2, "winnow: a key must be that of a sample of its shard, but"),
    ],
)
def test_what_is_not_there_is_refused(
    tars: Finished,
    words: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert called(monkeypatch, "why", tars.store, tars.name, *words) == code
    assert message in capsys.readouterr().err
    with pytest.raises(JobError, match="a job must have finished"):
        explain(tars.store, "other", uid="f" * 32)
    with pytest.raises(JobError, match="none of the 4 shards"):
        tars.why(uid="f" * 32)


def test_pools_of_vectors_have_no_picture(
    every: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["why", every.store, every.name, every.rows[0]["uid"], "--image", str(tmp_path / "a.jpg")]
    assert called(monkeypatch, *words) == 2
    assert "the pool must have images to write one" in capsys.readouterr().err
    assert not (tmp_path / "a.jpg").exists()
