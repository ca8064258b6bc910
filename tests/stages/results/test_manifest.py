"""The verdict on every sample: exact columns, order of the shard, rejects in their place, and DataComp's uids.npy."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pools import Filtered, Samples, embedded, filtered, members, pair, tiny_clip, write_tar
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import AccountingError, FailedShards
from winnow.pipeline.stage import Summary, execute
from winnow.pipeline.totals import Totals
from winnow.pipeline.uid import UID_ARROW, bytes_of, hex_of
from winnow.stages.cuts.duplicates import Duplicates
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.cuts.similarity import Similarity
from winnow.stages.rejects import read_rejects
from winnow.stages.results import subset
from winnow.stages.results.manifest import Manifest, add_up


def datacomp_subset(uids: list[str]) -> np.ndarray:
    """As DataComp's own code makes it."""
    return np.sort(np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], np.dtype("u8,u8")))


def made(pool: Filtered, *cuts: tuple[str, Artifact]) -> Artifact:
    return execute(Manifest(pool.survivors.samples, pool.artifact("distinct"), tuple(cuts)), pool.run).artifact


def two_cuts(samples: Samples, shards: int = 3) -> tuple[Filtered, Artifact]:
    pool = filtered(samples, shards=shards)
    rules = pool.through(Rules(min_words=3))
    best = rules.through(Similarity(by="clip", fraction=0.5))
    last = best.survivors.last
    assert last is not None
    return best, made(best, ("rules", rules.artifact("rules")), ("similarity", last))


def read(out: Artifact, shards: int) -> pa.Table:
    return pa.concat_tables([out.read(index) for index in range(shards)])


