"""Pools of links: which rows are read, under which uids, and what is said of the others."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from winnow.pipeline.errors import JobError, PoolError, RejectsError
from winnow.pipeline.stage import Limits
from winnow.pipeline.uid import content_hash
from winnow.stages.pools import links as module
from winnow.stages.pools.clip_retrieval import ClipRetrieval
from winnow.stages.pools.links import Links
from winnow.stages.pools.parquet import Parquet
from winnow.stages.preview.look import check_readable, first_samples

NAMES = {  # as their publishers write them: link, caption, width, height
    "LAION": ("URL", "TEXT", "WIDTH", "HEIGHT"),
    "Re-LAION": ("url", "caption", "width", "height"),
    "COYO": ("url", "text", "width", "height"),
    "CC12M": ("image_url", "caption", None, None),
    "DataComp": ("url", "text", "original_width", "original_height"),
}
N = 240
FAULTS = {3: "no-url", 17: "no-url", 40: "no-caption", 41: "no-caption", 90: "caption-not-utf8"}


def written(path: Path, **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=100)
    return str(path)


def planted() -> dict[str, list[Any]]:
    """Rows of LAION's columns. Rows 100 to 109 repeat rows 200 to 209; FAULTS says which cannot be read, and why."""
    links: list[Any] = [f"https://i{n % 3}.site{n % 4}.co.uk/{n}.jpg" for n in range(N)]
    texts: list[Any] = [f"words about picture {n}".encode() if n % 6 else b"two words" for n in range(N)]
    links[3], links[17], texts[40], texts[41], texts[90] = None, "", None, None, b"\xff\xfe"
    links[200:210], texts[200:210] = links[100:110], texts[100:110]
    return {
        "URL": links,
        "TEXT": texts,
        "WIDTH": [str(150 + n) if n != 5 else "?" for n in range(N)],
        "HEIGHT": [300] * N,
        "LANGUAGE": ["en" if n % 5 else None for n in range(N)],
        "punsafe": [n / N for n in range(N)],
        "SAMPLE_ID": [7_000 + n for n in range(N)],
    }


