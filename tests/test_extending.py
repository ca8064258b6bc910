"""A cut, a pool format and an encoder of another package are whole: installed by pip, run through every command."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests import outside_cut
from tests.jobs.test_cli import ROOT, called
from tests.pools import jpeg, read_tar
from winnow.jobs import loader
from winnow.jobs.job_file.job import load_job
from winnow.jobs.run import run_job
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.contract import Executor
from winnow.stages.cuts.cut import Cut
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.pools.reader import Reader

EXAMPLE = ROOT / "tests/example_plugin"
PAGE = ROOT / "docs/extending.md"
FILES = ["pyproject.toml", *(f"winnow_example/{name}.py" for name in ("distinct_words", "json_lines", "mean_colours"))]

SHARDS, EACH = 3, 10
BROKEN = {3: "no json", 14: '{"image": "", "caption": null}'}
COPIES = {25: 4, 27: 8}  # line → the line whose picture and caption it has; the picture in other bytes
STAY = [15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 26, 28, 29]  # of the 26 that are left, those with the most words


def blocks(language: str) -> list[str]:
    """The code blocks of the page that are marked as of this language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [text for marked, text in found if marked == language]


def picture(line: int) -> bytes:
    source = jpeg(COPIES.get(line, line))
    if line not in COPIES:
        return source
    buffer = io.BytesIO()
    Image.open(io.BytesIO(source)).save(buffer, "PNG")
    return buffer.getvalue()


def caption(line: int) -> str:
    """Line n has n + 1 different words."""
    return " ".join(["The", *(f"word{k}" for k in range(COPIES.get(line, line))), "the"])


def write_pool(folder: Path) -> None:
    folder.mkdir(parents=True)
    for shard in range(SHARDS):
        lines = []
        for line in range(shard * EACH, (shard + 1) * EACH):
            fields = {"image": base64.b64encode(picture(line)).decode(), "caption": caption(line)}
            lines.append(BROKEN.get(line) or json.dumps(fields))
        (folder / f"{shard:05d}.jsonl").write_text("\n".join(lines))


def installed(folder: Path, version: str) -> Path:
    """The folder that pip installs the example into."""
    source = Path(shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__")))
    described = (source / "pyproject.toml").read_text()
    (source / "pyproject.toml").write_text(described.replace('version = "1.0"', f'version = "{version}"'))
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    words = [sys.executable, "-m", "pip", "install", *offline, "--target", str(folder / "site"), str(source)]
    subprocess.run(words, check=True)
    return folder / "site"


@contextmanager
def importable(site: Path) -> Iterator[None]:
    """What is installed there can be imported inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        try:
            yield
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == "winnow_example"]:
                del sys.modules[name]


@dataclass(frozen=True)
class Winnow:
    """Runs commands in this process with the example installed."""

    site: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: object, code: int = 0) -> str:
        """What the command prints on stdout, or on stderr where its exit code is 2."""
        local = [] if words[0] in ("why", "plan") and "--price" not in words else ["--executor", "local"]
        with importable(self.site):
            came = called(self.monkeypatch, *map(str, words), *local)
        out, err = self.capsys.readouterr()
        assert came == code, err
        return err if code == 2 else out


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("one"), "1.0")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that uses all that the example brings."""
    folder = tmp_path_factory.mktemp("job")
    write_pool(folder / "pool")
    [snippet] = blocks("yaml")
    values = yaml.safe_load(snippet)
    values["store"] = str(folder / "store")
    values["pool"]["shards"] = str(folder / "pool/*.jsonl")
    (folder / "job.yaml").write_text(yaml.safe_dump(values))
    return folder / "job.yaml"


@pytest.fixture
def winnow(site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Winnow:
    return Winnow(site, monkeypatch, capsys)


@pytest.fixture
def store(job: Path, winnow: Winnow) -> Path:
    """The store of the job, which has run."""
    folder = job.parent / "store"
    if not (folder / "jobs/example.json").exists():
        winnow("run", job)
    return folder


def record(store: Path, name: str = "example") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store / f"jobs/{name}.json").read_text())
    return found


