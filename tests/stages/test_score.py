"""A user's value column: joined by uid in any form, ordered, cut; what is missing, doubled or NaN is refused."""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError, FailedShards, JobError, PoolError
from pipeline.uid import uids_from_hex
from stages.random import Random
from stages.score import Score, load_scores, look_up
from tests.pools import Filtered, Samples, answers, filtered, hex_uids, write_parquet

SAMPLES = Samples.drawn(30)
VALUES = np.random.default_rng(3).normal(size=30)


def scores(folder: Path, name: str = "s", **columns: Any) -> str:
    made = {"uid": SAMPLES.uid, "v": VALUES, **columns}
    return write_parquet(str(folder / f"{name}.parquet"), pa.table(made))


def cut(source: str | tuple[str, ...], **options: Any) -> Score:
    return Score(**{"column": "v", "from": source, **options})


def refused(*cuts: Score, samples: Samples = SAMPLES) -> str:
    with pytest.raises((DataError, FailedShards)) as error:
        filtered(samples, *cuts, shards=2)
    return str(error.value)


def best(n: int, sign: int = 1) -> set[str]:
    return {SAMPLES.uid[i] for i in np.argsort(-sign * VALUES)[:n]}


@pytest.mark.parametrize("keep", ["highest", "lowest"])
def test_keeps_the_highest_or_the_lowest(tmp_path: Path, keep: str) -> None:
    found = filtered(SAMPLES, cut(scores(tmp_path), fraction=0.4, keep=keep), shards=3)
    assert set(found.kept) == best(12, 1 if keep == "highest" else -1)
    values = {row["uid"]: row["value"] for row in found.rows}
    assert [values[uid] for uid in SAMPLES.uid] == VALUES.astype(np.float32).tolist()


def test_a_threshold_is_strict_on_both_sides(tmp_path: Path) -> None:
    v = np.arange(30) / 10
    url = scores(tmp_path, v=v)
    above = filtered(SAMPLES, cut(url, threshold=1.5))
    below = filtered(SAMPLES, cut(url, threshold=1.5, keep="lowest"))
    assert above.kept == SAMPLES.uid[16:]
    assert below.kept == SAMPLES.uid[:15]


@pytest.mark.parametrize(
    "form",
    [
        lambda: pa.array(SAMPLES.uid, pa.large_string()),
        lambda: pa.array([uid.upper() for uid in SAMPLES.uid]),
        lambda: pa.array([bytes.fromhex(uid) for uid in SAMPLES.uid], pa.binary(16)),
        lambda: pa.array([bytes.fromhex(uid) for uid in SAMPLES.uid], pa.binary()),
    ],
)
def test_a_uid_may_be_hex_or_bytes(tmp_path: Path, form: Any) -> None:
    url = write_parquet(str(tmp_path / "s.parquet"), pa.table({"name": form(), "v": VALUES.astype(np.float16)}))
    narrow = VALUES.astype(np.float16)
    assert set(filtered(SAMPLES, cut(url, count=7, uid="name"), shards=2).kept) == {
        SAMPLES.uid[i] for i in sorted(range(30), key=lambda i: (-narrow[i], SAMPLES.uid[i]))[:7]
    }


def test_one_answer_for_any_shards_order_and_files(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).permutation(30)
    parts = [rows[:11], rows[11:12], rows[12:]]
    for i, part in enumerate(parts):
        scores(tmp_path, f"part-{i}", uid=[SAMPLES.uid[j] for j in part], v=np.rint(VALUES[part]))
    found = answers(SAMPLES, cut(f"{tmp_path}/part-*.parquet", count=13))
    assert all(answer == found[0] for answer in found)
    assert len(found[0]) == 13


def test_a_sample_without_a_value_is_an_error_or_dropped(tmp_path: Path) -> None:
    url = scores(tmp_path, uid=SAMPLES.uid[:25] + hex_uids(5, 99))
    text = refused(cut(url, fraction=0.5))
    assert "every sample must have a value in column v, but 5 of shard" in text
    assert f"have none, first {SAMPLES.uid[25]}; set missing: drop to drop them" in text
    found = filtered(SAMPLES, cut(url, count=30, missing="drop"), shards=3)
    assert set(found.kept) == set(SAMPLES.uid[:25])
    assert found.step("scores").report["missing"] == 5
    assert found.step("score").report["dropped"] == 5


