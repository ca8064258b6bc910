"""The command names what a finished job keeps, and again without work; an unfinished job has no export."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.jobs.test_cli import called
from tests.pools import Samples, jpeg, members, read_tar, tiny_clip, write_datacomp, write_parquet, write_tar


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """URL at which the files of a folder are answered."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of a job that ran."""
    job = {
        "name": "small",
        "store": str(tmp_path / "store"),
        "pool": {
            "shards": list(write_datacomp(tmp_path / "pool", Samples.drawn(30), 3)),
            "format": "datacomp",
            "use": ["l14"],
        },
        "policy": [{"similarity": {"by": "l14", "fraction": 0.4}}],
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert called(monkeypatch, "run", str(tmp_path / "job.yaml"), "--executor", "local") == 0
    return tmp_path / "store"


def test_the_export_is_the_manifest(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    printed = []
    for _ in range(2):
        assert called(monkeypatch, "export", str(store), "small", "--executor", "local", "--workers", "1") == 0
        printed.append(capsys.readouterr().out)
    folder = Path(printed[0].strip())
    assert printed == [f"{folder}\n"] * 2
    files = sorted(folder.glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(path) for path in files])
    [uids] = store.glob("manifest-*.meta/uids.npy")
    assert len(files) == 3
    assert sorted(table["uid"].to_pylist()) == [f"{high:016x}{low:016x}" for high, low in np.load(uids)]
    assert table["url"].to_pylist() == [f"http://x/{uid}" for uid in table["uid"].to_pylist()]
    assert all(text.startswith("a caption of picture") for text in table["caption"].to_pylist())


def image_job(folder: Path, pool: dict[str, Any]) -> Path:
    """The store of a job over a pool with images, that keeps half; one caption in each shard is too short."""
    clip = tiny_clip(folder)
    job = {
        "name": "photos",
        "store": str(folder / "store"),
        "pool": pool,
        "embeddings": {"clip": {"model": clip.model, "pretrained": clip.pretrained}},
        "policy": [{"rules": {"min_words": 3}}, {"random": {"fraction": 0.5}}],
        "limits": {"max_reject_fraction": 0.2},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def exported(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[pa.Table, str]:
    """The export of a job, all of its folder as one table, and what was said on stderr."""
    capsys.readouterr()
    assert called(monkeypatch, "export", str(job.parent / "store"), "photos", "--executor", "local", *options) == 0
    out, err = capsys.readouterr()
    return pq.read_table(out.strip()), err


SCORES = {0: 1, 1: 2.5, 2: None, 3: "high", 4: True, 5: [1, 2], 6: 1 << 70, 7: float("nan")}


def tars(folder: Path) -> dict[str, Any]:
    """Two tars of eight; json as img2dataset writes it, of odd values, broken, of another kind, none; a reject."""
    for shard in range(2):
        found = []
        for n in range(8 * shard, 8 * shard + 8):
            caption = "short" if n % 8 == 3 else f"a caption of {n}"
            more = {"url": f"http://x/{n}.jpg", "similarity": n if shard else n / 2, "odd": SCORES[n % 8], "width": 1}
            parts = {"jpg": jpeg(n), "txt": caption.encode(), "json": json.dumps(more).encode()}
            found.append((f"{n:05d}", parts))
        found[6][1]["json"] = (b"{broken", b'["no object"]')[shard]
        del found[7][1]["json"]
        found[0][1]["jpg"] = b"no picture"
        write_tar(folder / f"{shard:05d}.tar", members(found))
    return {"shards": f"{folder}/*.tar"}


def parquet(folder: Path) -> dict[str, Any]:
    """The same in parquet, the column of one shard of another type than that of the other."""
    for shard in range(2):
        numbers = range(8 * shard, 8 * shard + 8)
        columns = {
            "image": [b"no picture" if n % 8 == 0 else jpeg(n) for n in numbers],
            "text": ["short" if n % 8 == 3 else f"a caption of {n}" for n in numbers],
            "url": [None if n % 8 in (6, 7) else f"http://x/{n}.jpg" for n in numbers],
            "similarity": pa.array([n if shard else n / 2 for n in numbers], pa.int64() if shard else pa.float32()),
            "key": [f"{n:05d}" for n in numbers],
        }
        write_parquet(f"{folder}/{shard}.parquet", pa.table(columns))
    return {"shards": f"{folder}/*.parquet", "format": "parquet"}


@pytest.mark.parametrize("pool", [tars, parquet])
def test_pools_with_images_have_links_and_any_field(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pool: Callable[[Path], dict[str, Any]],
) -> None:
    job = image_job(tmp_path, pool(tmp_path / "pool"))
    assert called(monkeypatch, "run", str(job), "--executor", "local") == 0
    stays, _ = exported(job, monkeypatch, capsys)
    assert stays.column_names == ["uid", "key", "caption", "width", "height", "url"]
    goes, _ = exported(job, monkeypatch, capsys, "--dropped", "--columns", "similarity, url")
    assert goes.column_names == ["uid", "key", "caption", "width", "height", "similarity", "url", "reason"]
    assert goes.schema.field("similarity").type == pa.float64()
    rows = {row["key"]: row for row in [*stays.to_pylist(), *goes.to_pylist()]}
    assert sorted(rows) == [f"{n:05d}" for n in range(16)]
    assert (len(stays), len(goes)) == (6, 10)
    for n, row in enumerate(rows[key] for key in sorted(rows)):
        linked = n % 8 not in (6, 7)
        assert row["url"] == (f"http://x/{n}.jpg" if linked and n % 8 else None)
        expected = "reject:image-decode" if n % 8 == 0 else "rules" if n % 8 == 3 else "random"
        assert row.get("reason", "random") == expected
        assert row["caption"] == (None if n % 8 == 0 else "short" if n % 8 == 3 else f"a caption of {n}")
        assert row["width"] == (40 if n % 8 else None)
        if "similarity" in row and n % 8 and (linked or pool is parquet):
            assert row["similarity"] == (n if n >= 8 else n / 2)
    listed, err = exported(job, monkeypatch, capsys, "--columns", "licence")
    assert listed["licence"].null_count == 6
    assert err == "none of 6 samples has licence: it is null in the export\n"
    assert exported(job, monkeypatch, capsys, "--columns", "")[0].column_names == stays.column_names[:-1]
    words = ("export", str(job.parent / "store"), "photos", "--executor", "local", "--columns", "caption")
    assert called(monkeypatch, *words) == 2
    assert "--columns must name fields of the pool, got 'caption'" in capsys.readouterr().err


def test_values_of_several_types_are_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = image_job(tmp_path, tars(tmp_path / "pool"))
    assert called(monkeypatch, "run", str(job), "--executor", "local", "--set", "policy=[]") == 0
    found, _ = exported(job, monkeypatch, capsys, "--columns", "odd")
    texts = [None if value is None else json.dumps(value) for value in ([*SCORES.values()][1:6])]
    texts[2] = "high"
    assert found["odd"].to_pylist() == [*texts, None, None] * 2


def test_img2dataset_downloads_what_an_export_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its reader does: all parquet files of the folder, the columns that it is told, and a GET of each url."""
    pool = tars(tmp_path / "pool")
    for n in range(16):
        (tmp_path / f"{n}.jpg").write_bytes(jpeg(n))
    with served(tmp_path) as root:
        for path in (tmp_path / "pool").glob("*.tar"):
            write_tar(path, [(name, data.replace(b"http://x/", root.encode())) for name, data in read_tar(path)])
        job = image_job(tmp_path, pool)
        assert called(monkeypatch, "run", str(job), "--executor", "local") == 0
        listed, _ = exported(job, monkeypatch, capsys)
        links = [row for row in listed.to_pylist() if row["url"]]
        assert len(links) >= 4
        for row in links:
            with urllib.request.urlopen(row["url"]) as answer:
                assert answer.read() == jpeg(int(row["key"]))


def test_a_job_that_is_not_there(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "export", str(store), "smal", "--executor", "local") == 2
    assert "it has small" in capsys.readouterr().err