def manifest(store: Path, name: str = "example") -> list[dict[str, Any]]:
    """Its rows in the order of the pool, so one for each line."""
    files = sorted((store / record(store, name)["artifacts"]["manifest"]).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("file", FILES)
def test_the_page_shows_the_files_of_the_example(file: str) -> None:
    assert (EXAMPLE / file).read_text() in blocks("toml" if file.endswith(".toml") else "python")


@pytest.mark.parametrize("contract", [Cut, Reader, Encoder])
def test_the_page_names_all_that_a_contract_asks(contract: type) -> None:
    asked = [name for name in {**vars(contract), **contract.__annotations__} if not name.startswith("_")]
    assert len(asked) > 4
    assert [name for name in asked if f"`{name}`" not in PAGE.read_text()] == []


def test_no_other_file_knows_the_example() -> None:
    names = re.compile(r"distinct.?words|json.?lines|mean.?colours|winnow.example", re.IGNORECASE)
    sources = [path for folder in ("pipeline", "stages", "jobs", "deploy") for path in (ROOT / folder).rglob("*.*")]
    texts = [path for path in sources if path.suffix in (".py", ".yaml", ".json", ".html", ".sh")]
    assert len(texts) > 100
    assert [path.name for path in texts if names.search(path.read_text())] == []


def test_the_planted_samples_stay(store: Path) -> None:
    rows = manifest(store)
    reasons = [row["reason"] for row in rows]
    assert [line for line, reason in enumerate(reasons) if reason is None] == STAY
    assert [line for line, reason in enumerate(reasons) if reason == "reject:line-broken"] == [*BROKEN]
    for copy, source in COPIES.items():
        assert sorted([reasons[copy], reasons[source]]) == ["distinct_words", "duplicates"]
    assert record(store)["counts"] == {
        "pool": 30,
        "kept": 13,
        "dropped": {"duplicates": 2, "distinct_words": 13},
        "rejected": {"line-broken": 2},
    }
    assert [row["distinct_words.words"] for row in rows[28:]] == [29, 30]
    assert record(store)["versions"]["winnow-example"] == "1.0"


def test_plan_shows_its_options_and_its_stage(store: Path, job: Path, winnow: Winnow) -> None:
    said = winnow("plan", job)
    assert "format: json_lines" in said
    assert "distinct_words: {fraction: 0.5}" in said
    assert re.search(r"distinct_words\s+│ distinct_words-[0-9a-f]{16}\s+│ done", said)
    assert "sample     key 000000, 'The the', 40 × 40" in said
    assert "colours    mean_colours 4" in said


def test_price_has_its_line(job: Path, winnow: Winnow) -> None:
    said = winnow("plan", job, "--price")
    [line] = re.findall(r"^ distinct_words +\D+ ([\d.]+) s .*$", said, re.MULTILINE)
    assert float(line) >= 0
    assert "about 30 samples" in said


def test_sweep_varies_its_option(store: Path, job: Path, winnow: Winnow) -> None:
    said = winnow("sweep", job, "--vary", "policy.1.distinct_words.fraction=0.25,0.5")
    assert [line.split()[:3] for line in said.splitlines() if " 0.25 " in line or " 0.5 " in line] == [
        ["1", "0.25", "6"],
        ["2", "0.5", "13"],
    ]


def test_why_tells_its_value_rank_and_threshold(store: Path, winnow: Winnow) -> None:
    said = winnow("why", store, "example", manifest(store)[13]["uid"])
    assert "distinct_words: dropped\n  words 14, must be at least 16: fails by 2\n  rank 14 of 26; 13 are kept" in said


def test_verify_looks_at_its_column_and_its_order(store: Path, winnow: Winnow) -> None:
    said = winnow("verify", store, "example")
    assert "NOT" not in said
    assert "ok   values: 28 values\n" in said  # of duplicates, which drops by its links, another check looks
    assert "ok   cuts: 28 rows, 1 cuts, 1 groups\n" in said


def test_verify_says_of_a_silent_cut_what_the_page_says(
    job: Path, tmp_path: Path, winnow: Winnow, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside_cut.install(monkeypatch, tmp_path / "silent")
    more = ["--set", f"store={tmp_path}/store", "--set", "policy=[{odd: {}}]", "--set", "shards=null"]
    winnow("run", job, *more)
    said = winnow("verify", tmp_path / "store", "example")
    shown = blocks("")
    assert len(shown) == 2
    for block in shown:
        assert block.replace("distinct_words", "odd") in said


def test_verify_finds_damage_in_its_files(store: Path, tmp_path: Path, winnow: Winnow) -> None:
    """Line 29 stays, for it has 30 words; its file says that it has one."""
    moved = Path(shutil.copytree(store, tmp_path / "moved"))
    *_, file = sorted((moved / record(moved)["artifacts"]["distinct_words"]).glob("*.parquet"))
    table = pq.read_table(file)
    words = [*table["words"].to_pylist()[:-1], 1]
    at = table.column_names.index("words")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(words)), file)
    said = winnow("verify", moved, "example", code=1)
    assert re.search(r"NOT  values: .*\n.*distinct_words.*30", said)
    assert re.search(r"NOT  cuts: .*\n.*distinct_words, group 0", said)


