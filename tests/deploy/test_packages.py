"""Packages have lower bounds that the tested versions keep, and a loader needs only those that its page lists."""

import io
import re
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.pools import members, pair, write_tar
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job
from winnow.pipeline.executors.local import LocalExecutor

ROOT = Path(__file__).parents[2]
DECLARED = [
    Requirement(line) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
]
LOADER = re.search(r"<!-- packages of a loader -->(.*?)<!--", (ROOT / "docs/loading.md").read_text(), re.DOTALL)
assert LOADER
READING = [Requirement(text) for text in re.findall(r'"([^"]+)"', LOADER[1])]
BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)
sys.meta_path.insert(0, Blocked())
"""


def test_every_package_has_a_lower_bound_that_the_tested_version_keeps() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    tested = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for one in DECLARED:
        assert [part.operator for part in one.specifier] == [">="], f"{one} must have a lower bound"
        if one.name != "faiss-cpu":  # in place of faiss-gpu elsewhere
            assert one.specifier.contains(tested[canonicalize_name(one.name)]), one


def test_what_a_loader_needs_has_the_bounds_of_the_whole() -> None:
    bounds = {one.name: str(one.specifier) for one in DECLARED}
    assert {one.name: str(one.specifier) for one in READING} == {one.name: bounds[one.name] for one in READING}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The store of a finished job `pairs`: 12 pictures in two tars, half of them kept."""
    folder = tmp_path_factory.mktemp("loader")
    for shard in range(2):
        write_tar(folder / f"pool/{shard}.tar", members([(f"{n}", pair(6 * shard + n, f"text {n}")) for n in range(6)]))
    encoder = {"model": str(ROOT / "jobs/pocket.json"), "pretrained": "random"}
    values = {"name": "pairs", "store": f"{folder}/store", "pool": {"shards": f"{folder}/pool"}}
    run_job(
        parse({**values, "embeddings": {"clip": encoder}, "policy": [{"random": {"count": 6}}]}),
        LocalExecutor(1),
        lambda _: None,
    )
    return f"{folder}/store"


def without_the_others(code: str, *words: str) -> bytes:
    """stdout of Python code where what winnow declares, but for what the page lists, cannot be imported."""
    needed = {canonicalize_name(one.name) for one in READING}
    others = {canonicalize_name(one.name) for one in DECLARED} - needed
    found = packages_distributions()
    modules = {module for module, names in found.items() if {canonicalize_name(name) for name in names} & others}
    assert {"ray", "torch", "faiss", "open_clip", "pydantic", "typer"} <= modules
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(modules=modules) + code, *words],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_cat_needs_only_the_packages_of_a_loader(store: str) -> None:
    code = "from winnow.jobs.__main__ import main; main()"
    tars = [without_the_others(code, "cat", store, "pairs", str(shard)) for shard in range(2)]
    names = []
    for tar in tars:
        with tarfile.open(fileobj=io.BytesIO(tar)) as file:
            names += file.getnames()
    assert sum(name.endswith(".txt") for name in names) == 6


def test_the_loader_needs_only_the_packages_of_a_loader(store: str) -> None:
    code = (
        "import sys, winnow; done = winnow.open(sys.argv[1], 'pairs'); "
        "print(done.counts['kept'], len(list(done.samples())), len(done.kept_uids()), done.manifest().count_rows())"
    )
    assert without_the_others(code, store).split() == [b"6", b"6", b"6", b"12"]
