"""Whole jobs on links: which stay, beside a plain loop over the rows; the list for img2dataset; what is refused."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.jobs.test_cli import called
from tests.pools import ON_EACH
from tests.stages.pools.test_links import FAULTS, N, land, planted
from winnow.jobs.export import export_job
from winnow.jobs.job_file.job import parse
from winnow.jobs.loader import open_kept_samples
from winnow.jobs.run import run_job
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.uid import content_hash

POLICY: list[dict[str, Any]] = [
    {"rules": {"min_words": 3, "min_side": 160, "fields": {"language": {"in": ["en"]}, "punsafe": {"max": 0.8}}}},
    {"subset": {"urls": "LIST", "keep": False}},
    {"cap": {"by": "url", "domain": True, "most": 20, "field": "punsafe", "keep": "lowest"}},
    {"score": {"field": "punsafe", "count": 60}},
    {"random": {"fraction": 0.5}},
]
LISTED = [n for n in range(N) if n % 11 == 0 and n not in FAULTS]


def job_on(folder: Path, shards: int, store: str, policy: list[dict[str, Any]] = POLICY, **pool: Any) -> dict[str, Any]:
    listed = folder / "takedown.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{planted()['URL'][n]}\n" for n in LISTED))
    fields = {"url": "URL", "caption": "TEXT", "language": "LANGUAGE", "punsafe": "punsafe"}
    chosen = json.loads(json.dumps(policy).replace("LIST", str(listed)))
    return {
        "name": "links",
        "store": store,
        "pool": {"shards": land(folder / "pool", shards), "format": "links", "fields": fields, **pool},
        "policy": chosen,
        "limits": {"max_reject_fraction": 0.2},
    }


def passing() -> list[int]:
    """A plain loop over the rows, up to the cap; the repeated rows are out."""
    rows = planted()
    gone = {rows["URL"][n] for n in LISTED}
    there = [n for n in range(N) if n not in FAULTS and not 200 <= n < 210 and rows["URL"][n] not in gone]
    good = [
        n
        for n in there
        if n % 6 and n != 5 and 150 + n >= 160 and rows["LANGUAGE"][n] == "en" and rows["punsafe"][n] <= 0.8
    ]
    seen = Counter[int]()
    capped = []
    for n in good:  # punsafe ascends with the rows
        seen[n % 4] += 1
        if seen[n % 4] <= 20:
            capped.append(n)
    return capped


@pytest.mark.parametrize(("shards", "executor"), ON_EACH, indirect=["executor"])
def test_a_job_on_links(tmp_path: Path, shards: int, executor: Executor) -> None:
    values = job_on(tmp_path, shards, f"{tmp_path}/store")
    before = {"policy": values["policy"][:3], "name": "capped"}
    capped = run_job(parse({**values, **before}), executor, lambda line: None)
    assert capped.counts["kept"] == len(passing())
    assert capped.counts["rejected"] == {"caption-not-utf8": 1, "no-caption": 2, "no-url": 2, "repeated-uid": 10}
    folder = export_job(values["store"], "capped", executor, ["url", "punsafe"])
    listed = pa.concat_tables([pq.read_table(path) for path in sorted(Path(folder).glob("*.parquet"))])
    rows = planted()
    assert listed["url"].to_pylist() == [rows["URL"][n] for n in passing()]
    assert listed["caption"].to_pylist() == [rows["TEXT"][n].decode() for n in passing()]
    assert listed["punsafe"].to_pylist() == [rows["punsafe"][n] for n in passing()]
    assert [bytes.fromhex(uid) for uid in listed["uid"].to_pylist()] == [
        content_hash(rows["URL"][n].encode(), rows["TEXT"][n]) for n in passing()
    ]
    said: list[str] = []
    result = run_job(parse(values), executor, said.append)
    assert result.counts["kept"] == 30
    assert any("a hash of url and caption" in line for line in said)


def test_every_command_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = job_on(tmp_path, 3, f"{tmp_path}/store")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(values))
    assert called(monkeypatch, "plan", str(path)) == 0
    seen = capsys.readouterr().out
    assert "'two words' from TEXT, 150 × 300, uid from a hash of url and caption" in seen
    assert "no-url: " in seen
    run_job(parse(values), LocalExecutor(2), lambda line: None)
    assert called(monkeypatch, "verify", values["store"], "links", "--executor", "local") == 0
    seen = capsys.readouterr().out
    assert "ok   cuts" in seen
    assert "ok   list" in seen
    assert called(monkeypatch, "report", values["store"], "links", "--executor", "local") == 0
    capsys.readouterr()
    uid = content_hash(planted()["URL"][11].encode(), planted()["TEXT"][11]).hex()
    assert called(monkeypatch, "why", values["store"], "links", uid) == 0
    seen = capsys.readouterr().out
    assert "dropped by subset" in seen
    assert called(monkeypatch, "why", values["store"], "links", uid, "--image", f"{tmp_path}/x.jpg") == 2
    assert "but this one has none" in capsys.readouterr().err
    with pytest.raises(JobError, match="has no images, so nothing can be trained on it"):
        open_kept_samples(values["store"], "links")
    sweep = [str(path), "--vary", "policy.3.score.count=[10,20]", "--executor", "local"]
    assert called(monkeypatch, "sweep", *sweep) == 0
    assert called(monkeypatch, "plan", str(path), "--price", "--executor", "local") == 0


def test_no_torch_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job_on(tmp_path, 2, f"{tmp_path}/store")))
    code = "import sys\nfrom winnow.jobs.api import *\nfrom winnow.jobs.job_file.job import load_job\n"
    code += "from winnow.jobs.run import run_job\nfrom winnow.pipeline.executors.local import LocalExecutor\n"
    code += f"run_job(load_job({str(path)!r}), LocalExecutor(1), lambda line: None)\n"
    code += "print('torch' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"] or done.stdout.split() == ["False", "False"]


def test_one_row_for_each_caption_or_link(tmp_path: Path) -> None:
    values = job_on(tmp_path, 7, f"{tmp_path}/store", [{"duplicates": {"exact": "caption"}}])
    rows = planted()
    read = [n for n in range(N) if n not in FAULTS]
    kept = run_job(parse(values), LocalExecutor(2), lambda line: None).counts["kept"]
    assert kept == len({rows["TEXT"][n] for n in read})
    policy = [{"cap": {"by": "url", "most": 1}}]
    kept = run_job(parse({**values, "policy": policy}), LocalExecutor(2), lambda line: None).counts["kept"]
    assert kept == len({rows["URL"][n] for n in read})


def test_grown_pools_take_over_links(tmp_path: Path) -> None:
    values = job_on(tmp_path, 7, f"{tmp_path}/store")
    run_job(parse(values), LocalExecutor(2), lambda line: None)
    (tmp_path / "pool/00006.parquet").rename(tmp_path / "pool/00009.parquet")
    again = run_job(parse(values), LocalExecutor(2), lambda line: None)
    assert dict(again.steps)["samples"].report["adopted"] == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"policy": [{"duplicates": {}}]},
            "for links use cap with by: a url and most: 1, or exact: caption",
        ),
        (
            {"policy": [{"negclip": {"by": "b", "fraction": 0.3}}]},
            "'b', but its pool has neither vectors nor images",
        ),
        (
            {"embeddings": {"c": {"model": "x"}}},
            "this pool has no images: leave embeddings out, its own are none",
        ),
        ({"shards": {}}, "no shards can be written: leave shards out and use uids.npy"),
    ],
)
def test_what_links_cannot_do(changes: dict[str, Any], message: str) -> None:
    pool = {"shards": "links/*.parquet", "format": "links"}
    with pytest.raises(JobError) as error:
        parse({"name": "links", "store": "store", "pool": pool, **changes})
    assert message in str(error.value)
