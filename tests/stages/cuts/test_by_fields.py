"""Cuts on fields of the pool against Python's own words for them, for any sharding and order of the rows."""

import json
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Samples, opened_with, write_datacomp
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.jobs.verify.finished import RowSample
from winnow.jobs.verify.verify import verify_job
from winnow.jobs.why.explain import explain
from winnow.jobs.why.show import lines_of, verdict_of
from winnow.pipeline import storage
from winnow.pipeline.errors import DataError, FailedShards, JobError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.fingerprint import canonical
from winnow.pipeline.uid import uids_from_hex
from winnow.stages.clusters.clusters import Known
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.fields import groups
from winnow.stages.cuts.fields.cap import Cap
from winnow.stages.cuts.fields.domains import registered_domains
from winnow.stages.cuts.fields.limits import FieldLimits, broken_limits, check_limits
from winnow.stages.cuts.rules import Rules
from winnow.stages.cuts.score import Score
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.pools.field_types import exact

Said = dict[str, list[Any]]


def kept(samples: Samples, said: Said, *cuts: Cut) -> list[str]:
    """Sorted kept uids for 1, 3 and 7 shards in two orders; all must be one answer."""
    order = np.random.default_rng(1).permutation(len(samples)).tolist()
    pools = [
        (samples, said),
        (samples.take(order), {name: [column[n] for n in order] for name, column in said.items()}),
    ]
    found = [sorted(opened_with(*pool, shards).through(*cuts).kept) for pool in pools for shards in (1, 3, 7)]
    assert all(one == found[0] for one in found)
    return found[0]


def named(samples: Samples, rows: Iterable[int]) -> list[str]:
    """The uids of these rows, sorted."""
    return sorted(samples.uid[n] for n in rows)


def limits(**given: Any) -> FieldLimits:
    return FieldLimits(**{"among" if name == "one_of" else name: value for name, value in given.items()})


NUMBERS = st.none() | st.integers(-5, 5) | st.sampled_from([-0.0, 0.5, 2.5, float("inf")])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(NUMBERS, max_size=8), st.integers(-3, 3) | st.floats(-3, 3), st.lists(st.integers(-3, 3) | st.just(0.5))
)
def test_limits_are_what_python_says(values: list[Any], limit: float, some: list[Any]) -> None:
    column = exact(values, "a", str)
    asked = limits(min=limit, max=limit + 2, one_of=tuple(some), not_in=tuple(some))
    broken = broken_limits("f", asked, column)
    assert list(broken) == ["f.missing", "f.min", "f.max", "f.in", "f.not_in"]
    for row, value in enumerate(values):
        known = value is not None
        expected = [
            not known,
            *([value < limit, value > limit + 2, value not in some, value in some] if known else [False] * 4),
        ]
        assert [bool(mask[row]) for mask in broken.values()] == expected


def test_limits_do_not_round() -> None:
    large = exact([(1 << 53), (1 << 53) + 1, None], "a", str)
    assert broken_limits("f", limits(max=1 << 53), large)["f.max"].tolist() == [False, True, False]
    assert broken_limits("f", limits(one_of=((1 << 53) + 1,)), large)["f.in"].tolist() == [True, False, False]
    assert broken_limits("f", limits(max=float(1 << 53)), large)["f.max"].tolist() == [False, True, False]


def test_a_limit_must_fit_its_field() -> None:
    for asked, kind, name in [
        (limits(max=1), pa.string(), "max"),
        (limits(matches="a"), pa.int64(), "matches"),
        (limits(one_of=("en",)), pa.float64(), "in"),
        (limits(not_in=(1,)), pa.bool_(), "not_in"),
        (limits(one_of=(True,)), pa.int64(), "in"),
    ]:
        with pytest.raises(DataError, match=rf"rules.fields.a.{name} must fit the field, which is"):
            check_limits("rules.fields.a", asked, kind)
    check_limits("a", limits(one_of=(True,)), pa.bool_())
    check_limits("a", limits(max=1), pa.null())
    with pytest.raises(JobError, match="must have one of min, max, in, not_in and matches"):
        FieldLimits()
    with pytest.raises(JobError, match="in the syntax of RE2"):
        FieldLimits(matches="(?=a)")


