"""The command names what a finished job keeps, and again without work; an unfinished job has no export."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.jobs.test_cli import called
from tests.pools import Samples, write_datacomp


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


def test_a_job_that_is_not_there(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "export", str(store), "smal", "--executor", "local") == 2
    assert "it has small" in capsys.readouterr().err
