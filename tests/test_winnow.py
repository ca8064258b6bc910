"""The public names are exactly these, each is imported alone, and the page about them runs."""

import importlib.util
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

import winnow
from tests.pools import Samples, write_vectors
from winnow.pipeline import errors
from winnow.pipeline.uid import UID

ROOT = Path(__file__).parents[1]
NAMES = {"load", "plan", "run", "open", "samples", "keep_top", "Job", "FinishedJob"}


def test_the_public_names_are_these() -> None:
    tree = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert set(winnow.__all__) == NAMES | tree
    assert all(getattr(winnow, name).__doc__ for name in winnow.__all__)
    assert set(winnow.__all__) <= set(dir(winnow))
    with pytest.raises(AttributeError, match="module 'winnow' has no attribute 'sift'"):
        _ = winnow.sift


def test_a_name_brings_no_more_than_it_needs() -> None:
    heavy = ("ray", "torch", "faiss", "open_clip", "timm", "pyarrow", "numpy", "typer")
    script = (
        f"import sys, json, winnow; first = [m for m in {heavy} if m in sys.modules]; winnow.open; winnow.samples; "
        f"print(json.dumps([first, [m for m in {heavy} if m in sys.modules]]))"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, timeout=60)
    first, later = json.loads(said.stdout)
    assert first == []
    assert set(later) <= {"pyarrow", "numpy"}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job file over 60 pairs of vectors, relative to its folder."""
    write_vectors(tmp_path / "pool", Samples.drawn(60), 3)
    values = {
        "name": "vectors",
        "store": "store",
        "pool": {"shards": "pool/*.parquet", "format": "vectors", "text": "text", "encoder": "clip"},
        "policy": [{"rules": {"min_words": 1}}, {"similarity": {"by": "clip", "fraction": 0.3}}],
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "job.yaml"


def test_the_page_runs(job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(job.parent)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.MULTILINE | re.DOTALL)
    known: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), known)
    assert known["done"].counts["kept"] == len(known["kept"]) == 30
    assert known["table"]["kept"].to_pylist().count(True) == 30
    assert known["mask"].tolist() == [False, True, False, True]
    said = capsys.readouterr().out
    assert "has no key 'shard'" in said or "pool.shards must be" in said
    assert len(known["frame"]) == 60


def test_a_job_is_loaded_from_a_file_or_a_mapping(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values: Mapping[str, Any] = yaml.safe_load(job.read_text())
    monkeypatch.chdir(job.parent)
    there = winnow.load(values, set={"policy.1.similarity.fraction": 0.1})
    monkeypatch.chdir("/")
    assert there == winnow.load(str(job), set={"policy.1.similarity.fraction": 0.1})
    assert there.store == f"{job.parent}/store"
    assert values["policy"][1]["similarity"]["fraction"] == 0.3
    assert set(winnow.plan(there).values()) == {"to do"}
    with pytest.raises(winnow.JobError, match=r"set policy\.7"):
        winnow.load(values, set={"policy.7.rules": {}})


def test_a_manifest_in_memory_is_a_dataset_too(job: Path) -> None:
    store = f"memory://winnow-{uuid.uuid4().hex}"
    done = winnow.run(winnow.load(str(job), set={"store": store}), executor="local", workers=1)
    assert done.manifest().count_rows() == 60
    assert done.manifest().to_table(columns=["kept"])["kept"].to_pylist().count(True) == done.counts["kept"] == 18
    with pytest.raises(winnow.JobError, match="has none called 'other'; it has vectors"):
        winnow.open(store, "other")


def test_keep_top_takes_uids_as_people_have_them() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, 40)
    pairs = rng.integers(0, 1 << 63, (40, 2)).astype(np.uint64)
    pairs[0, 1] = 0
    texts = [f"{high:016x}{low:016x}" for high, low in pairs.tolist()]
    known = np.empty(40, UID)
    known["f0"], known["f1"] = pairs[:, 0], pairs[:, 1]
    raw = [bytes.fromhex(text) for text in texts]
    ways: list[Any] = [
        known,
        pairs,
        texts,
        np.asarray(texts),
        raw,
        np.asarray(raw),
        pa.array(texts),
        pa.array(raw, pa.binary(16)),
    ]
    ways += [np.asarray(raw), [uuid.UUID(text) for text in texts]]
    wanted = set(sorted(range(40), key=lambda n: (-values[n], texts[n]))[:13])
    for uids in ways:
        assert set(np.flatnonzero(winnow.keep_top(values, uids, 13)).tolist()) == wanted
    assert winnow.keep_top([], [], 3).tolist() == []
    for wrong in (["zz"] * 40, [b"short"] * 40, list(range(40)), [*texts[:-1], raw[-1]]):
        with pytest.raises(winnow.DataError, match="uid"):
            winnow.keep_top(values, wrong, 13)
    with pytest.raises(winnow.DataError, match="a quota must be at least 0 rows, got -1"):
        winnow.keep_top(values, texts, -1)


def test_types_are_published() -> None:
    assert importlib.util.find_spec("winnow") is not None
    assert (ROOT / "py.typed").exists()
