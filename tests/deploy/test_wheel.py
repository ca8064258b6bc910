"""The wheel in an environment of its own: it runs from any folder, also one with pipeline/, stages/ and jobs/."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.deploy.decoys import FLOORS, plant

ROOT = Path(__file__).parents[2]
RENDER = """
from pathlib import Path
from winnow.jobs.quickstart.world import World, render_world
render_world(World(clean_pairs=2, clean_shards=1, pool_samples=120, pool_shards=2), Path("world"))
"""
FIRST_UID = """
import sys, winnow
done = winnow.open(sys.argv[1], "quickstart")
print(done.manifest().to_table(columns=["uid"])["uid"].drop_null()[0].as_py())
"""
CHANGES = {
    "store": "store",
    "pool.shards": "world/pool/*.tar",
    "embeddings.clip.pretrained": "random",
    "policy.1.duplicates": "{by: clip, exact: true}",  # random weights tell no two pictures apart
    "policy.3.density.clusters": "4",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True, timeout=60
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The python of an environment that has winnow from the wheel alone, and borrows the other packages."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    [site] = folder.glob("lib/python*/site-packages")
    python, alone = str(folder / "bin/python"), ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    words = [sys.executable, "-m", "pip", "--python", python, "install", *alone, str(wheel)]
    subprocess.run(words, check=True, timeout=60)
    # .pth files inside a folder that a .pth names are not read, so a checkout that is installed there stays away
    packages = [name for name in sys.path if name.endswith(("site-packages", "dist-packages"))]
    (site / "borrowed.pth").write_text("\n".join(packages))
    return python


def called(program: str, folder: Path, *words: str) -> bytes:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    done = subprocess.run([program, *words], cwd=folder, env=environment, capture_output=True, check=False, timeout=170)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout


def changed(values: Mapping[str, str]) -> list[str]:
    return [f"--set={path}={value}" for path, value in values.items()]


def test_what_the_wheel_has(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        users = [name for name in names if name.endswith(".py") and b"jobs.lab" in file.read(name)]
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"winnow"}
    wanted = {"__init__.py", "py.typed", "jobs/quickstart.yaml", "jobs/pocket.json", "jobs/report/page.html"}
    assert {f"winnow/{name}" for name in wanted} <= set(names)
    assert not [name for name in names if "/lab/" in name or "__pycache__" in name]
    assert users == []


@pytest.mark.timeout(400)
def test_it_runs_from_any_folder_also_one_with_packages_of_the_same_names(python: str, tmp_path: Path) -> None:
    """The job runs in such a folder; the program `winnow` then reads it from there, and from an empty one."""
    plant(tmp_path)
    for floor in FLOORS:
        with pytest.raises(AssertionError, match=f"{floor} of the user, not of winnow"):
            called(python, tmp_path, "-c", f"import {floor}")
    where = Path(called(python, tmp_path, "-c", "import winnow; print(winnow.__file__)").decode().strip()).parent
    assert where.is_relative_to(Path(python).parents[1])

    called(python, tmp_path, "-c", RENDER)
    command, quickstart = ("-m", "winnow.jobs"), str(where / "jobs/quickstart.yaml")
    run = ("run", quickstart, *changed(CHANGES), "--workers", "1", "--json")
    ran = json.loads(called(python, tmp_path, *command, *run, "--executor", "local"))
    assert (ran["store"], ran["counts"]["pool"]) == (f"{tmp_path}/store", 120)
    # another policy, so that workers of Ray have something to decide
    again = json.loads(called(python, tmp_path, *command, *run, "--set=policy.0.rules.min_words=2"))
    assert [stage["stage"] for stage in again["stages"] if not stage["reused"]]

    store, program = f"{tmp_path}/store", str(Path(python).with_name("winnow"))
    uid = called(python, tmp_path, "-c", FIRST_UID, store).decode().strip()
    (tmp_path / "empty").mkdir()
    anywhere = changed({**CHANGES, "store": store, "pool.shards": f"{tmp_path}/{CHANGES['pool.shards']}"})
    for folder in (tmp_path, tmp_path / "empty"):
        planned = json.loads(called(program, folder, "plan", quickstart, *anywhere, "--json"))
        assert {stage["state"] for stage in planned["stages"]} == {"done"}
        assert uid in called(program, folder, "why", store, "quickstart", uid, "--json").decode()
        called(program, folder, "report", store, "quickstart", "--out", "page.html", "--quiet")
        assert "<html" in (folder / "page.html").read_text()[:1000]
        tar = called(program, folder, "cat", store, "quickstart", "0")
        with tarfile.open(fileobj=io.BytesIO(tar)) as file:
            assert file.getnames()