def test_rules_keep_what_passes_and_tell_what_cannot_be_checked() -> None:
    samples = Samples.drawn(30)
    said: Said = {
        "punsafe": [None if n % 7 == 0 else n / 30 for n in range(30)],
        "lang": ["en", "de", None, "EN", "english"] * 6,
    }
    asked = {"punsafe": limits(max=0.5), "lang": limits(matches="(?i)^en", not_in=("english",))}
    expected = [n for n in range(30) if n % 7 and n <= 15 and n % 5 in (0, 3)]
    assert kept(samples, said, Rules(fields=asked)) == named(samples, expected)
    pool = opened_with(samples, said, 3).through(Rules(min_words=3, fields=asked))
    report = pool.step("rules").report
    assert report["unchecked"] == {"punsafe": 5, "lang": 6}
    assert report["notes"] == [
        "5 of 30 samples have no punsafe, so they fail",
        "6 of 30 samples have no lang, so they fail",
    ]
    assert pool.rows[0]["broken"] == "fields.punsafe.missing"
    assert pool.rows[29]["broken"] == "fields.punsafe.max"


def test_rules_without_fields_keep_their_name_in_the_store() -> None:
    pool = opened_with(Samples.drawn(3), {"a": [1, 2, 3]})
    bare = replace(pool, survivors=replace(pool.survivors, fields=()))
    rules = Rules(min_words=2)
    names = [found.through(rules).step("rules").artifact.name for found in (pool, bare)]
    assert names[0] == names[1] != pool.through(replace(rules, fields={"a": limits(min=2)})).step("rules").artifact.name
    assert "fields" not in canonical(rules)  # type: ignore[operator]  # a mapping


