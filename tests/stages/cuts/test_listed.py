"""Lists of samples: kept or excluded in any form a list has, counted exactly, one answer for any shards."""

import hashlib
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import (
    Samples,
    answers,
    filtered,
    hex_uids,
    members,
    opened,
    pair,
    tiny_clip,
    write_datacomp,
    write_tar,
)
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.jobs.verify.verify import verify_job
from winnow.jobs.why.explain import explain
from winnow.pipeline.errors import DataError, FailedShards, JobError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.uid import UID, uids_from_hex
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.cuts.lists import list_files, list_join
from winnow.stages.cuts.lists.subset import Listed
from winnow.stages.cuts.random import Random
from winnow.stages.kernels.same_names import first_of_name
from winnow.stages.pools.datacomp import Datacomp

SAMPLES = Samples.drawn(30)
GONE = SAMPLES.uid[3:17:2]
"""Seven that the lists name."""


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def as_parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=3)
    return buffer.getvalue()


UIDS = uids_from_hex(GONE)
PAIRS = np.stack([UIDS["f0"], UIDS["f1"]], axis=1)
LINES = "\n".join(GONE)
FORMS: dict[str, tuple[str, bytes]] = {
    "DataComp's subset": ("t.npy", saved(np.sort(UIDS))),
    "other ends first": ("t.npy", saved(UIDS.astype([("high", ">u8"), ("low", ">u8")]))),
    "two columns": ("t.npy", saved(PAIRS)),
    "parquet of hex": ("t.parquet", as_parquet(uid=GONE, other=range(7))),
    "parquet of bytes": ("t.parquet", as_parquet(uid=pa.array([bytes.fromhex(uid) for uid in GONE], pa.binary(16)))),
    "parquet of UUIDs": ("t.parquet", as_parquet(uid=pa.array([bytes.fromhex(uid) for uid in GONE], pa.uuid()))),
    "text": ("t.txt", f"{LINES}\n".encode()),
    "no end of line": ("t.txt", LINES.encode()),
    "upper case": ("t.txt", LINES.upper().encode()),
    "CRLF": ("t.txt", LINES.replace("\n", "\r\n").encode() + b"\r\n"),
    "a byte order mark": ("t.csv", b"\xef\xbb\xbf" + LINES.encode()),
    "blank lines and remarks": ("t", f"# taken down\n\n  {LINES}  \n\n#\n".encode()),
    "repeats": ("t.txt", f"{LINES}\n{LINES}\n{GONE[0]}\n".encode()),
    "dashes": ("t.txt", "\n".join(f"{u[:8]}-{u[8:12]}-{u[12:16]}-{u[16:20]}-{u[20:]}" for u in GONE).encode()),
}


def landed(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def without(uids: list[str]) -> list[str]:
    return [uid for uid in SAMPLES.uid if uid not in uids]


@pytest.mark.parametrize(("name", "content"), FORMS.values(), ids=FORMS)
def test_a_list_keeps_or_excludes_in_any_form(tmp_path: Path, name: str, content: bytes) -> None:
    url = landed(tmp_path, name, content)
    assert filtered(SAMPLES, Listed(uids=url), shards=3).kept == GONE
    out = filtered(SAMPLES, Listed(uids=url, keep=False), shards=3)
    assert out.kept == without(GONE)
    assert [row["listed"] for row in out.rows] == [uid in GONE for uid in SAMPLES.uid]
    report = out.step("subset").report
    assert {name: report[name] for name in ("in", "kept", "listed", "names", "lacking", "unknown")} == {
        "in": 30, "kept": 23, "listed": 7, "names": 7, "lacking": 0, "unknown": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"# none\n", saved(np.empty(0, UID)), saved(np.array([])), as_parquet(uid=pa.array([], pa.string()))],
)
def test_an_empty_list_names_nothing(tmp_path: Path, content: bytes) -> None:
    url = landed(tmp_path, "t", content)
    assert filtered(SAMPLES, Listed(uids=url), shards=2).kept == []
    out = filtered(SAMPLES, Listed(uids=url, keep=False), shards=2)
    assert out.kept == SAMPLES.uid
    assert out.step("subset").report["told"] == "0 uids listed, 0 of them not in the pool"


def test_what_the_pool_lacks_is_counted_and_repeats_count_once(tmp_path: Path) -> None:
    strangers = hex_uids(5, 99)
    one = landed(tmp_path, "a.txt", "\n".join([*GONE, *strangers, *strangers[:2]]).encode())
    landed(tmp_path, "b.npy", saved(uids_from_hex([*strangers[:3], *GONE[:3], SAMPLES.uid[0]])))
    pool = filtered(SAMPLES, Random(count=20), shards=3)
    some = set(pool.kept)
    out = pool.through(Listed(uids=(one, str(tmp_path / "b*")), keep=False))
    report = out.step("subset").report
    assert (report["names"], report["repeated"], report["lacking"]) == (13, 8, 5)
    assert report["told"] == "13 uids listed, 5 of them not in the pool"
    assert report["listed"] == len(some & {*GONE, SAMPLES.uid[0]})
    assert set(out.kept) == some - {*GONE, SAMPLES.uid[0]}
    assert [row["listed"] is None for row in out.rows] == [uid not in some for uid in SAMPLES.uid]