def land(folder: Path, shards: int) -> str:
    rows = planted()
    for shard in range(shards):
        part = slice(shard * N // shards, (shard + 1) * N // shards)
        written(folder / f"{shard:05d}.parquet", **{name: values[part] for name, values in rows.items()})
    return f"{folder}/*.parquet"


@pytest.mark.parametrize("source", NAMES)
def test_columns_of_each_publisher(tmp_path: Path, source: str) -> None:
    link, caption, width, height = NAMES[source]
    columns: dict[str, Any] = {link: ["http://a/1.jpg", "http://a/2.jpg"], caption: ["one", "two"]}
    if width and height:
        columns |= {width: [640, 0], height: [480.0, 10.5]}
    table, rejects = Links().rows(written(tmp_path / "0.parquet", **columns))
    assert rejects == []
    assert table["url"].to_pylist() == ["http://a/1.jpg", "http://a/2.jpg"]
    assert table["caption"].to_pylist() == ["one", "two"]
    assert table["width"].to_pylist() == ([640, None] if width else [None, None])
    assert table["height"].to_pylist() == ([480, 10] if height else [None, None])
    assert table["uid"].to_pylist() == [
        content_hash(b"http://a/1.jpg", b"one"),
        content_hash(b"http://a/2.jpg", b"two"),
    ]
    assert set(table["named"].to_pylist()) == {"a hash of url and caption"}


def test_uids_are_those_of_clip_retrieval(tmp_path: Path) -> None:
    columns = {"url": ["http://a/1.jpg", "http://a/2.jpg"], "caption": ["one", ""]}
    url = written(tmp_path / "metadata/metadata_0.parquet", **columns)
    assert Links().rows(url)[0]["uid"].equals(ClipRetrieval().rows(url)[0]["uid"])


@pytest.mark.parametrize("batch", [1, 7, 64, 1 << 17])
def test_every_row_is_read_or_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(module, "_BATCH_ROWS", batch)
    [path] = [written(tmp_path / "0.parquet", **planted())]
    table, rejects = Links().rows(path)
    assert {reject.position: reject.kind for reject in rejects} == FAULTS
    assert table["position"].to_pylist() == [n for n in range(N) if n not in FAULTS]
    rows = planted()
    assert table["url"].to_pylist() == [rows["URL"][n] for n in table["position"].to_pylist()]
    named, _ = Links(uid="SAMPLE_ID").rows(path)
    assert named["uid"].to_pylist() == [content_hash(str(7_000 + n).encode()) for n in range(N) if n not in FAULTS]
    assert set(named["named"].to_pylist()) == {"column SAMPLE_ID"}


def test_uids_of_the_column_uid_and_hashes_for_the_others(tmp_path: Path) -> None:
    uid = "0123456789abcdef" * 2
    url = written(tmp_path / "0.parquet", uid=[uid, "x", None], url=["http://a"] * 3, text=["t"] * 3)
    table, _ = Links().rows(url)
    assert table["uid"].to_pylist() == [bytes.fromhex(uid)] + [content_hash(b"http://a", b"t")] * 2
    assert table["named"].to_pylist() == ["column uid"] + ["a hash of url and caption"] * 2
    _, [reject] = Links(uid="uid").rows(url)
    assert (reject.position, reject.kind) == (2, "no-uid")


@pytest.mark.parametrize(
    ("need", "lost"),
    [
        (("url", "caption"), {0: "no-url", 1: "no-caption", 2: "no-url", 4: "no-url"}),
        (("url",), {0: "no-url", 2: "no-url", 4: "no-url"}),
        (("caption",), {1: "no-caption", 2: "no-caption"}),
        ((), {}),
    ],
)
def test_what_a_row_needs(tmp_path: Path, need: tuple[str, ...], lost: dict[int, str]) -> None:
    columns: dict[str, list[Any]] = {
        "url": [None, b"http://a", None, b"http://b", b"\xff"],
        "text": ["one", None, None, "", "bad link"],
    }
    table, rejects = Links(need=need).rows(written(tmp_path / "0.parquet", **columns))
    assert {reject.position: reject.kind for reject in rejects} == lost
    left = [row for row in range(5) if row not in lost]
    assert table["caption"].to_pylist() == [columns["text"][row] or "" for row in left]
    assert table["url"].to_pylist() == [[None, "http://a", None, "http://b", None][row] for row in left]


def test_a_column_that_no_row_needs_may_be_absent(tmp_path: Path) -> None:
    url = written(tmp_path / "0.parquet", url=["http://a"], other=["x"])
    assert Links(need=("url",)).rows(url)[0]["caption"].to_pylist() == [""]
    with pytest.raises(
        PoolError, match=r"pool\.caption must name a column, but there is no caption or CAPTION or text"
    ):
        Links().rows(url)
    with pytest.raises(PoolError, match=r"pool\.caption must name a column, but there is no alt"):
        Links(caption="alt", need=("url",)).rows(url)


def test_bad_options_and_columns(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"pool\.need must be a list of url and caption, or empty, got \('link',\)"):
        Links(need=("link",))
    with pytest.raises(JobError, match=r"must name columns, got an empty name"):
        Links(url="")
    url = written(tmp_path / "0.parquet", url=[1, 2], text=["a", "b"])
    with pytest.raises(PoolError, match=r"pool\.url must name a text column, but url is int64"):
        Links().rows(url)
    with pytest.raises(PoolError, match=r"there is no image; .* if the table has links and no pic.*: links"):
        list(Parquet().samples(url))
    with pytest.raises(JobError, match="a pool of format links has no images"):
        list(Links().samples(url))


def test_another_column_is_named_that_would_read_the_rows(tmp_path: Path) -> None:
    columns = {
        "url": [None] * 9,
        "page": ["http://a/b"] * 9,
        "src": ["https://a/b.jpg"] * 9,
        "text": ["words of it"] * 9,
    }
    url = written(tmp_path / "0.parquet", **{**columns, "url": pa.nulls(9, pa.string())})
    with pytest.raises(RejectsError, match=r"With pool\.url: page 9 of the first 9 are read.*\n?.*pool\.url: src"):
        check_readable(Links(), [url], Limits(), first_samples(Links(), url))
    url = written(tmp_path / "1.parquet", url=["http://a"] * 9, text=pa.nulls(9, pa.string()), alt=["words of it"] * 9)
    with pytest.raises(RejectsError, match=r"With pool\.caption: alt 9 of the first 9 are read"):
        check_readable(Links(), [url], Limits(), first_samples(Links(), url))