def test_a_score_is_a_field_in_its_own_type() -> None:
    samples = Samples.drawn(21)
    values = [(1 << 60) + n // 2 for n in range(21)]  # float64 would make them all one
    best = sorted(range(21), key=lambda n: (-values[n], samples.uid[n]))
    assert kept(samples, {"s": values}, Score(field="s", count=8)) == named(samples, best[:8])
    lowest = sorted(range(21), key=lambda n: (values[n], samples.uid[n]))
    assert kept(samples, {"s": values}, Score(field="s", fraction=0.3, keep="lowest")) == named(samples, lowest[:6])
    assert kept(samples, {"s": values}, Score(field="s", threshold=(1 << 60) + 4)) == sorted(samples.uid[10:])


def test_a_sample_without_a_score_is_an_error_or_goes() -> None:
    samples, said = Samples.drawn(6), {"s": [1.5, None, 0.5, float("nan"), -1.0, 2.0]}
    with pytest.raises(
        FailedShards, match=r"every sample must have a value of field s, but 2 of shard .* have none, first"
    ):
        opened_with(samples, said).through(Score(field="s", count=2))
    assert kept(samples, said, Score(field="s", count=6, missing="drop")) == named(samples, (0, 2, 4, 5))
    with pytest.raises(FailedShards, match="field s must be numbers to be a value, but it is text"):
        opened_with(samples, {"s": ["a"] * 6}).through(Score(field="s", count=2))


def test_a_score_has_one_source() -> None:
    for wrong in ({"count": 1}, {"field": "a", "column": "b", "from": "c", "count": 1}, {"column": "b", "count": 1}):
        with pytest.raises(JobError, match="score needs a value"):
            parse({"name": "a", "store": "memory://s", "pool": POOL, "policy": [{"score": wrong}]})


POOL = {"shards": "x.parquet", "format": "datacomp", "use": ["l14"]}


@pytest.mark.parametrize(
    "cut",
    [
        {"rules": {"fields": {"b": {"max": 1}}}},
        {"score": {"field": "b", "count": 1}},
        {"cap": {"by": "b", "most": 1}},
        {"cap": {"by": "a", "most": 1, "field": "b"}},
    ],
)
def test_a_cut_names_fields_of_the_job(cut: dict[str, Any]) -> None:
    pool = {**POOL, "fields": {"a": "c"}}
    with pytest.raises(
        JobError, match=r"must name one of pool.fields and columns \(a\), got 'b'; add b: json:KEY or a column of"
    ):
        parse({"name": "a", "store": "memory://s", "pool": pool, "policy": [cut]})


def capped(samples: Samples, group: list[Any], value: list[float], most: int) -> list[str]:
    """The obvious version: groups in a dict, each sorted and cut off; a sample without a group stays."""
    by: dict[Any, list[int]] = {}
    for n, name in enumerate(group):
        by.setdefault(n if name is None else str(name), []).append(n)
    firsts = [sorted(rows, key=lambda n: (-value[n], samples.uid[n]))[:most] for rows in by.values()]
    return sorted(samples.uid[n] for rows in firsts for n in rows)


@pytest.mark.parametrize("giant", [2_000_000, 12])
@pytest.mark.parametrize("most", [1, 4, 100])
def test_a_cap_keeps_the_first_of_each_group(most: int, giant: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GIANT", giant)  # the groups 0 and 1 are giants then
    rng = np.random.default_rng(most)
    samples = Samples.drawn(90, seed=most)
    group = [None if n % 11 == 0 else int(n) for n in np.minimum(rng.integers(0, 40, 90), rng.integers(0, 12, 90))]
    value = (rng.integers(0, 9, 90) / 4).tolist()
    said: Said = {"g": group, "v": value}
    hashes = (-hash_values(uids_from_hex(samples.uid), 3)).tolist()
    assert kept(samples, said, Cap(by="g", most=most, seed=3)) == capped(samples, group, hashes, most)
    assert kept(samples, said, Cap(by="g", most=most, field="v")) == capped(samples, group, value, most)
    lowest = [-one for one in value]
    assert kept(samples, said, Cap(by="g", most=most, field="v", keep="lowest")) == capped(samples, group, lowest, most)
    cosine = samples.cosine.astype(np.float32).astype(np.float64).tolist()
    assert kept(samples, said, Cap(by="g", most=most, similarity="clip")) == capped(samples, group, cosine, most)
    dropped = {samples.uid[n] for n in range(90) if group[n] is None}
    assert (
        set(kept(samples, said, Cap(by="g", most=most, field="v", missing="drop")))
        == set(capped(samples, group, value, most)) - dropped
    )


def test_a_cap_counts_only_what_is_still_in() -> None:
    samples = Samples.drawn(10)
    said: Said = {"g": ["a"] * 5 + ["b"] * 5, "v": [float(n) for n in range(10)]}
    best = [n for n in range(10) if n not in (4, 9)]  # an earlier cut drops the best of both
    uids = kept(samples, said, Rules(fields={"v": limits(not_in=(4, 9))}), Cap(by="g", most=2, field="v"))
    assert uids == named(samples, [n for n in best if n in (2, 3, 7, 8)])
    rows = opened_with(samples, said, 2).through(Cap(by="g", most=2, field="v")).rows
    assert [(row["group"], row["size"]) for row in rows] == [("a", 5)] * 5 + [("b", 5)] * 5


def test_a_sample_without_a_value_is_the_last_of_its_group() -> None:
    samples, said = Samples.drawn(4), {"g": ["a"] * 4, "v": [None, -5.0, None, 7.0]}
    assert kept(samples, said, Cap(by="g", most=2, field="v")) == sorted([samples.uid[1], samples.uid[3]])
    assert kept(samples, said, Cap(by="g", most=2, field="v", keep="lowest")) == sorted(
        [samples.uid[1], samples.uid[3]]
    )


def test_a_cap_by_cluster() -> None:
    samples, url = Samples.drawn(60), f"memory://{uuid.uuid4().hex}/axes.npy"
    with storage.committing(url) as file:
        np.save(file, np.eye(16, dtype=np.float32)[:4])
    nearest = samples.image[:, :4].astype(np.float64).argmax(axis=1)
    said: Said = {"v": np.random.default_rng(0).permutation(60).tolist()}
    cut = Cap(by="clip", clusters=Known(source=url), most=7, field="v")
    best = [sorted(np.flatnonzero(nearest == j).tolist(), key=lambda n: -said["v"][n])[:7] for j in range(4)]
    assert max(np.bincount(nearest)) > 7
    assert kept(samples, said, cut) == named(samples, [n for group in best for n in group])
    with pytest.raises(JobError, match="cap groups by a registered domain or by clusters, got both"):
        Cap(by="clip", clusters=4, most=7, domain=True)


def test_registered_domains() -> None:
    links = {
        "http://a.b.example.co.uk/c.jpg?d=e.org": "example.co.uk",
        "HTTPS://user:pw@CDN.Example.COM:8080/x": "example.com",
        "//static.flickr.com/1.jpg": "flickr.com",
        "images.example.org/1.jpg": "example.org",
        "http://photos.blogspot.com/a": "blogspot.com",
        "http://192.168.0.1/a.png": "192.168.0.1",
        "http://[2001:db8::1]:80/a.png": "[2001:db8::1]",
        "http://localhost/a": "localhost",
        "http://bücher.example.de./a": "example.de",
        "http://www.bücher.de/a": "xn--bcher-kva.de",
        "http://www.xn--bcher-kva.de/a": "xn--bcher-kva.de",
        "https:///a": None,
        "": None,
    }
    column = pa.chunked_array([[*links, None]], pa.string())
    assert registered_domains(column).to_pylist() == [*links.values(), None]


def test_a_cap_by_domain() -> None:
    samples = Samples.drawn(12)
    links = [f"http://{'abc'[n % 3]}.x.com/{n}" if n % 2 else f"http://x{n}.de/{n}" for n in range(12)]
    said: Said = {"url": links, "v": [float(n) for n in range(12)]}
    expected = [n for n in range(12) if n % 2 == 0 or n >= 9]
    assert kept(samples, said, Cap(by="url", domain=True, most=2, field="v")) == named(samples, expected)


@pytest.fixture
def finished(tmp_path: Path) -> str:
    """The store of a job with every cut on fields."""
    samples = Samples.drawn(60)
    urls = write_datacomp(tmp_path / "pool", samples, 3)
    for i, url in enumerate(urls):
        numbers = np.arange(20 * i, 20 * i + 20)
        columns = {
            "punsafe": [None if n % 10 == 3 else n / 100 for n in numbers],
            "site": [f"s{n % 4}" for n in numbers],
        }
        table = pq.read_table(url)
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values))
        pq.write_table(table, url)
    policy = [
        {"rules": {"fields": {"punsafe": {"max": 0.55}}}},
        {"score": {"field": "punsafe", "fraction": 0.8}},
        {"cap": {"by": "site", "most": 6}},
        {"cap": {"by": "l14", "clusters": 3, "most": 5}},
    ]
    pool = {**POOL, "shards": list(urls), "fields": {"punsafe": "punsafe", "site": "site"}}
    job = parse({"name": "fields", "store": str(tmp_path / "store"), "pool": pool, "policy": policy})
    lines: list[str] = []
    counts = run_job(job, LocalExecutor(2), lines.append).counts
    assert counts["dropped"] == {"rules": 10, "score": 10, "cap": 16, "cap_2": 9}
    assert any("6 of 60 samples have no punsafe, so they fail" in line for line in lines)
    assert json.dumps(job.resolved)
    return job.store


def test_a_finished_job_verifies_and_explains(finished: str) -> None:
    checks = verify_job(finished, "fields", LocalExecutor(2), RowSample(None))
    assert not [str(check) for check in checks if check.findings and (check.findings.wrong or check.findings.notes)]
    uids = Samples.drawn(60).uid
    unknown, unsafe = explain(finished, "fields", uids[3]), explain(finished, "fields", uids[57])
    assert verdict_of(unknown) == "dropped by rules: fields.punsafe.missing"
    assert lines_of(unknown.said[0])[-1] == "the pool has no punsafe of it, so it breaks every rule on punsafe"
    assert verdict_of(unsafe).startswith("dropped by rules: fields.punsafe 0.57, ")
    facts = next(
        said
        for n in range(60)
        for said in explain(finished, "fields", uids[n]).said
        if said.cut == "cap" and not said.kept
    ).facts
    assert facts["group_size"] > facts["group_kept"] == 6