def test_only_samples_that_are_in_need_a_value(tmp_path: Path) -> None:
    some = filtered(SAMPLES, Random(count=10), shards=3)
    at = [SAMPLES.uid.index(uid) for uid in some.kept]
    found = some.through(cut(scores(tmp_path, uid=some.kept, v=VALUES[at]), count=4))
    assert len(found.kept) == 4
    everything = some.through(cut(scores(tmp_path, "all"), count=4))
    assert sorted(everything.kept) == sorted(found.kept)
    assert sum(row["value"] is not None for row in everything.rows) == 10


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"v": np.where(np.arange(30) < 2, np.nan, 1.0)}, "column v must hold numbers, but 2 of 30 are NaN"),
        ({"v": pa.array([None, *range(29)])}, "column v must have no nulls here, but 1 came"),
        (
            {"uid": [SAMPLES.uid[0], *SAMPLES.uid[:29]]},
            f"one value in v, but 1 come again, first {SAMPLES.uid[0]}",
        ),
        (
            {"uid": ["short", *SAMPLES.uid[1:]]},
            "a uid is 32 hex digits or 16 bytes, but 1 are not, first 'short'",
        ),
        ({"uid": [None, *SAMPLES.uid[1:]]}, "a uid is 32 hex digits or 16 bytes, but 1 are not, first None"),
    ],
)
def test_what_breaks_the_contract_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    assert message in refused(cut(scores(tmp_path, **columns), fraction=0.5))


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    url = scores(tmp_path)
    assert "must have a column el2n, but it has uid, v" in refused(cut(url, column="el2n", count=1))
    with pytest.raises(PoolError, match="must be there, but 1 of 1 are not"):
        filtered(SAMPLES, cut(str(tmp_path / "absent.parquet"), count=1))
    with pytest.raises(JobError, match="keeps one of fraction, count or threshold"):
        cut(url)


def test_changed_scores_are_another_artifact() -> None:
    root = f"memory://{uuid.uuid4().hex}"
    pool = filtered(SAMPLES, shards=2)

    def with_values(values: np.ndarray) -> Filtered:
        write_parquet(f"{root}/s.parquet", pa.table({"uid": SAMPLES.uid, "v": values}))
        return pool.through(cut(f"{root}/s.parquet", count=5))

    one, two, again = with_values(VALUES), with_values(-VALUES), with_values(-VALUES)
    assert set(one.kept) == best(5)
    assert set(two.kept) == set(again.kept) == best(5, -1)
    assert one.artifact("scores") != two.artifact("scores")


@settings(max_examples=60, deadline=None)
@given(
    known=st.lists(st.integers(0, (1 << 128) - 1), unique=True, max_size=12),
    extra=st.lists(st.integers(0, (1 << 128) - 1), max_size=6),
)
def test_look_up_is_a_dictionary(known: list[int], extra: list[int]) -> None:
    table = {f"{uid:032x}": float(i) for i, uid in enumerate(known)}
    asked = [*table, *(f"{uid:032x}" for uid in extra)]
    ordered = sorted(table)
    values, there = look_up(
        uids_from_hex(asked), uids_from_hex(ordered), np.array([table[u] for u in ordered], np.float32)
    )
    assert there.tolist() == [uid in table for uid in asked]
    assert values[there].tolist() == [table[uid] for uid in asked if uid in table]


def test_files_are_read_in_any_number(tmp_path: Path) -> None:
    one = scores(tmp_path, "a", uid=SAMPLES.uid[:20], v=VALUES[:20])
    two = scores(tmp_path, "b", uid=SAMPLES.uid[20:], v=VALUES[20:])
    uids, values = load_scores((two, one), "v", "uid")
    order = np.argsort(SAMPLES.uid)
    assert uids.tolist() == uids_from_hex([SAMPLES.uid[i] for i in order]).tolist()
    assert values.tolist() == VALUES[order].astype(np.float32).tolist()


def test_a_column_that_holds_no_numbers_is_refused(tmp_path: Path) -> None:
    message = refused(cut(scores(tmp_path, v=[str(value) for value in VALUES]), count=3))
    assert "column v must hold numbers, but it is string; name another, or cast it" in message