def test_the_report_has_its_section(store: Path, winnow: Winnow) -> None:
    page = Path(winnow("report", store, "example").split()[-1]).read_text()
    assert "Captions with many different words stay." in page
    assert '"label": "different words"' in page


def test_its_samples_are_written_exported_and_streamed(store: Path, site: Path, winnow: Winnow) -> None:
    uids = sorted(row["uid"] for row in manifest(store) if row["kept"])
    exported = pq.read_table(winnow("export", store, "example").split()[-1])
    assert sorted(exported["uid"].to_pylist()) == uids
    pictures = sorted(picture(line) for line in STAY)
    written = [entry for path in sorted(store.glob("shards-*/*.tar")) for entry in read_tar(path)]
    assert sorted(content for name, content in written if name.endswith(".jpg")) == pictures
    assert sorted(json.loads(content)["uid"] for name, content in written if name.endswith(".json")) == uids
    with importable(site):
        kept = loader.open_kept_samples(str(store), "example")
        streamed = [sample for shard in range(SHARDS) for sample in kept.samples(shard)]
    assert sorted(sample["jpg"] for sample in streamed) == pictures


def test_cat_streams_it_in_a_process_of_its_own(store: Path, site: Path, tmp_path: Path) -> None:
    (tmp_path / "2.tar").write_bytes(process(site, "cat", store, "example", "2"))
    pictures = [content for name, content in read_tar(tmp_path / "2.tar") if name.endswith(".jpg")]
    assert pictures == [picture(line) for line in STAY if line >= 2 * EACH]


def test_ray_decides_alike(store: Path, job: Path, site: Path) -> None:
    """Ray's workers are other processes, which import the cut and the format too."""
    more = ["--set", "name=more", "--set", "policy.1.distinct_words.fraction=0.7"]
    process(site, "run", job, "--executor", "ray", "--workers", "1", *more)
    kept = [line for line, row in enumerate(manifest(store, "more")) if row["kept"]]
    assert kept == [9, 10, 11, 12, 13, *STAY]


def test_a_worker_that_cannot_import_it_is_told(job: Path, store: Path, site: Path, ray_executor: Executor) -> None:
    """The cluster of the tests began without the example."""
    more = ["name=lost", "policy.1.distinct_words.fraction=0.3"]
    with (
        importable(site),
        pytest.raises(JobError, match="every worker must be able to import winnow_example, as the driver is, but one"),
    ):
        run_job(load_job(str(job), more), ray_executor, lambda line: None)


def test_without_the_package_its_job_is_refused(
    job: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "why", str(store), "example", "--shard", "0", "--key", "000000") == 2
    assert "got 'json_lines'; if another package has it, install that" in capsys.readouterr().err
    with pytest.raises(JobError, match="the format of example's pool must be installed, got 'json_lines'"):
        loader.open_kept_samples(str(store), "example")


def process(site: Path, *words: object) -> bytes:
    """What the command prints on stdout."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    command = [sys.executable, "-m", "winnow.jobs", *map(str, words)]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout


def test_another_version_makes_other_artifacts(store: Path, job: Path, tmp_path: Path, winnow: Winnow) -> None:
    names = record(store)["artifacts"]
    planned = {}
    for place, version in (("again", "1.0"), ("next", "1.1")):
        other = Winnow(installed(tmp_path / place, version), winnow.monkeypatch, winnow.capsys)
        found = re.findall(r"│ ([\w.]+)\s+│ (\S+)\s+│", other("plan", job))
        planned[version] = {label: name for label, name in found if label in names}
    assert planned["1.0"] == names
    assert planned["1.1"].keys() == names.keys()
    assert {label for label in names if planned["1.1"][label] == names[label]} == {"pool"}
    assert "ok   values: 28 values\n" in other("verify", store, "example")  # a finished job is read by any version


def test_what_it_cannot_do_is_refused_by_name(job: Path, winnow: Winnow) -> None:
    said = winnow("plan", job, "--set", "policy.1={similarity: {by: colours, fraction: 0.5}}", code=2)
    assert "similarity.by must name an encoder with text vectors, but colours has none" in said
    said = winnow("plan", job, "--set", "policy.1.distinct_words.count=3", code=2)
    assert "a cut must have one of fraction, count and threshold" in said
