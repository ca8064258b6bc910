"""A user's value column: joined by uid in any form, ordered, cut; what is missing, doubled or NaN is refused."""

import re
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.pools import Filtered, Samples, answers, filtered, hex_uids, write_parquet
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.pipeline.errors import DataError, FailedShards, JobError, PoolError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.stages.cuts import score
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.score import Score
from winnow.stages.pools.sample_names import stem_of

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
    assert [values[uid] for uid in SAMPLES.uid] == VALUES.tolist()


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
        lambda: pa.array([bytes.fromhex(uid) for uid in SAMPLES.uid], pa.large_binary()),
        lambda: pa.array([bytes.fromhex(uid) for uid in SAMPLES.uid], pa.uuid()),
        lambda: pa.array([str(uuid.UUID(uid)) for uid in SAMPLES.uid], pa.string_view()),
        lambda: pa.array([str(uuid.UUID(uid)).upper() for uid in SAMPLES.uid]).dictionary_encode(),
        lambda: pa.array([uid.encode() for uid in SAMPLES.uid], pa.binary_view()),
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
        (
            {"uid": [SAMPLES.uid[0], *SAMPLES.uid[:29]]},
            f"one value in v, but 1 are repeated, first {SAMPLES.uid[0]}",
        ),
        (
            {"uid": ["short", *SAMPLES.uid[1:]]},
            "a uid must be 32 hex digits, a UUID or 16 bytes, but 1 are not, first 'short'; join samples with",
        ),
        (
            {"uid": [None, *SAMPLES.uid[1:]]},
            "must be 32 hex digits, a UUID or 16 bytes, but 1 are not, first None",
        ),
    ],
)
def test_what_breaks_the_contract_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    assert message in refused(cut(scores(tmp_path, **columns), fraction=0.5))


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    url = scores(tmp_path)
    assert "must have a column el2n, but it has uid, v" in refused(cut(url, column="el2n", count=1))
    with pytest.raises(PoolError, match="must be an existing file, but 1 of 1 are not"):
        filtered(SAMPLES, cut(str(tmp_path / "absent.parquet"), count=1))
    with pytest.raises(JobError, match="must have one of fraction, count and threshold"):
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


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_parts_of_any_size_give_one_answer(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores(tmp_path, "p-0", uid=[*SAMPLES.uid[:9], *hex_uids(40, 99)], v=[*VALUES[:9], *range(40)])
    scores(tmp_path, "p-1", uid=SAMPLES.uid[9:], v=VALUES[9:])
    monkeypatch.setattr(score, "_PART_ROWS", rows)
    found = filtered(SAMPLES, cut(f"{tmp_path}/p-*.parquet", count=8), shards=4)
    assert set(found.kept) == best(8)
    assert [row["value"] for row in found.rows] == VALUES.tolist()
    scores(tmp_path, "p-2", uid=SAMPLES.uid[:4], v=VALUES[:4])
    assert f"but 4 are repeated, first {min(SAMPLES.uid[:4])}" in refused(cut(f"{tmp_path}/p-*.parquet", count=8))


RANKS = np.random.default_rng(5).permutation(30)
"""The place of each sample, which the columns say in many types; float32 does not tell the values of some apart."""

COLUMNS = {
    "seconds since 1970": pa.array(1_700_000_000 + RANKS),
    "nanoseconds since 1970": pa.array(1_700_000_000_000_000_000 + RANKS),
    "the ends of int64": pa.array([-(1 << 63) + int(r) if r < 15 else (1 << 63) - 30 + int(r) for r in RANKS]),
    "above 2^63": pa.array([(1 << 64) - 30 + int(r) for r in RANKS], pa.uint64()),
    "small uint64": pa.array(RANKS.astype(np.uint64)),
    "int8": pa.array(RANKS.astype(np.int8)),
    "the ninth digit": pa.array(0.3 + RANKS * 1e-9),
    "subnormal": pa.array(RANKS * 5e-324),
    "infinite ends": pa.array([{0: -np.inf, 29: np.inf}.get(int(r), float(r)) for r in RANKS]),
    "float16": pa.array(RANKS.astype(np.float16)),
    "decimals of money": pa.array([Decimal(int(r)) / 100 for r in RANKS], pa.decimal128(12, 2)),
    "decimals without a fraction": pa.array([Decimal(int(r) + (1 << 60)) for r in RANKS], pa.decimal128(38, 0)),
    "a dictionary": pa.array(1_700_000_000 + RANKS).dictionary_encode(),
}


def number_of(value: int | float | Decimal) -> int | float:
    """What a threshold says of a value: a decimal without a fraction is a whole number."""
    if isinstance(value, Decimal):
        return int(value) if value == int(value) and value > 1 << 53 else float(value)
    return value


@pytest.mark.parametrize("keep", ["highest", "lowest"])
@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_every_number_orders_in_its_own_type(tmp_path: Path, column: pa.Array, keep: str) -> None:
    url = scores(tmp_path, v=column)
    ordered = sorted(range(30), key=lambda i: -RANKS[i] if keep == "highest" else RANKS[i])
    found = filtered(SAMPLES, cut(url, count=7, keep=keep), shards=3)
    assert set(found.kept) == {SAMPLES.uid[i] for i in ordered[:7]}
    plain = [number_of(value) for value in column.to_pylist()]
    told = plain[ordered[6]]
    assert found.step("score").report["threshold"] == told
    kinds = {row["uid"]: row["value"] for row in found.rows}
    assert [kinds[uid] for uid in SAMPLES.uid] == plain
    if np.isfinite(told):
        beyond = filtered(SAMPLES, cut(url, threshold=told, keep=keep), shards=3)
        assert set(beyond.kept) == {SAMPLES.uid[i] for i in ordered[:6]}


def test_a_threshold_between_whole_numbers_and_beyond_all(tmp_path: Path) -> None:
    url = scores(tmp_path, v=pa.array(RANKS))
    kept = {
        limit: len(filtered(SAMPLES, cut(url, threshold=limit)).kept) for limit in (9.5, 9, -1, 29, 1 << 63, -1e300)
    }
    assert kept == {9.5: 20, 9: 20, -1: 30, 29: 0, 1 << 63: 0, -1e300: 30}
    below = {n: len(filtered(SAMPLES, cut(url, threshold=n, keep="lowest")).kept) for n in (9.5, 9, 0, 1 << 63)}
    assert below == {9.5: 10, 9: 9, 0: 0, 1 << 63: 30}
    with pytest.raises(JobError, match="an integer threshold must fit into 64 bits"):
        cut(url, threshold=1 << 70)


def test_booleans_are_0_and_1(tmp_path: Path) -> None:
    safe = RANKS % 2 == 0
    url = scores(tmp_path, v=safe)
    found = filtered(SAMPLES, cut(url, threshold=0))
    assert found.kept == [uid for uid, yes in zip(SAMPLES.uid, safe, strict=True) if yes]


def test_a_null_says_nothing(tmp_path: Path) -> None:
    url = scores(tmp_path, v=pa.array([None, *range(1_700_000_000, 1_700_000_029)]))
    assert "1 of shard" in refused(cut(url, fraction=0.5))
    found = filtered(SAMPLES, cut(url, count=2, missing="drop"), shards=2)
    assert found.kept == SAMPLES.uid[28:]
    nothing = filtered(SAMPLES, cut(scores(tmp_path, "n", v=pa.nulls(30)), count=2, missing="drop"))
    assert nothing.kept == []


def test_files_of_several_types_have_the_one_that_holds_all(tmp_path: Path) -> None:
    """As pandas writes them: the part with a null is of floats, the other of whole numbers."""
    scores(tmp_path, "p-0", uid=SAMPLES.uid[:10], v=pa.array(RANKS[:10]))
    scores(tmp_path, "p-1", uid=SAMPLES.uid[10:], v=pa.array(RANKS[10:] + 0.0))
    found = filtered(SAMPLES, cut(f"{tmp_path}/p-*.parquet", count=5), shards=2)
    assert set(found.kept) == {SAMPLES.uid[i] for i in np.argsort(-RANKS)[:5]}
    scores(tmp_path, "p-2", uid=hex_uids(1, 7), v=pa.array([(1 << 53) + 1]))
    text = "column v must have one type that holds all its numbers, got whole numbers up to 9007199254740993 and floats"
    assert text in refused(cut(f"{tmp_path}/p-*.parquet", count=5))
    scores(tmp_path, "q-0", uid=SAMPLES.uid, v=pa.array(RANKS - 10))
    scores(tmp_path, "q-1", uid=hex_uids(1, 7), v=pa.array([1 << 63], pa.uint64()))
    assert "got -10 and 9223372036854775808; cast it to one" in refused(cut(f"{tmp_path}/q-*.parquet", count=5))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            pa.array(RANKS, pa.timestamp("us")),
            "is timestamp[us]; name another column, or cast it to int64, such as",
        ),
        (pa.array(RANKS.astype(np.int32), pa.date32()), "is date32[day]; name another column, or cast it to int64"),
        (pa.array(RANKS, pa.duration("s")), "is duration[s]; name another column, or cast it to int64"),
        (pa.array([[1.0]] * 30), "double>; name another column, or cast it"),
        (
            pa.array([Decimal(10**15 + int(r)) / 100 for r in RANKS], pa.decimal128(38, 2)),
            "must have at most 15 digits where",
        ),
        (pa.array([Decimal(10**25)] * 30, pa.decimal128(38, 0)), "must fit into 64 bits, got decimal128(38, 0)"),
    ],
)
def test_what_is_no_plain_number_is_refused(tmp_path: Path, column: pa.Array, message: str) -> None:
    assert message in refused(cut(scores(tmp_path, v=column), count=5))


