"""The command: exit codes 0, 1 and 2, results on stdout, errors in one line on stderr."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.pools import Samples, write_vectors
from winnow.jobs import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """A job over 40 precomputed pairs in three shards."""
    values = {
        "name": "small",
        "store": str(tmp_path / "store"),
        "pool": {
            "shards": list(write_vectors(str(tmp_path / "pool"), Samples.drawn(40), 3)),
            "format": "vectors",
            "text": "text",
            "encoder": "clip",
        },
        "policy": [{"similarity": {"by": "clip", "fraction": 0.5}}, {"random": {"count": 8}}],
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Exit code of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["winnow", *words])
    monkeypatch.setenv("COLUMNS", "200")
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_run_prints_the_funnel(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "run", str(job_file), "--executor", "local", "--workers", "1") == 0
    out, err = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert rows == [
        ["pool", "40", "100.0 %", "40"],
        ["similarity", "-20", "50.0 %", "20"],
        ["random", "-12", "30.0 %", "8"],
        ["kept", "8", "20.0 %", "8"],
    ]
    assert "uids.npy" in out
    assert "train on them" not in out
    assert [line.split()[0] for line in err.splitlines()] == [
        "pool", "samples", "uids", "vectors.clip", "distinct", "similarity", "random", "manifest",
    ]  # fmt: skip
    assert called(monkeypatch, "run", str(job_file), "--executor", "local", "--set", "policy.1.random.count=3") == 0
    out, err = capsys.readouterr()
    assert err.count("done before") == 5
    assert "│ kept" in out


def test_the_version_and_short_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"winnow {version('winnow')}\n"
    for words in ([], ["run"], ["plan"], ["status"], ["evaluate"], ["evaluate", "model"], ["why"], ["train-filter"]):
        assert called(monkeypatch, *words, "-h") == 0
        short = capsys.readouterr().out
        assert called(monkeypatch, *words, "--help") == 0
        assert capsys.readouterr().out == short
        assert "Usage: winnow" in short


def test_completion_knows_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))  # tests run below any shell
    assert called(monkeypatch, "--show-completion", "bash") == 0
    assert "_WINNOW_COMPLETE=complete_bash" in capsys.readouterr().out
    environment = {**os.environ, "_WINNOW_COMPLETE": "complete_bash", "COMP_WORDS": "winnow tr", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['winnow']; from winnow.jobs.__main__ import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout.split() == ["train-filter"]


def test_quiet_says_nothing_but_errors(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(job_file.parent / "store")
    assert called(monkeypatch, "run", str(job_file), "--executor", "local", "--quiet") == 0
    out, err = capsys.readouterr()
    assert ("│ kept" in out, err) == (True, "")
    assert called(monkeypatch, "verify", store, "small", "--executor", "local", "-q") == 0
    assert capsys.readouterr().err == ""
    assert called(monkeypatch, "run", str(job_file), "--executor", "local", "-q", "--set", "pool.text=nowhere") == 2
    assert capsys.readouterr().err.startswith("winnow: ")


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one document on stdout."""
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_json_documents(job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    store, local = str(job_file.parent / "store"), ("--executor", "local", "--workers", "1")
    assert called(monkeypatch, "plan", str(job_file), "--json") == 0
    planned = document(capsys)
    assert [stage["state"] for stage in planned["stages"]] == ["to do"] * 7
    assert planned["job"]["limits"]["max_reject_fraction"] == 0.05
    assert "limits" not in planned["changed"]
    assert (planned["look"]["shards"], planned["look"]["first"]["samples"]) == (3, 13)
    assert planned["look"]["first"]["sample"]["vectors"]["clip.image"] == [16, "float16"]

    assert called(monkeypatch, "run", str(job_file), *local, "--json") == 0
    ran = document(capsys)
    assert ran["counts"] == {"pool": 40, "kept": 8, "dropped": {"similarity": 20, "random": 12}, "rejected": {}}
    assert [stage["stage"] for stage in ran["stages"]] == [stage["stage"] for stage in planned["stages"]]
    assert Path(ran["uids"]).is_file()
    assert json.loads(Path(ran["record"]).read_text())["counts"] == ran["counts"]
    assert (ran["shards"], ran["training_command"]) == (None, None)

    assert called(monkeypatch, "status", store, "--json") == 0
    status = document(capsys)
    assert status["jobs"][0] | {"seconds": 0} == {"job": "small", "counts": ran["counts"], "seconds": 0}
    assert {found["state"] for found in status["artifacts"]} == {"done"}
    assert called(monkeypatch, "status", store, "--json", "--watch") == 2
    capsys.readouterr()

    assert called(monkeypatch, "verify", store, "small", *local, "--json") == 0
    verified = document(capsys)
    assert (verified["holds"], verified["checks"][0]["check"]) == (True, "pool")
    assert {found["holds"] for found in verified["checks"]} == {True, None}
    np.save(ran["uids"], np.load(ran["uids"])[:-1])
    assert called(monkeypatch, "verify", store, "small", *local, "--json") == 1
    out, err = capsys.readouterr()
    broken = json.loads(out)
    assert not broken["holds"]
    assert "winnow: a finished job must be as it was left" in err
    wrong = [found for found in broken["checks"] if found["holds"] is False]
    assert all(found["violations"] >= len(found["first"]) > 0 for found in wrong)


def test_plan_says_what_it_sees_and_what_is_there(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "plan", str(job_file)) == 0
    out = capsys.readouterr().out
    assert "encoding" not in out
    assert "\npool       3 shards, " in out
    uid = Samples.drawn(40).uid[0]
    seen = f"key {uid}, 'a caption of picture 0' from caption, 256 × 192, uid from column uid, clip.image 16 × float16"
    assert f"\nsample     {seen}, clip.text 16 × float16\n" in out
    assert called(monkeypatch, "plan", str(job_file), "--full") == 0
    assert "max_reject_fraction: 0.05" in capsys.readouterr().out
    assert called(monkeypatch, "run", str(job_file), "--executor", "local") == 0
    [last] = write_vectors(str(job_file.parent / "more"), Samples.drawn(5, seed=9))
    urls = sorted(str(path) for path in (job_file.parent / "pool").iterdir())
    grown = ("--set", f"pool.shards={json.dumps([*urls, last])}")
    capsys.readouterr()
    assert called(monkeypatch, "plan", str(job_file), *grown) == 0
    assert "3 of 4 shards taken over" in capsys.readouterr().out
    assert called(monkeypatch, "run", str(job_file), *grown, "--executor", "local") == 0
    assert "3 of 4 shards taken over" in capsys.readouterr().err


def test_plan_without_a_look_needs_no_pool(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = ("--set", "pool.shards=/nowhere/*.parquet")
    assert called(monkeypatch, "plan", str(job_file), *away) == 2
    capsys.readouterr()
    assert called(monkeypatch, "plan", str(job_file), *away, "--no-look") == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["name"] == "small"
    assert err.startswith("not listed: a pool pattern must match")


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pool.image=nix", "there is no nix; there are uid, caption, image, text, width, height"),
        ("policy.0={score: {column: nix, from: TARGET.parquet, count: 3}}", "must have a column nix, but it has x"),
        ("policy.0={normsim: {by: clip, target: TARGET.npy, count: 3}}", "its vectors have 8 numbers and those of"),
        ("policy.0={density: {by: clip, clusters: {from: TARGET.npy}, count: 3}}", "8 numbers and the vectors have 16"),
    ],
)
def test_what_cannot_succeed_ends_before_it_starts(
    job_file: Path,
    command: str,
    change: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = job_file.parent / "target"
    np.save(f"{target}.npy", np.ones((5, 8), np.float32))
    pq.write_table(pa.table({"x": [1.0]}), f"{target}.parquet")
    words = [command, str(job_file), "--set", change.replace("TARGET", str(target))]
    assert called(monkeypatch, *words, *(["--executor", "local"] if command == "run" else [])) in (1, 2)
    assert message in capsys.readouterr().err
    assert not list((job_file.parent / "store").glob("samples-*"))


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_pool_of_which_nothing_can_be_read_is_refused(
    job_file: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = Samples.drawn(300)
    samples.image[:] = 0
    urls = write_vectors(str(job_file.parent / "zero"), samples, 3)
    words = [command, str(job_file), "--set", f"pool.shards={json.dumps(urls)}"]
    assert called(monkeypatch, *words, *(["--executor", "local"] if command == "run" else [])) == 1
    assert "winnow: a pool must be readable, but 300 of the 300 samples of 3 of its 3" in capsys.readouterr().err


def test_plan_runs_nothing(job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(monkeypatch, "plan", str(job_file), "--set", "policy.0.similarity.fraction=0.25") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert yaml.safe_load(out[: out.index("┏")])["policy"][0]["similarity"]["fraction"] == 0.25
    assert out.count("to do") == 7
    assert not (job_file.parent / "store").exists()


def test_status_lists_jobs_and_artifacts(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(job_file.parent / "store")
    assert called(monkeypatch, "status", store) == 2
    assert "winnow: a store must have artifacts, but" in capsys.readouterr().err
    called(monkeypatch, "run", str(job_file), "--executor", "local")
    (job_file.parent / "store/density-0badcafeefacdab0").mkdir()
    capsys.readouterr()
    assert called(monkeypatch, "status", store) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert rows[0][:5] == ["small", "40", "8", "32", "0"]
    assert ["density-0badcafeefacdab0", "unfinished"] in rows
    assert len([row for row in rows if row[-1] == "done"]) == 7


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["--set", "policy.0.similarity.by=clap"],
            2,
            "winnow: similarity.by must be an encoder of the job (clip), got",
        ),
        (["--set", "polciy=[]"], 2, "winnow: the job has no key 'polciy'; did you mean policy?"),
        (["--executor", "slurm"], 2, "winnow: the executor must be 'local' or 'ray', got 'slurm'"),
        (["--address", "auto", "--executor", "local"], 2, "winnow: --address must come with --executor ray, got local"),
        (
            ["--set", "pool.shards=absent-{0..1}.parquet"],
            2,
            "winnow: every shard of a pool must be an existing file",
        ),
        (["--set", "pool.shards=absent/*.parquet"], 2, "winnow: a pool pattern must match at least one file"),
        (["--set", "pool.text=nowhere"], 2, "pool.image or pool.text must name a column, but there is no nowhere"),
    ],
)
def test_errors_are_said_on_stderr(
    job_file: Path,
    words: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    executor = [] if "--executor" in words else ["--executor", "local"]
    assert called(monkeypatch, "run", str(job_file), *executor, *words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_an_unknown_option_and_an_absent_job_are_usage_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "run", "absent.yaml", "--executor", "local") == 2
    assert (
        "winnow: a job must be a YAML file, but: cannot read absent.yaml: there is no such file"
        in capsys.readouterr().err
    )
    assert called(monkeypatch, "run", "absent.yaml", "--frobnicate") == 2
    assert "No such option" in capsys.readouterr().err


def test_ctrl_c_stops_with_130(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("winnow.jobs.run.run_job", lambda *_: signal.raise_signal(signal.SIGINT))
    assert called(monkeypatch, "run", str(job_file), "--executor", "local") == 130
    assert capsys.readouterr().err == "winnow: stopped; the same command resumes\n"


def test_the_module_is_the_command(job_file: Path) -> None:
    command = [sys.executable, "-m", "winnow.jobs", "run", str(job_file), "--executor", "local"]
    good = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (good.returncode, "kept" in good.stdout) == (0, True)
    bad = subprocess.run([*command, "--set", "store="], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("winnow: a job must have store; its keys are name, store, pool, ")


def test_a_job_that_is_done_waits_for_no_cluster(job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, "run", str(job_file), "--executor", "local") == 0
    code = (
        "import sys; from winnow.jobs.__main__ import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "sys.exit('ray' in sys.modules)"
    )
    words = [sys.executable, "-c", code, "run", str(job_file), "--executor", "ray"]
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr.count("done before")) == (0, 7)
    *_, log = sorted((job_file.parent / "store/events").iterdir())
    assert log.read_text().count('"event": "stage"') == 7, "its events are there, though nobody counts for Ray"


@pytest.mark.parametrize("workers", ["0", "-1"])
def test_no_workers_are_a_usage_error(
    job_file: Path, workers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "run", str(job_file), "--executor", "local", f"--workers={workers}") == 2
    assert "Invalid value for '--workers'" in capsys.readouterr().err


def test_no_command_waits_for_torch_before_it_embeds() -> None:
    code = "import sys, winnow.jobs.plan.inputs, winnow.jobs.show.documents, winnow.jobs.plan.plan, winnow.jobs.sweep\n"
    code += "sys.exit(sorted({'torch', 'open_clip', 'timm', 'ray'} & set(sys.modules)) != [])"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_waits_for_no_command() -> None:
    heavy = {"pyarrow", "numpy", "pydantic", "faiss", "fsspec", "torch", "ray", "plotly"}
    code = f"import sys, winnow.jobs.cli; sys.exit(sorted({heavy} & set(sys.modules)) != [])"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# each command as the console starts it, in one process: the imports are what takes time
_EACH = """
import json, sys
from winnow.jobs.__main__ import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    print(f"\\0{code}\\0", flush=True)
"""


@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict", "utf-8"])
def test_every_command_prints_on_a_terminal_of_any_encoding(tmp_path: Path, encoding: str) -> None:
    captions = pa.array(["一只猫 — café", "\x1b[31mred\u202e", "c", "d"])
    vectors = pa.array([[1.0, 0], [0, 1], [1, 1], [1, -1]], pa.list_(pa.float32(), 2))
    uids = pa.array([f"{number:032x}" for number in range(4)])
    pool, file = tmp_path / "größe 猫.parquet", tmp_path / "job.yaml"
    pq.write_table(pa.table({"image": vectors, "caption": captions, "uid": uids}), pool)
    values = {
        "name": "small",
        "store": str(tmp_path / "store—é"),
        "pool": {"shards": str(pool)[:-8] + "*", "format": "vectors"},
        "policy": [{"random": {"fraction": 0.5}}],
    }
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")

    local, store = ("--executor", "local"), str(values["store"])
    right = [
        ("plan", str(file)),
        ("run", str(file), *local, "--workers", "1"),
        ("status", store),
        ("verify", store, "small", *local, "--workers", "1"),
        *(("why", store, "small", uid) for uid in uids.to_pylist()),
    ]
    wrong = [
        ("run", str(file), *local, "--set", "pool.shards=/nowhere/\x1b[31m—.parquet"),
        ("run", str(file), *local, "--set", "namé=—"),
    ]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "140"}
    done = subprocess.run(
        [sys.executable, "-c", _EACH, json.dumps([*right, *wrong])],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    text = done.stdout.decode(encoding.partition(":")[0])
    assert done.returncode == 0, text
    assert "Traceback" not in text
    assert "\x1b" not in text
    codes = [int(code) for code in text.split("\0")[1::2]]
    assert codes == [0] * len(right) + [2] * len(wrong)