def test_columns_types_and_reasons() -> None:
    samples = Samples.drawn(20, caption=["two words"] * 7 + ["three good words"] * 13)
    samples.image[9] = 0
    best, out = two_cuts(samples)
    table = read(out, 3)
    assert [(field.name, field.type) for field in table.schema] == [
        ("uid", pa.string()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("caption", pa.string()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("weight", pa.float32()),
        ("rules.broken", pa.string()),
        ("similarity.cosine", pa.float32()),
    ]
    rows = table.to_pylist()
    kept = set(best.kept)
    assert len(kept) == 6
    for n, row in enumerate(rows):
        uid = samples.uid[n]
        if n == 9:
            assert (row["uid"], row["reason"], row["key"]) == (None, "reject:vector-zero", uid)
            assert row["caption"] is None
        else:
            reason = "rules" if n < 7 else None if uid in kept else "similarity"
            assert (row["uid"], row["reason"], row["caption"]) == (uid, reason, samples.caption[n])
            assert row["rules.broken"] == ("min_words" if n < 7 else None)
            assert (row["similarity.cosine"] is None) == (n < 7)
        assert row["kept"] == (row["uid"] in kept)
        assert row["weight"] == float(row["kept"])
    assert [row["shard"] for row in rows] == [
        s.url for s, k in zip(best.run.shards, (6, 7, 7), strict=True) for _ in range(k)
    ]
    report = out.done() or {}
    assert {name: report[name] for name in ("pool", "kept", "dropped", "rejected")} == {
        "pool": 20,
        "kept": 6,
        "dropped": {"rules": 7, "similarity": 6},
        "rejected": {"vector-zero": 1},
    }


def by_rows(pool: Filtered, cuts: tuple[tuple[str, Artifact], ...], index: int, url: str) -> list[dict[str, Any]]:
    """A shard's manifest as a sentence: row by row, in the order of the shard."""
    verdicts = {name: cut.read(index).to_pylist() for name, cut in cuts}
    found = {}
    for n, row in enumerate(pool.survivors.samples.read(index, ["position", "key", "uid", "caption"]).to_pylist()):
        reason = next((name for name, rows in verdicts.items() if not rows[n].pop("kept")), None)
        values = {f"{name}.{value}": v for name, rows in verdicts.items() for value, v in rows[n].items()}
        texts = {name: v for name, v in values.items() if name[-5:] != ".kept"}
        place = {"uid": row["uid"], "shard": url, "key": row["key"], "caption": row["caption"]}
        found[row["position"]] = {**place, "kept": not reason, "reason": reason, "weight": float(not reason), **texts}
    rejects = [read_rejects(made, index).to_pylist() for made in (pool.survivors.samples, pool.artifact("distinct"))]
    for row in [*rejects[0], *rejects[1]]:
        out = {"uid": None, "caption": None, "kept": False, "reason": f"reject:{row['kind']}", "weight": 0.0}
        found[row["position"]] = {**out, "shard": url, "key": row["key"]}
    return [found[position] for position in sorted(found)]


@pytest.mark.parametrize("shards", [1, 4, 12])
def test_equals_a_join_row_by_row(shards: int) -> None:
    samples = Samples.drawn(60, caption=["two words"] * 9 + ["three good words"] * 51)
    samples = samples.take([*range(60), *range(20, 40)])
    samples.uid[60:] = Samples.drawn(20, seed=9).uid
    samples = samples.take(np.random.default_rng(0).permutation(80).tolist())
    samples.image[[0, 17, 18]] = 0
    samples.text[[3, 79]] = np.nan
    pool = filtered(samples, shards=shards)
    cuts = []
    for cut in (Rules(min_words=3), Duplicates(by="clip", exact=False, epsilon=0.01, clusters=2), Random(count=30)):
        pool = pool.through(cut)
        cuts.append((cut.kind, pool.artifact(cut.kind)))
    out = made(pool, *cuts)
    types = {
        "uid": pa.string(),
        "shard": pa.string(),
        "key": pa.string(),
        "caption": pa.string(),
        "kept": pa.bool_(),
        "reason": pa.string(),
        "weight": pa.float32(),
        "rules.broken": pa.string(),
        "duplicates.duplicate_of": pa.string(),
        "duplicates.cosine": pa.float32(),
        "random.hash": pa.float32(),
    }
    found = []
    for item in pool.run.items:
        rows = by_rows(pool, tuple(cuts), item.index, item.url)
        table = out.read(item.index).replace_schema_metadata(None)
        assert table.equals(pa.Table.from_pylist(rows, pa.schema(types)))
        found += rows
    assert len({row["reason"] for row in found}) == 6
    assert sum(row.get("duplicates.duplicate_of") is not None for row in found) > 5


@given(st.lists(st.none() | st.binary(min_size=16, max_size=16)), st.integers(0, 9), st.integers(0, 9))
def test_uids_become_text_and_bytes_again(uids: list[bytes | None], start: int, edge: int) -> None:
    whole = pa.chunked_array([pa.array(uids[:edge], UID_ARROW), pa.array(uids[edge:], UID_ARROW)])
    for column in (whole.slice(start), pa.array(uids, UID_ARROW).slice(start)):
        text = hex_of(column)
        assert text.type == pa.string()
        assert text.to_pylist() == [uid and uid.hex() for uid in uids[start:]]
        for known in (text.drop_null(), text.drop_null().slice(1), pa.chunked_array([text.drop_null()])):
            assert bytes_of(known).to_pylist() == [bytes.fromhex(found) for found in known.to_pylist()]


@pytest.mark.parametrize("ranges", [1, 4])
def test_uids_are_a_datacomp_subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: int) -> None:
    samples = Samples.drawn(90)
    samples.uid[:3] = ["0" * 32, "f" * 32, "7" + "f" * 31]
    monkeypatch.setattr(subset, "_RANGE_UIDS", 90 if ranges == 1 else 29)
    pool = filtered(samples, shards=4)
    out = made(pool)
    local = tmp_path / "uids.npy"
    local.write_bytes(storage.read_bytes(out.meta("uids.npy")))
    found = np.load(local, allow_pickle=False)
    assert found.dtype == np.dtype("u8,u8")
    assert found.tobytes() == datacomp_subset(samples.uid).tobytes()
    expected = tmp_path / "expected.npy"
    np.save(expected, datacomp_subset(samples.uid))
    assert local.read_bytes() == expected.read_bytes()


def test_nothing_kept_is_an_empty_subset(tmp_path: Path) -> None:
    pool = filtered(Samples.drawn(8), Random(count=0), shards=2)
    out = made(pool, ("random", pool.artifact("random")))
    (tmp_path / "uids.npy").write_bytes(storage.read_bytes(out.meta("uids.npy")))
    assert np.load(tmp_path / "uids.npy", allow_pickle=False).shape == (0,)
    assert set(read(out, 2)["reason"].to_pylist()) == {"random"}


def test_a_job_without_cuts_keeps_all_that_can_be_read() -> None:
    samples = Samples.drawn(9)
    samples.text[4] = np.nan
    out = made(filtered(samples, shards=2))
    assert read(out, 2)["reason"].to_pylist() == [None] * 4 + ["reject:vector-not-finite"] + [None] * 4


def test_rejects_stand_where_their_sample_was(tmp_path: Path) -> None:
    samples = [(f"s{i}", pair(i, f"caption {i}")) for i in range(6)]
    del samples[0][1]["txt"]
    samples[3][1]["jpg"] = b"no image"
    samples[5][1]["jpg"] = b""
    url = write_tar(tmp_path / "0.tar", members(samples))
    out = made(embedded([url], str(tmp_path / "store"), {"clip": tiny_clip(tmp_path)}))
    table = out.read(0)
    assert table["key"].to_pylist() == [f"s{i}" for i in range(6)]
    reasons = ["reject:no-caption", None, None, "reject:image-decode", None, "reject:image-empty"]
    assert table["reason"].to_pylist() == reasons
    assert set(table["shard"].to_pylist()) == {url}


def test_a_cut_that_lost_rows_is_an_accounting_error() -> None:
    samples = Samples.drawn(12)
    best, _ = two_cuts(samples)
    cut = best.artifact("similarity")
    short = Artifact(cut.store, cut.stage, "feedbeeffeebdeef")
    for index in range(3):
        table = cut.read(index)
        short.write(index, table.slice(0, table.num_rows - (index == 1)), cut.summary(index))
    with pytest.raises(FailedShards, match=r"similarity-feedbeeffeebdeef: shard .* must have 4 rows, but has 3"):
        made(best, ("similarity", short))


def totals_of(*summaries: Summary) -> Totals:
    found = Totals()
    for summary in summaries:
        found.add(summary)
    return found


def test_counts_that_do_not_add_up_are_an_accounting_error() -> None:
    good = {"rows": 5, "kept": 2, "dropped": {"rules": 2}, "rejected": {"no-image": 1}}
    assert add_up(totals_of(good, good), ["rules", "random"]) == {
        "pool": 10,
        "kept": 4,
        "dropped": {"rules": 4, "random": 0},
        "rejected": {"no-image": 2},
    }
    with pytest.raises(AccountingError, match=r"pool = kept \+ dropped \+ rejected must hold, but 11 != 4 \+ 4 \+ 2"):
        add_up(totals_of(good, {**good, "rows": 6}), ["rules"])
