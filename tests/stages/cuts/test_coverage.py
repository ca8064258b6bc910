"""Coverage against its paper's loop: the hardest go, small strata stay whole, and every sample of one is as likely."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Samples, answers, asked, filtered, write_parquet
from winnow.pipeline.artifact import read_table
from winnow.pipeline.errors import DataError, FailedShards, JobError
from winnow.pipeline.uid import uids_from_hex
from winnow.stages.cuts.coverage import Coverage
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.kernels.strata import budgets, stratum_of
from winnow.stages.kernels.uid_hash import hash_values

SAMPLES = Samples.drawn(60)
VALUES = np.random.default_rng(5).exponential(size=60).astype(np.float32)


def scores(folder: Path, values: Any = VALUES, uids: list[str] = SAMPLES.uid) -> str:
    return write_parquet(str(folder / "s.parquet"), pa.table({"uid": uids, "v": values}))


def by_column(url: str, **options: Any) -> Coverage:
    return Coverage(**{"column": "v", "from": url, "strata": 7, **options})


def expected(uids: list[str], ease: np.ndarray, n: int, beta: float, strata: int, seed: int = 0) -> set[str]:
    """The paper's loop: while strata are left, the smallest gives min(its size, remaining // left), by the hash."""
    order = sorted(range(len(uids)), key=lambda i: (-ease[i], uids[i]))
    left = order[: len(uids) - int(beta * len(uids))]
    hashed = dict(zip(uids, hash_values(uids_from_hex(uids), seed).tolist(), strict=True))
    parts: list[list[str]] = [[] for _ in range(strata)]
    low, high = (float(f(ease[left])) for f in (np.min, np.max)) if left else (0.0, 0.0)
    for i in left:
        at = (float(ease[i]) - low) / (high - low) * strata if high > low else 0
        parts[min(int(at), strata - 1)].append(uids[i])
    chosen: set[str] = set()
    remaining = min(n, len(left))
    for number, part in enumerate(sorted(parts, key=len)):
        budget = min(len(part), remaining // (strata - number))
        remaining -= budget
        chosen |= set(sorted(part, key=lambda uid: (-hashed[uid], uid))[:budget])
    return chosen


@settings(max_examples=10, deadline=None)
@given(
    n=st.integers(1, 60),
    fraction=st.floats(0, 1),
    beta=st.floats(0, 1),
    strata=st.integers(1, 60),
    shards=st.integers(1, 4),
)
def test_is_the_papers_on_cosines(n: int, fraction: float, beta: float, strata: int, shards: int) -> None:
    samples = SAMPLES.take(range(n))
    found = filtered(samples, Coverage(by="clip", fraction=fraction, beta=beta, strata=strata), shards=shards)
    ease = samples.cosine.astype(np.float32)
    assert set(found.kept) == expected(samples.uid, ease, asked(fraction, n), beta, strata)
    assert len(found.kept) == min(asked(fraction, n), n - int(beta * n))


@pytest.mark.parametrize(("hardest", "sign"), [("lowest", 1), ("highest", -1)])
def test_is_the_papers_on_a_column_from_either_end(tmp_path: Path, hardest: str, sign: int) -> None:
    found = filtered(SAMPLES, by_column(scores(tmp_path), count=25, beta=0.2, hardest=hardest, seed=4), shards=3)
    assert set(found.kept) == expected(SAMPLES.uid, sign * VALUES, 25, 0.2, 7, seed=4)
    hard = {SAMPLES.uid[i] for i in np.argsort(sign * VALUES)[:12]}
    assert not hard & set(found.kept)
    assert {row["uid"] for row in found.rows if row["stratum"] is None} == hard
    assert {row["uid"]: row["value"] for row in found.rows} == dict(zip(SAMPLES.uid, VALUES.tolist(), strict=True))
    report = found.step("coverage").report
    assert (report["asked"], report["kept"], report["hardest"]) == (25, 25, 12)


RANKS = np.random.default_rng(6).permutation(60) ** 2
LARGE = {
    "floats": VALUES,
    "doubles in the ninth digit": 0.3 + RANKS * 1e-9,
    "nanoseconds": 1_700_000_000_000_000_000 + RANKS,
    "negative": -1_700_000_000_000_000_000 - RANKS,
    "above 2^63": np.array([(1 << 64) - 1 - int(rank) for rank in RANKS], np.uint64),
    "all of int64": np.array([-(1 << 63), (1 << 63) - 1, *RANKS[2:]]),
}


@pytest.mark.parametrize("hardest", ["lowest", "highest"])
@pytest.mark.parametrize("values", LARGE.values(), ids=LARGE)
def test_the_table_tells_each_stratum(tmp_path: Path, values: np.ndarray, hardest: str) -> None:
    found = filtered(SAMPLES, by_column(scores(tmp_path, values), count=25, beta=0.1, hardest=hardest), shards=2)
    assert [
        row["value"] for row in sorted(found.rows, key=lambda row: SAMPLES.uid.index(row["uid"]))
    ] == values.tolist()
    order = np.argsort(values, kind="stable")
    hard = order[:6] if hardest == "lowest" else order[-6:]
    assert {row["uid"] for row in found.rows if row["stratum"] is None} == {SAMPLES.uid[i] for i in hard}
    table = read_table(found.artifact("coverage").meta("strata.parquet")).to_pylist()
    assert [row["stratum"] for row in table] == [*range(7)]
    for part in table:
        inside = [row for row in found.rows if row["stratum"] == part["stratum"]]
        assert len(inside) == part["size"]
        assert sum(row["kept"] for row in inside) == part["quota"]
        slack = 0 if values.dtype.kind in "iu" else 1e-12
        assert all(part["low"] - slack <= row["value"] <= part["high"] + slack for row in inside)
    first, last = (table[0], table[-1]) if hardest == "lowest" else (table[-1], table[0])
    assert first["low"] < last["low"]


def test_one_answer_for_any_shards_and_order(tmp_path: Path) -> None:
    url = scores(tmp_path, np.rint(VALUES * 4))
    for cut in (by_column(url, count=23, beta=0.3), Coverage(by="clip", count=23, beta=0.3)):
        found = answers(SAMPLES, cut)
        assert len(found[0]) == 23
        assert all(answer == found[0] for answer in found)


def test_a_rare_score_stays_where_a_common_one_is_thinned(tmp_path: Path) -> None:
    values = np.array([0.0] * 50 + [1.0, 2.0, 3.0] + [4.0] * 7)
    found = filtered(SAMPLES, by_column(scores(tmp_path, values), count=15, strata=5), shards=3)
    assert sorted(row["value"] for row in found.rows if row["kept"]) == [0.0] * 6 + [1.0, 2.0, 3.0] + [4.0] * 6


def test_a_sample_without_a_value_is_dropped_or_an_error(tmp_path: Path) -> None:
    url = scores(tmp_path, VALUES[:40], SAMPLES.uid[:40])
    found = filtered(SAMPLES, by_column(url, fraction=0.5, beta=0.25, missing="drop"), shards=3)
    assert set(found.kept) == expected(SAMPLES.uid[:40], VALUES[:40], 30, 0.25, 7)
    assert len(found.kept) == 30
    with pytest.raises(FailedShards, match="every sample must have a value in column v"):
        filtered(SAMPLES, by_column(url, fraction=0.5), shards=2)


def test_only_what_is_left_counts() -> None:
    some = filtered(SAMPLES, Random(count=40), shards=3)
    at = [SAMPLES.uid.index(uid) for uid in some.kept]
    ease = SAMPLES.cosine.astype(np.float32)[at]
    found = some.through(Coverage(by="clip", fraction=0.5, beta=0.1))
    assert set(found.kept) == expected(some.kept, ease, 20, 0.1, 50)
    assert len(some.through(Coverage(by="clip", fraction=0.5, of="pool")).kept) == 30
    nobody = filtered(SAMPLES, Rules(min_words=99), Coverage(by="clip", fraction=0.5), shards=3)
    assert nobody.kept == []


def test_one_value_is_one_stratum(tmp_path: Path) -> None:
    found = filtered(SAMPLES, by_column(scores(tmp_path, np.ones(60)), count=20), shards=2)
    assert len(found.kept) == 20
    assert found.step("coverage").report["strata"] == 1


def test_infinity_has_no_range(tmp_path: Path) -> None:
    url = scores(tmp_path, np.append(VALUES[1:], -np.inf))
    with pytest.raises(DataError, match="scores must be finite, got -inf to"):
        filtered(SAMPLES, by_column(url, count=20))
    assert len(filtered(SAMPLES, by_column(url, count=20, beta=0.1)).kept) == 20


@given(
    size=st.lists(st.integers(0, 1000), min_size=1, max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_budgets_sum_exactly_and_are_level(size: list[int], share: float, seed: int) -> None:
    sizes, total = np.array(size), int(share * sum(size))
    budget = budgets(sizes, total)
    assert budget.sum() == total
    assert (budget <= sizes).all()
    assert (budget >= 0).all()
    cut = budget[budget < sizes]
    assert not len(cut) or (cut.max() - cut.min() <= 1 and budget.max() <= cut.max() + 1)
    order = np.random.default_rng(seed).permutation(len(size))
    assert sorted(budgets(sizes[order], total).tolist()) == sorted(budget.tolist())


def test_budgets_refuse_what_the_strata_cannot_hold() -> None:
    with pytest.raises(DataError, match="total must be from 0 to the 7 samples in the strata, got 8"):
        budgets(np.array([3, 4]), 8)


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), strata=st.integers(1, 99))
def test_strata_follow_the_values(values: list[float], strata: int) -> None:
    value = np.sort(np.array(values, np.float32))
    found = stratum_of(value, float(value[0]), float(value[-1]), strata)
    assert (np.diff(found) >= 0).all()
    assert found[0] == 0
    assert found[-1] == (strata - 1 if value[-1] > value[0] else 0)


def test_edges_belong_to_the_upper_stratum() -> None:
    assert stratum_of(np.array([0, 1, 1.5, 2, 4], np.float32), 0.0, 4.0, 4).tolist() == [0, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1}, "coverage needs a score: by .* got by = None, from = None, column = None"),
        ({"count": 1, "by": "clip", "column": "v"}, "by = clip, from = None, column = v"),
        ({"count": 1, "from": "x.parquet"}, "from = x.parquet, column = None"),
        ({"by": "clip"}, "must have one of fraction, count and threshold, got none"),
        ({"by": "clip", "count": 1, "beta": 1.5}, "less than or equal to 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((JobError, ValueError), match=message):
        Coverage(**options)
