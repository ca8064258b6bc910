"""The shell scripts are sound, start what they should, and fail when the job does; Slurm and winnow are stand-ins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "deploy").glob("*.sh"))
SHELLCHECK = str(Path(sys.executable).with_name("shellcheck"))

# each says its name and words in a line of `calls`, and does what little the script needs of it
STANDS_IN = {
    "scontrol": "printf 'node-7\\nnode-8\\n'",
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    # of the real one: what follows -- runs on the head, and its exit code counts
    "ray": 'while [[ $1 != -- ]]; do shift; done; shift; "$@"',
    "winnow": 'exit "${WINNOW_EXIT:-0}"',
}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A folder with the stand-ins and a token."""
    (tmp_path / "bin").mkdir()
    for name, body in STANDS_IN.items():
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >> "{tmp_path}/calls"\n{body}\n')
        script.chmod(0o755)
    (tmp_path / "token").write_text("0" * 64)
    return tmp_path


def ran(bench: Path, script: str, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The script in that folder, as Slurm would start it on the first of two nodes."""
    slurm = {
        "SLURM_JOB_NODELIST": "node-[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_ID": "123456",
        "SLURM_SUBMIT_DIR": str(bench),
        "RAY_AUTH_TOKEN_PATH": str(bench / "token"),
        "PATH": f"{bench}/bin:{os.environ['PATH']}",
    }
    command = ["bash", str(ROOT / "deploy" / script), *words]
    return subprocess.run(command, env={**slurm, **environment}, capture_output=True, text=True, check=False)


def calls(bench: Path, name: str) -> list[str]:
    log = bench / "calls"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line for line in lines if line.startswith(f"{name} ")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_and_shellcheck_find_nothing(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    for command in (["bash", "-n"], [SHELLCHECK]):
        found = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False)
        assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_shellcheck_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm $1\n")
    assert subprocess.run([SHELLCHECK, str(tmp_path / "bad.sh")], capture_output=True, check=False).returncode == 1


def test_a_job_is_run_on_every_node_of_its_allocation(bench: Path) -> None:
    done = ran(bench, "slurm.sh", "job.yaml", "--set", "policy.0.random.count=9 8")
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(bench, "winnow") == ["winnow run job.yaml --set policy.0.random.count=9 8 --address node-7:23456"]
    [ray] = calls(bench, "ray")
    assert ray.startswith("ray symmetric-run --address node-7:23456 --min-nodes 2 --num-cpus=64 --num-gpus=4 ")
    [srun] = calls(bench, "srun")
    assert "--nodes=2 --ntasks=2" in srun
    assert not list(bench.glob(".winnow-*"))


def test_a_job_that_fails_fails_the_script(bench: Path) -> None:
    assert ran(bench, "slurm.sh", "job.yaml", WINNOW_EXIT="1").returncode == 1
    # Ray that does not start makes symmetric-run end with 0, and then nobody ran the job
    (bench / "bin/ray").write_text("#!/bin/bash\nexit 0\n")
    done = ran(bench, "slurm.sh", "job.yaml")
    assert (done.returncode, "the job must succeed, but it failed" in done.stderr) == (1, True)


def test_no_node_starts_without_a_token(bench: Path) -> None:
    (bench / "token").write_text("")
    done = ran(bench, "slurm.sh", "job.yaml")
    assert (done.returncode, "ray get-auth-token --generate" in done.stderr) == (2, True)
    assert not calls(bench, "srun")


def test_two_steps_embed_on_gpus_then_decide_on_cores(bench: Path) -> None:
    done = ran(bench, "two_steps.sh", "job.yaml", "8", "240", "--set", "store=s3://x/y")
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(bench, "winnow") == [
        "winnow run job.yaml --workers 8 --set store=s3://x/y --set policy=[] --set shards=null",
        "winnow run job.yaml --workers 240 --set store=s3://x/y --set resources.kmeans_gpus=0",
    ]


@pytest.mark.parametrize(("script", "words"), [("two_steps.sh", ("job.yaml", "8")), ("slurm.sh", ())])
def test_too_few_words_are_a_usage_error(bench: Path, script: str, words: tuple[str, ...]) -> None:
    assert ran(bench, script, *words).returncode == 2
    assert not (bench / "calls").exists()


def test_the_second_step_is_not_tried_when_the_first_failed(bench: Path) -> None:
    assert ran(bench, "two_steps.sh", "job.yaml", "8", "240", WINNOW_EXIT="1").returncode == 1
    assert len(calls(bench, "winnow")) == 1
