"""The Dockerfile parses, pins what the tests ran, copies what there is, runs as no root, and names no registry."""

import re
import subprocess
import tomllib
from pathlib import Path

from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/Dockerfile"


def steps(instruction: str) -> list[str]:
    """The values of every such instruction, in order."""
    parser = DockerfileParser(path=str(FILE), cache_content=True, env_replace=False)
    return [step["value"] for step in parser.structure if step["instruction"] == instruction]


def stages() -> dict[str, str]:
    """Base by name of each stage."""
    return {name: base for base, name in (re.split(r"\s+AS\s+", step) for step in steps("FROM"))}


def test_every_instruction_is_one() -> None:
    parser = DockerfileParser(path=str(FILE), cache_content=True, env_replace=False)
    known = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "CMD", "COMMENT"}
    assert {step["instruction"] for step in parser.structure} <= known


def test_there_is_a_target_for_cpus_and_one_for_gpus() -> None:
    assert stages()["cpu"] == stages()["gpu"] == "runtime"
    assert list(stages())[-1] == "gpu"
    assert {base for base in stages().values() if base not in stages()} == {"python:${PYTHON}-slim"}
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert asked.removeprefix(">=") == steps("ARG")[0].removeprefix("PYTHON=")


def test_it_runs_as_no_root_with_a_token() -> None:
    assert steps("USER") == ["1000"]
    assert "RAY_AUTH_MODE=token" in " ".join(steps("ENV"))


def test_no_registry_is_named() -> None:
    code = "\n".join(line for line in FILE.read_text().splitlines() if not line.startswith("#"))
    assert "://" not in code
    assert "--index-url" not in code


def test_what_is_copied_is_there_and_reaches_the_build() -> None:
    ignored = (FILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    for step in steps("COPY"):
        words = [word for word in step.split() if not word.startswith("--")]
        for source in words[:-1]:
            if source.startswith("/"):  # of an earlier stage
                continue
            assert list(ROOT.glob(source)), source
            assert any(source == name or source.startswith(f"{name}/") for name in allowed), source
    assert all((ROOT / name).exists() for name in allowed)


def test_both_lists_of_packages_are_those_that_are_declared(tmp_path: Path) -> None:
    """The image's own commands make them, so that no list is kept twice."""
    [making] = [step for step in steps("RUN") if "tomllib" in step]
    [renaming] = [step.split(" && ")[0] for step in steps("RUN") if "cpu-constraints.txt" in step]
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    for command in (making, renaming):
        subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True)
    declared = {
        Requirement(line).name
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    }
    gpu, cpu = (named(tmp_path / f"{target}.txt") for target in ("gpu", "cpu"))
    assert gpu == declared | {"boto3"}
    assert cpu == gpu - {"faiss-gpu"}
    pinned, pinned_cpu = (named(tmp_path / name) for name in ("constraints.txt", "cpu-constraints.txt"))
    assert {"faiss-gpu", "torch", "ray"} <= pinned
    assert pinned_cpu == pinned - {"faiss-gpu"} | {"faiss-cpu"}


def named(path: Path) -> set[str]:
    """Names of the packages that a file asks for."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return {Requirement(line).name for line in lines if line}