def test_one_answer_for_any_shards_and_order(tmp_path: Path) -> None:
    url = landed(tmp_path, "t.npy", saved(UIDS))
    found = answers(SAMPLES, Listed(uids=url))
    assert all(answer == sorted(GONE) for answer in found)
    shards = [sorted(filtered(SAMPLES, Listed(uids=url, keep=False), shards=n).kept) for n in (1, 7, 40)]
    assert all(answer == sorted(without(GONE)) for answer in shards)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_parts_of_any_size_give_one_answer(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    strangers = hex_uids(40, 99)
    names = [*GONE, *strangers, *GONE, *strangers[:3]]
    files = [
        landed(tmp_path, "t.txt", "\r\n".join(names).encode()),
        landed(tmp_path, "t.npy", saved(uids_from_hex(names))),
        landed(tmp_path, "t.parquet", as_parquet(uid=names)),
    ]
    monkeypatch.setattr(list_join, "_PART_ROWS", rows)
    monkeypatch.setattr(list_files, "_PART_ROWS", rows)
    monkeypatch.setattr(list_files, "_PART_BYTES", 30 * rows)
    for url in files:
        out = filtered(SAMPLES, Listed(uids=url), shards=4)
        assert out.kept == GONE
        report = out.step("subset").report
        assert (report["names"], report["repeated"], report["lacking"]) == (47, 10, 40)


@pytest.mark.parametrize("size", range(1, 12))
def test_a_line_belongs_to_the_part_in_which_it_begins(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["a", "", "bcd", "efghijklmno", "p", "q"]
    monkeypatch.setattr(list_files, "_PART_BYTES", size)
    for end in ("\n", "\r\n"):
        text = end.join(lines) + end
        url = landed(tmp_path, "t.txt", text.encode())
        spans = list_files._spans(len(text), size)
        parts = [list_files.ListPart(url, "text", *span, 1) for span in spans]
        assert list(itertools.chain.from_iterable(map(list_files._lines, parts))) == [line for line in lines if line]


REFUSED = {
    "too short": (f"{GONE[0]}\n{GONE[1][:-1]}\n".encode(), f"but 1 are not, first '{GONE[1][:-1]}'"),
    "a header": (
        f"uid\n{LINES}".encode(),
        "32 hex digits, a UUID or 16 bytes, but 1 are not, first 'uid'",
    ),
    "floats": (
        saved(np.zeros(4)),
        "uids of dtype u8,u8, as DataComp's subset files do, but it holds float64 of shape (4,)",
    ),
    "integers": (saved(np.arange(4, dtype=np.uint64)), "but it holds uint64 of shape (4,); write the uids as text"),
    "pairs of int64": (saved(PAIRS.astype(np.int64)), "but it holds int64 of shape (7, 2)"),
    "texts": (saved(np.array(GONE)), "but it holds <U32 of shape (7,)"),
    "objects": (saved(np.array(GONE, object)), "but it holds object of shape (7,)"),
    "cut off": (saved(UIDS)[:-1], "must be a whole .npy file, but it ends in row 6 of 7"),
    "no header": (saved(UIDS)[:9], "must be a whole .npy file, but: "),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "but it is compressed with gzip; write one name per line, uncompressed"),
    "UTF-16": (LINES.encode("utf-16"), "must be UTF-8, but it is UTF-16"),
    "Latin-1": (b"caf\xe9\n", "must be UTF-8, but the byte 0xe9 of line 1 is not"),
    "another column": (as_parquet(id=GONE), "must have a column uid, but it has id"),
    "a column of numbers": (as_parquet(uid=range(7)), "are not, first 0; join samples with other names by key"),
    "a null": (as_parquet(uid=pa.array([*GONE[:2], None])), "but 1 are not, first None"),
    "half a parquet file": (as_parquet(uid=GONE)[:-9], "must be a complete parquet file, but: "),
    "a long line": (b"x" * 70_000 + b"\n" + b"y" * 70_000, "first 'xxxx"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_list_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    url = landed(tmp_path, "t", content)
    with pytest.raises((DataError, FailedShards)) as error:
        filtered(SAMPLES, Listed(uids=url), shards=2)
    assert message in str(error.value)
    assert url in str(error.value)


def test_options_that_say_nothing_or_too_much_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"subset must have one of uids, urls, sha256, md5, got none"):
        Listed()
    with pytest.raises(JobError, match="got uids and md5"):
        Listed(uids="a", md5="b")
    with pytest.raises(JobError, match="must name at least one file"):
        filtered(SAMPLES, Listed(uids=()))
    url = landed(tmp_path, "t.npy", saved(UIDS))
    with pytest.raises((DataError, FailedShards), match=r"must hold uids, got subset\.urls; write text or parquet"):
        filtered(SAMPLES, Listed(urls=url))


def test_urls_and_hashes_are_what_the_pool_says(tmp_path: Path) -> None:
    said = [hashlib.sha256(bytes([n])).hexdigest() for n in range(30)]
    columns = {"uid": SAMPLES.uid, "text": SAMPLES.caption, "url": [f"http://x/{n}" for n in range(30)], "sha256": said}
    columns["md5"] = pa.array([text[:32].upper() if n % 2 else None for n, text in enumerate(said)])
    urls = write_datacomp(tmp_path / "pool", SAMPLES, 3)
    for n, url in enumerate(urls):
        pq.write_table(pa.table(columns).slice(10 * n, 10), url)
    pool = opened(urls, Datacomp(use=("l14",)), str(tmp_path / "store"))
    at = [0, 5, 11, 29]
    kept = [SAMPLES.uid[n] for n in at]
    assert (
        pool.through(Listed(urls=landed(tmp_path, "u.txt", b"http://x/0\nhttp://x/5\nhttp://x/11\nhttp://x/29"))).kept
        == kept
    )
    upper = "\n".join(said[n].upper() for n in at)
    assert pool.through(Listed(sha256=landed(tmp_path, "s.txt", upper.encode()))).kept == kept
    as_bytes = as_parquet(h=pa.array([bytes.fromhex(said[n]) for n in at], pa.binary(32)))
    assert pool.through(Listed(sha256=landed(tmp_path, "s.parquet", as_bytes), column="h")).kept == kept
    out = pool.through(Listed(md5=landed(tmp_path, "m.txt", "\n".join(said[n][:32] for n in at).encode()), keep=False))
    assert out.kept == [uid for n, uid in enumerate(SAMPLES.uid) if n not in (5, 11, 29)]
    assert out.step("subset").report["unknown"] == 15
    assert out.step("subset").report["told"] == (
        "4 md5 listed, 1 of them not in the pool; 15 samples have no md5, so they are on no list"
    )
    with pytest.raises((DataError, FailedShards), match="a sha256 must be 64 hex digits, but 1 are not, first 'abc'"):
        pool.through(Listed(sha256=landed(tmp_path, "w.txt", b"abc\n")))


def test_what_the_pool_does_not_say_is_an_error(tmp_path: Path) -> None:
    url = landed(tmp_path, "u.txt", b"http://x/0\n")
    message = r"subset\.urls must know the url of samples, but the pool says it of none of 30: neither a column nor a"
    with pytest.raises(JobError, match=message):
        filtered(SAMPLES, Listed(urls=url), shards=3)


def test_a_list_of_links_cuts_tars(tmp_path: Path, executor: Executor) -> None:
    """img2dataset's json has url and sha256; the pool is named by its own uid."""
    for shard in range(3):
        made = [(f"{n:03d}", pair(n, f"caption {n}", url=f"http://x/{n}#1")) for n in range(4 * shard, 4 * shard + 4)]
        write_tar(tmp_path / f"pool/{shard}.tar", members(made))
    landed(tmp_path, "down.txt", b"http://x/2#1\r\nhttp://x/9#1\r\nhttp://elsewhere\r\n")
    model = tiny_clip(tmp_path)
    values = {
        "name": "j",
        "store": str(tmp_path / "store"),
        "pool": {"shards": f"{tmp_path}/pool/*.tar"},
        "embeddings": {"clip": {"model": model.model, "pretrained": "random"}},
        "policy": [{"subset": {"urls": f"{tmp_path}/down.txt", "keep": False}}],
    }
    said: list[str] = []
    result = run_job(parse(values), executor, said.append)
    rows = [row for n in range(3) for row in result.path.manifest.read(n).to_pylist()]
    assert [row["key"] for row in rows if row["reason"] == "subset"] == ["002", "009"]
    assert [line for line in said if line.startswith("subset ")][1].split(maxsplit=1)[1] == (
        "3 urls listed, 1 of them not in the pool"
    )
    checks = {x.check: x for x in verify_job(values["store"], "j", LocalExecutor(1), RowSample(None))}
    assert not [str(check) for check in checks.values() if str(check).startswith("NOT")]
    assert str(checks["list"]) == "ok   list: 12 samples, 3 names"
    why = explain(values["store"], "j", uid=rows[2]["uid"], workers=1)
    assert why.said[-1].decided == "on the list"


@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(st.integers(0, 9) | st.integers((1 << 64) - 2, (1 << 64) + 2) | st.integers(0, (1 << 128) - 1)))
def test_the_first_of_each_name_is_the_index_of_a_list(numbers: list[int]) -> None:
    names = uids_from_hex([f"{n:032x}" for n in numbers]) if numbers else np.empty(0, UID)
    assert first_of_name(names).tolist() == [numbers.index(n) for n in numbers]
