"""Every command line of deploy/, the jobs and the pages parses with the real command; files that it names are there."""

import functools
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.deploy.commands import ROOT, commands, commands_in
from winnow.jobs import cli
from winnow.jobs.job_file.job import load_job

PAGES = [
    path
    for pattern in ("*.md", "docs/*.md", "deploy/*", "jobs/*.yaml")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file() and path.suffix != ".dockerignore"
]
PLACEHOLDER = re.compile(r"[…<>]|^\[")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_parse(path: Path) -> None:
    for words in commands(path):
        if not any(PLACEHOLDER.search(word) for word in words):
            check(words)


def test_they_are_found() -> None:
    found = {name(path): [words[:3] for words in commands(path)] for path in PAGES}
    assert ["ray", "up", "deploy/aws.yaml"] in found["deploy/aws.yaml"]
    assert ["bash", "/winnow/deploy/two_steps.sh", "/winnow/jobs/laion_dbp.yaml"] in found["deploy/gcp.yaml"]
    assert ["bash", "/winnow/deploy/two_steps.sh", "/winnow/jobs/laion_dbp.yaml"] in found["deploy/rayjob.yaml"]
    assert ["sbatch", "deploy/slurm.sh", "jobs/laion_dbp.yaml"] in found["deploy/slurm.sh"]
    assert ["python", "-m", "winnow.jobs"] in found["jobs/dfn_top15.yaml"]
    assert ["winnow", "run", "job.yaml"] in found["README.md"]


@pytest.mark.parametrize(
    "line",
    [
        "winnow rum job.yaml",
        "winnow run job.yaml --worker",
        "winnow run job.yaml --workers none",
        "python -m winnow.jobs run jobs/absent.yaml",
        "winnow run jobs/laion_dbp.yaml --set policy.9.density.fraction=1",
        "bash two_steps.sh jobs/laion_dbp.yaml eight 240",
        "sbatch slurm.sh jobs/laion_dbp.yaml --sett x=1",
        "ray upp deploy/aws.yaml",
        "ray job submit --adress x -- winnow run job.yaml",
        "ray job submit -- winnow rum job.yaml",
    ],
)
def test_a_slip_is_seen(line: str) -> None:
    found = list(commands_in(line))
    with pytest.raises(Exception, match=r".+"):  # typer's and click's usage errors, and winnow's own
        list(map(check, found))


def check(words: list[str]) -> None:
    """Raises where the command would refuse its words, or a file in the repository that they name is not there."""
    if words[0] == "ray":
        parsed(ray_command(), words[1:])
    elif words[0] == "bash":  # two_steps.sh JOB EMBEDDING DECIDING …
        job, *counts = words[2:5]
        for count in counts:
            winnow(["run", job, "--workers", count, *words[5:]])
    elif words[0] == "sbatch":
        winnow(["run", *words[2:], "--address", "head:6379"])
    else:
        winnow(words[1:] if words[0] == "winnow" else words[3:])


def winnow(words: list[str]) -> None:
    """Checks words of the command; a job file of this repository is read with its changes."""
    context = parsed(typer.main.get_command(cli.app), words)
    job = context.params.get("job_file", "") if context.info_name in ("run", "plan", "sweep") else ""
    path = job.removeprefix("/winnow/")
    if path.startswith("jobs/"):
        load_job(str(ROOT / path), context.params.get("change") or [])


def parsed(command: Any, words: list[str]) -> Any:
    """The context of the last command of a line of sub-commands; parses and calls nothing."""
    context, called = None, "winnow"
    while True:
        context = command.make_context(called, list(words), parent=context)
        if not hasattr(command, "commands"):
            return context
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not rest:  # such as `winnow` alone, or with --help
            return context
        called, command, words = command.resolve_command(context, rest)


@functools.cache
def ray_command() -> Any:
    """Ray's own command."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Ray imports
        from ray.scripts.scripts import cli as found
    return found