def test_a_file_that_is_no_parquet_is_the_users_to_mend(tmp_path: Path) -> None:
    whole = Path(scores(tmp_path)).read_bytes()
    files = {
        "s.csv": (b"uid,v\n1,2\n", "must be parquet, but it begins with b'uid,v\\n1,2\\n'; write it as parquet"),
        "empty.parquet": (b"", "must be parquet, but it is empty; write it as parquet"),
        "zip.parquet": (b"PK\x03\x04" + bytes(99), "must be parquet, but it begins with b'PK"),
        "arrow.feather": (b"ARROW1\0\0" + bytes(99), "must be parquet, but it begins with b'ARROW1"),
        "cut.parquet": (whole[: len(whole) // 2], "must be a complete parquet file, but: "),
        "tail.parquet": (whole[:-1] + b"X", "must be a complete parquet file, but: "),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        text = refused(cut(str(tmp_path / name), count=5))
        assert f"{tmp_path / name} {message}" in text
        assert "delete" not in text
    twice = pa.table([pa.array(SAMPLES.uid), pa.array(VALUES), pa.array(VALUES)], names=["uid", "v", "v"])
    write_parquet(str(tmp_path / "twice.parquet"), twice)
    assert "must have one column v, but 2 have that name" in refused(cut(str(tmp_path / "twice.parquet"), count=5))


def test_a_column_that_holds_no_numbers_is_refused(tmp_path: Path) -> None:
    message = refused(cut(scores(tmp_path, v=[str(value) for value in VALUES]), count=3))
    assert "column v must hold numbers, but its type is string; name another column, or cast it" in message


NAMED = {
    "text": (pa.array([f"https://x/{i}.jpg" for i in range(30)]), pa.array([f"https://x/{i}.jpg" for i in range(30)])),
    "digits": (pa.array([f"{i:064x}" for i in range(30)]), pa.array([f"{i:064x}".encode() for i in range(30)])),
    "whole numbers": (pa.array(range(30), pa.int64()), pa.array(range(30), pa.int32())),
    "uuids beside names": (
        pa.array([*SAMPLES.uid[:15], *(f"n{i}" for i in range(15))]),
        pa.array([*(str(uuid.UUID(uid)) for uid in SAMPLES.uid[:15]), *(f"n{i}" for i in range(15))]),
    ),
}


def vectors_job(folder: Path, columns: dict[str, Any], cut: dict[str, Any], uid: str = "auto") -> dict[str, Any]:
    """Three shards of ten rows with these columns, and the job that cuts them; shards are 00000 to 00002."""
    table = SAMPLES.table().drop_columns("uid")
    for name, column in columns.items():
        table = table.append_column(name, column)
    for shard in range(3):
        write_parquet(f"{folder}/pool/{shard:05d}.parquet", table.slice(10 * shard, 10))
    pool = {"shards": f"{folder}/pool/*.parquet", "format": "vectors", "uid": uid}
    return {"name": "j", "store": str(folder / "store"), "pool": pool, "policy": [{"score": cut}]}


def kept_captions(values: dict[str, Any]) -> set[str]:
    result = run_job(parse(values), LocalExecutor(2), lambda line: None)
    table = pa.concat_tables([result.path.manifest.read(n, ["key", "kept"]) for n in range(3)])
    return set(table.filter(table["kept"])["key"].to_pylist())


@pytest.mark.parametrize(("pool", "file"), NAMED.values(), ids=NAMED)
def test_what_names_the_pool_joins_the_scores(tmp_path: Path, pool: pa.Array, file: pa.Array) -> None:
    url = write_parquet(f"{tmp_path}/s.parquet", pa.table({"id": file, "v": RANKS}))
    keys = pa.array([f"k{i}" for i in range(30)])
    cut = {"from": url, "column": "v", "uid": "id", "count": 6}
    found = kept_captions(vectors_job(tmp_path, {"name": pool, "key": keys}, cut, "name"))
    assert found == {f"k{i}" for i in np.argsort(-RANKS)[:6]}


SHARDS = {
    "number": pa.array([i // 10 for i in range(30)]),
    "stem": pa.array([f"{i // 10:05d}" for i in range(30)]),
    "name": pa.array([f"{i // 10:05d}.parquet" for i in range(30)]),
    "path": pa.array([f"s3://elsewhere/pool/{i // 10:05d}.tar" for i in range(30)]).dictionary_encode(),
}


@pytest.mark.parametrize("shard", SHARDS.values(), ids=SHARDS)
def test_keys_that_repeat_are_told_apart_by_their_shard(tmp_path: Path, shard: pa.Array) -> None:
    keys = pa.array([f"{i % 10:09d}" for i in range(30)])
    rows = np.random.default_rng(0).permutation(30)
    table = pa.table({"key": keys, "part": shard, "v": RANKS}).take(pa.array(rows))
    url = write_parquet(f"{tmp_path}/s.parquet", table)
    cut = {"from": url, "column": "v", "key": "key", "shard": "part", "count": 6}
    result = run_job(parse(vectors_job(tmp_path, {"key": keys}, cut)), LocalExecutor(2), lambda line: None)
    found = {(n, row["key"]) for n in range(3) for row in result.path.manifest.read(n).to_pylist() if row["kept"]}
    assert found == {(i // 10, f"{i % 10:09d}") for i in np.argsort(-RANKS)[:6]}


def test_keys_alone_join_where_none_repeats(tmp_path: Path) -> None:
    keys = pa.array([f"{i:09d}" for i in range(30)])
    url = write_parquet(f"{tmp_path}/s.parquet", pa.table({"key": keys, "v": RANKS}))
    cut = {"from": url, "column": "v", "key": "key", "count": 6}
    assert kept_captions(vectors_job(tmp_path, {"key": keys}, cut)) == {f"{i:09d}" for i in np.argsort(-RANKS)[:6]}


def test_names_that_are_not_one_samples_are_refused(tmp_path: Path) -> None:
    keys = pa.array([f"{i % 10:09d}" for i in range(30)])
    url = write_parquet(f"{tmp_path}/s.parquet", pa.table({"key": keys[:10], "v": RANKS[:10], "n": range(10)}))
    twice = write_parquet(f"{tmp_path}/t.parquet", pa.table({"key": keys, "v": RANKS, "part": SHARDS["stem"]}))
    base = {"from": url, "column": "v", "count": 6}

    def said(columns: dict[str, Any], **options: Any) -> str:
        with pytest.raises((DataError, FailedShards)) as error:
            run_job(parse(vectors_job(tmp_path, columns, {**base, **options})), LocalExecutor(2), lambda line: None)
        return str(error.value)

    first = f"first '000000000' of {tmp_path}/pool/00000.parquet and {tmp_path}/pool/00001.parquet"
    text = said({"key": keys}, key="key")
    assert (
        f"a key must belong to one sample, but 20 samples repeat that of another, {first}; name their shards by" in text
    )
    unique = {"key": pa.array([f"{i:09d}" for i in range(30)])}
    text = said(unique, **{"from": twice, "key": "key"})
    assert re.search(rf"every key must have one value in v, but 20 are repeated, first in row \d+ of {twice}", text)
    assert f"10 of shard {tmp_path}/pool/00001.parquet have none, first key 000000010" in said(unique, key="key")
    assert "column n must be text, with leading zeros as in the pool, but it is int64" in said(unique, key="n")
    with pytest.raises(JobError, match="shard needs key, got shard = part without key"):
        parse_and_plan(vectors_job(tmp_path, unique, {**base, "shard": "part"}))
    with pytest.raises(JobError, match="by uid or by key, got uid = id and key = key"):
        parse_and_plan(vectors_job(tmp_path, unique, {**base, "uid": "id", "key": "key"}))


def parse_and_plan(values: dict[str, Any]) -> None:
    run_job(parse(values), LocalExecutor(2), lambda line: None)


def test_a_wrong_file_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("uid,v\n")
    cut = {"from": f"{tmp_path}/s.csv", "column": "v", "count": 6}
    with pytest.raises(DataError, match=r"s\.csv must be parquet"):
        parse_and_plan(vectors_job(tmp_path, {}, cut))
    assert not (tmp_path / "store").exists()


def test_a_shard_has_one_name_however_it_is_written() -> None:
    names = ("s3://b/data/00017.tar", "00017.parquet", "00017", "17", "/x/00017.tar.gz")
    assert {stem_of(name) for name in names} == {"17"}
    assert stem_of("part-00017-of-00020.tar") == "part-00017-of-00020"
