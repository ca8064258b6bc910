"""Sweeps against separate runs: kept sets, overlaps of uids, the ledger of every policy, what is made only once."""

import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.pools import Samples, write_vectors
from winnow.jobs import cli
from winnow.jobs.job_file.job import Job, parse
from winnow.jobs.run import run_job
from winnow.jobs.show import comparison
from winnow.jobs.sweep import (
    MOST_POLICIES,
    Sweep,
    Variant,
    VariantResult,
    Variation,
    as_option,
    intersections,
    policies,
    run_sweep,
)
from winnow.pipeline.artifact import is_artifact
from winnow.pipeline.errors import JobError, WinnowError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor

ALL, REJECTED = 120, 5
FRACTIONS = {"policy.0.similarity.fraction": [0.5, 0.8], "policy.1.density.fraction": [0.2, 0.9]}
VARY = [f"{path}={','.join(map(str, values))}" for path, values in FRACTIONS.items()]


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """A job over 120 precomputed pairs in four shards, five of them without a vector."""
    samples = Samples.drawn(ALL)
    samples.image[:: ALL // REJECTED] = 0
    return {
        "name": "swept",
        "store": str(tmp_path / "store"),
        "pool": {
            "shards": list(write_vectors(str(tmp_path / "pool"), samples, 4)),
            "format": "vectors",
            "text": "text",
            "encoder": "clip",
        },
        "policy": [{"similarity": {"by": "clip"}}, {"density": {"by": "clip", "clusters": 4}}],
    }


def swept(values: dict[str, Any], vary: list[str], executor: Executor | None = None) -> tuple[Sweep, list[str]]:
    """The outcome, and the lines that were said."""
    lines: list[str] = []
    found = policies(values, [Variation.parse(text) for text in vary])
    return run_sweep(found, executor or LocalExecutor(2), lines.append), lines


def kept_by_a_run(job: Job) -> Counter[tuple[int, int]]:
    """uids that a run of this one policy keeps."""
    result = run_job(job, LocalExecutor(2), lambda line: None)
    found = np.load(result.path.manifest.meta("uids.npy"), allow_pickle=False)
    return Counter(found.tolist())


def test_a_sweep_keeps_what_separate_runs_keep(values: dict[str, Any], tmp_path: Path, executor: Executor) -> None:
    result, _ = swept(values, VARY, executor)
    found = [outcome.policy for outcome in result.outcomes]
    assert [tuple(policy.values.values()) for policy in found] == [*itertools.product(*FRACTIONS.values())]
    alone = []
    for policy, outcome in zip(found, result.outcomes, strict=True):
        similarity, density = policy.values.values()
        job = {**values, "store": str(tmp_path / "alone"), "policy": [
            {"similarity": {"by": "clip", "fraction": similarity}},
            {"density": {"by": "clip", "clusters": 4, "fraction": density}},
        ]}  # fmt: skip
        alone.append(kept_by_a_run(parse(job)))
        assert outcome.kept == alone[-1].total() == int(density * int(similarity * (ALL - REJECTED)))
    for a, b in itertools.product(range(4), repeat=2):
        assert result.both[a, b] == (alone[a] & alone[b]).total()
        assert result.jaccard[a, b] == (alone[a] & alone[b]).total() / (alone[a] | alone[b]).total()


def test_every_policy_accounts_for_the_whole_pool(values: dict[str, Any]) -> None:
    result, _ = swept(values, VARY)
    assert result.pool == ALL
    assert result.rejected == {"vector-zero": REJECTED}
    for outcome in result.outcomes:
        assert list(outcome.dropped) == ["similarity", "density"]
        assert outcome.kept + sum(outcome.dropped.values()) + REJECTED == ALL
        share = outcome.policy.values["policy.0.similarity.fraction"]
        assert outcome.dropped["similarity"] == 115 - int(115 * float(str(share)))


def test_what_policies_share_is_made_once_and_serves_a_later_run(values: dict[str, Any], tmp_path: Path) -> None:
    result, lines = swept(values, VARY)
    names = [path.name for path in (tmp_path / "store").iterdir() if is_artifact(path.name)]
    folders = Counter(name.rpartition("-")[0] for name in names)
    assert folders == {
        "pool": 1,
        "samples": 1,
        "vectors": 1,
        "distinct": 1,
        "similarity": 2,
        "clusters": 2,
        "density": 4,
    }
    first, second, third, fourth = [list(outcome.seconds) for outcome in result.outcomes]
    assert first == ["pool", "samples", "vectors.clip", "distinct", "similarity", "density.clusters", "density"]
    assert third == ["similarity", "density.clusters", "density"]
    assert second == fourth == ["density"]
    assert lines[0] == "policy 1 of 4: policy.0.similarity.fraction=0.5 policy.1.density.fraction=0.2"
    made = [line.split()[0] for line in lines if not line.startswith(("policy", "uids"))]
    assert made == [*first, *second, *third, *fourth]
    again, _ = swept(values, VARY)
    assert all(step.reused for outcome in again.outcomes for step in outcome.steps.values())
    assert again.both.tolist() == result.both.tolist()
    chosen = result.outcomes[2]
    finished = run_job(chosen.policy.job, LocalExecutor(2), lambda line: None)
    assert {label for label, step in finished.steps if not step.reused} == {"manifest"}
    assert finished.counts["kept"] == chosen.kept
    assert finished.counts["dropped"] == chosen.dropped
    assert finished.counts["rejected"] == result.rejected


def test_a_threshold_is_shown_where_a_cut_has_one(values: dict[str, Any]) -> None:
    result, _ = swept(values, ["policy=[[], [{similarity: {by: clip, threshold: 0.1}}]]"])
    assert result.outcomes[0].kept == ALL  # no cut names an encoder, so its vectors are not read
    assert result.outcomes[0].dropped == {}
    cosine = np.delete(Samples.drawn(ALL).cosine, np.arange(0, ALL, ALL // REJECTED))
    assert result.outcomes[1].kept == (cosine > 0.1).sum() == result.both[0, 1]
    above = cosine.astype(np.float32)[cosine > 0.1].min()
    assert [outcome.thresholds for outcome in result.outcomes] == [{}, {"similarity": above}]
    by_count, _ = swept(values, ["policy=[[{similarity: {by: clip, count: 7}}], [{similarity: {by: clip, count: 0}}]]"])
    last = np.sort(cosine.astype(np.float32))[-7]
    assert [outcome.thresholds for outcome in by_count.outcomes] == [{"similarity": last}, {"similarity": None}]


def test_nothing_kept_by_both_is_the_same_set(values: dict[str, Any]) -> None:
    values["policy"] = [{"random": {"fraction": 1.0}}, {"random": {"count": 0}}]
    result, _ = swept(values, ["policy.0.random.seed=1,2"])
    assert result.jaccard.tolist() == [[1, 1], [1, 1]]


@given(st.integers(1, 6), st.integers(0, 70), st.integers(0, 9))
def test_intersections_are_a_product_and_add_over_shards(p: int, n: int, seed: int) -> None:
    kept = np.random.default_rng(seed).random((p, n)) < 0.4
    both = intersections(kept)
    assert both.dtype == np.int64
    assert both.tolist() == (kept.astype(int) @ kept.T.astype(int)).tolist()
    assert both.tolist() == (intersections(kept[:, : n // 3]) + intersections(kept[:, n // 3 :])).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("policy.1.a=0.1,0.2,3", (0.1, 0.2, 3)),
        ("policy.1.a=[0.1, null, true, 1e-3]", (0.1, None, True, 0.001)),
        ("policy.1.a=yes, 012, 1:30", ("yes", "012", "1:30")),
        ("policy.1.a=easy, 'a, b'", ("easy", "a, b")),
        ("policy.1={a: 1, b: [2, 3]},{c: x=y}", ({"a": 1, "b": [2, 3]}, {"c": "x=y"})),
        ("policy.1.a=[jpg, png],[png]", (["jpg", "png"], ["png"])),
    ],
)
def test_values_are_yaml(text: str, expected: tuple[object, ...]) -> None:
    assert Variation.parse(text) == Variation(text.partition("=")[0], expected)
    assert [yaml.safe_load(as_option(value)) for value in expected] == list(expected)


MANY = ",".join(map(str, range(MOST_POLICIES + 1)))


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (["policy.0.similarity.fraction"], "must be path=value,value, got 'policy.0.similarity.fraction'"),
        (["policy.0.similarity.fraction="], "--vary policy.0.similarity.fraction must have two values or more"),
        (["policy.0.similarity.fraction=[]"], "or more, got '[]'; for a single one use --set"),
        (["policy.0.similarity.fraction=0.5"], "or more, got '0.5'; for a single one use --set"),
        (["policy.0.similarity.fraction=0.5,{"], "--vary policy.0.similarity.fraction=0.5,{ must be YAML: "),
        (["store=a,b"], "share one pool and its scores, got store; use --set for that, and one sweep for"),
        (["policy.0.similarity.count=1,2"] * 2, "a place may vary only once, but --vary policy.0.similarity.count and"),
        (
            ["policy.0.similarity.count=1,2", "policy.0={random: {count: 1}},{random: {count: 2}}"],
            "but --vary policy.0 and --vary policy.0.similarity.count both set it",
        ),
        ([f"policy.0.similarity.count={MANY}"], "a sweep must have 2 to 200 policies, got 201; make several sweeps"),
        ([], "a sweep must have 2 to 200 policies, got 1"),
        (["policy.7.density.count=1,2"], "--vary policy.7.density.count: there is no '7' in the job at that place"),
        (["policy.1.density.fractoin=0.1,0.2"], "policy.1.density has no key 'fractoin'; did you mean fraction?"),
        (["policy.0.similarity.fraction=0.1,2"], "fraction must be between 0 and 1, got 2"),
    ],
)
def test_wrong_variations_are_said(values: dict[str, Any], vary: list[str], message: str) -> None:
    values["policy"][0]["similarity"]["fraction"] = 0.5
    values["policy"][1]["density"]["count"] = 5
    with pytest.raises(JobError) as error:
        policies(values, [Variation.parse(text) for text in vary])
    assert message in str(error.value)


def test_equal_policies_are_refused_before_anything_runs(values: dict[str, Any], tmp_path: Path) -> None:
    values["policy"] = [{"random": {}}]
    with pytest.raises(JobError, match=r"but \(policy.0.random.count=5\) and \(.*=5\) are the same"):
        swept(values, ["policy.0.random.count=5,6,+5"])
    assert not (tmp_path / "store").exists()


def test_a_failing_policy_is_named_and_what_finished_stays(values: dict[str, Any]) -> None:
    values["policy"] = [{"random": {"count": 30}}, {"density": {"by": "clip", "count": 3}}]
    vary = "policy.1.density.clusters=3,31,4"
    with pytest.raises(WinnowError, match=r"^policy 2 of 3 \(policy.1.density.clusters=31\): k-means needs") as error:
        swept(values, [vary])
    assert error.value.exit_code == 1
    result, _ = swept(values, [vary.replace(",31", "")])
    assert [list(outcome.seconds) for outcome in result.outcomes][1] == ["density.clusters", "density"]
    assert all(step.reused for step in result.outcomes[0].steps.values())


def test_a_store_of_one_process_goes_with_the_local_executor(values: dict[str, Any], ray_executor: Executor) -> None:
    with pytest.raises(JobError, match="is visible to one process only"):
        swept({**values, "store": "memory://swept"}, VARY, ray_executor)
    assert len(swept({**values, "store": "memory://swept"}, VARY)[0].outcomes) == 4


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["winnow", "sweep", *words])
    monkeypatch.setenv("COLUMNS", "80")
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def rows(out: str) -> list[list[str]]:
    """Words of every line that begins with a policy's number."""
    return [line.split() for line in out.splitlines() if line.split() and line.split()[0].isdigit()]


def test_the_command_prints_three_tables_and_leaves_json(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    words = [str(tmp_path / "job.yaml"), "--executor", "local", "--set", "policy.0.similarity.threshold=-1.0"]
    left = tmp_path / "left/sweep.json"
    assert called(monkeypatch, *words, "--vary", "policy.1.density.count=10,23", "--json", str(left)) == 0
    out, err = capsys.readouterr()
    kept, dropped, overlap = rows(out)[:2], rows(out)[2:4], rows(out)[4:]
    lowest = np.delete(Samples.drawn(ALL).cosine, np.arange(0, ALL, ALL // REJECTED)).astype(np.float32).min()
    end = f"{lowest:.4g}"
    assert [row[:-1] for row in kept] == [["1", "10", "10", "8.3", "%", end], ["2", "23", "23", "19.2", "%", end]]
    assert dropped == [["1", "120", "-5", "0", "-105", "10"], ["2", "120", "-5", "0", "-92", "23"]]
    assert "policy 2 of 2: policy.1.density.count=23\ndensity  " in err
    record = json.loads(left.read_text())
    result, _ = swept({**values, "policy": record["policies"][0]["policy"]}, ["policy.1.density.count=10,23"])
    assert record["jaccard"] == result.jaccard.tolist()
    assert record["both"] == result.both.tolist()
    assert [[float(cell) for cell in row[1:]] for row in overlap] == np.round(result.jaccard, 2).tolist()
    assert (record["pool"], record["rejected"]) == (120, {"vector-zero": 5})
    for policy, outcome in zip(record["policies"], result.outcomes, strict=True):
        assert policy["values"] == outcome.policy.values
        assert (policy["kept"], policy["dropped"]) == (outcome.kept, outcome.dropped)
        assert policy["thresholds"] == {"similarity": lowest}
        assert policy["artifacts"] == {label: step.artifact.name for label, step in outcome.steps.items()}
        assert parse({**values, "policy": policy["policy"]}).policy == outcome.policy.job.policy
    assert set(record["policies"][1]["seconds_now"]) == {"density"}
    assert called(monkeypatch, *words) == 2
    assert "Missing option '--vary'" in capsys.readouterr().err


def compared(count: int) -> Sweep:
    """Policy n keeps the samples 10 to 10 n."""
    kept = np.arange(1, 1 + 10 * count) <= 10 * np.arange(1, count + 1)[:, None]
    vectors = {"shards": "a.parquet", "format": "vectors", "encoder": "clip"}
    job = parse({"name": "a", "store": "s", "pool": vectors})
    outcomes = [
        VariantResult(Variant(n, {"policy.0.random.count": 10 * n}, job), 10 * n, {"random": 0}, {}, {}, {})
        for n in range(1, count + 1)
    ]
    return Sweep(10 * count, {}, tuple(outcomes), intersections(kept), 0.0)


def test_many_policies_are_compared_by_their_extreme_pairs() -> None:
    table = comparison.overlap_pairs(compared(14))
    kind, a, b, value = (list(column.cells) for column in table.columns)
    assert (kind[0], kind[comparison.PAIRS]) == ("most similar", "least similar")
    assert [*zip(a, b, value, strict=True)][: comparison.PAIRS + 1] == [
        ("13", "14", "0.9286"), ("12", "13", "0.9231"), ("11", "12", "0.9167"), ("10", "11", "0.9091"),
        ("9", "10", "0.9000"), ("1", "14", "0.0714"),
    ]  # fmt: skip


@pytest.mark.parametrize(("count", "shown_as"), [(12, "Jaccard"), (13, "most similar")])
def test_tables_fit_a_terminal(count: int, shown_as: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    comparison.show_sweep(compared(count), Console(width=80))
    out = capsys.readouterr().out
    assert all(line in out for line in shown_as.splitlines())
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert ("--json FILE has all pairs of policies" in out) == (count > 12)


def test_paths_are_shortened_where_they_stay_apart() -> None:
    assert comparison.short_paths(["policy.0.similarity.fraction", "policy.3.density.fraction"]) == [
        "similarity.fraction",
        "density.fraction",
    ]
    twice = ["policy.0.similarity.fraction", "policy.1.similarity.fraction"]
    assert comparison.short_paths(twice) == twice
    assert comparison.short_paths(["policy", "policy.1"]) == ["policy", "1"]
