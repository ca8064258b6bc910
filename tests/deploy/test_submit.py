"""A job submitted to a real Ray cluster leaves a whole manifest; its server refuses whoever has no token."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.deploy.decoys import plant

REPOSITORY = Path(__file__).parents[2]
RUNTIME_ENV = REPOSITORY / "deploy" / "runtime_env.yaml"
RAY = str(Path(sys.executable).with_name("ray"))
SAMPLES_PER_SHARD = 30
SHARDS = 2
WIDTH = 8


@dataclass(frozen=True)
class Cluster:
    """A head node on loopback. environment: what a client needs, its token too."""

    address: str
    environment: dict[str, str]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head node with job server and token authentication, its ports and folder its own."""
    gcs, dashboard, client, agent, runtime_agent, metrics = _free_ports(6)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid.uuid4().hex,
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        # the job server starts `python`, which must be the one that runs this test
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    # not pytest's folder: the path of a unix socket has room for 107 bytes
    folder = tempfile.mkdtemp(prefix="winnow-ray-")
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "runtime-env-agent-port": runtime_agent,
        "metrics-export-port": metrics,
        "include-dashboard": "true",
        "num-cpus": 2,
        "object-store-memory": 100 << 20,
        "temp-dir": folder,
    }
    command = [RAY, "start", "--head", "--block", *[f"--{name}={value}" for name, value in options.items()]]
    with Path(folder, "start.log").open("wb") as log:
        head = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        _wait_until_up(address, head, Path(folder, "start.log"))
        yield Cluster(address, environment)
    finally:
        _stop(head)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_submitted_job_leaves_a_whole_manifest(cluster: Cluster, tmp_path: Path) -> None:
    working_dir = _working_dir(tmp_path / "work", tmp_path)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{cluster.address}/api/jobs/", timeout=10)

    command = [RAY, "job", "submit", "--address", cluster.address, "--working-dir", str(working_dir)]
    command += ["--runtime-env", str(_without_pip(tmp_path))]
    assert "succeeded" in _submitted(command, cluster, tmp_path)
    record = json.loads((tmp_path / "store/jobs/tiny.json").read_text())
    pool = SHARDS * SAMPLES_PER_SHARD
    assert record["counts"]["pool"] == pool
    assert record["counts"]["kept"] == pool // 4
    manifest = tmp_path / "store" / record["artifacts"]["manifest"]
    rows = pa.concat_tables([pq.read_table(path) for path in sorted(manifest.glob("*.parquet"))])
    assert rows.num_rows == pool
    kept = rows.filter(rows["kept"])
    assert sorted(kept["uid"].to_pylist()) == [f"{a:016x}{b:016x}" for a, b in np.load(f"{manifest}.meta/uids.npy")]


def test_a_working_directory_with_folders_of_the_same_names(cluster: Cluster, tmp_path: Path) -> None:
    """A user's own repository is submitted; winnow is installed on the cluster, and takes none of its folders."""
    work = tmp_path / "work"
    plant(work)
    _tiny_job(work, tmp_path)
    command = [RAY, "job", "submit", "--address", cluster.address, "--working-dir", str(work)]
    _submitted(command, cluster, tmp_path)
    record = json.loads((tmp_path / "store/jobs/tiny.json").read_text())
    assert record["counts"]["kept"] == SHARDS * SAMPLES_PER_SHARD // 4


def test_the_runtime_env_installs_what_the_package_needs() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    packages = yaml.safe_load(RUNTIME_ENV.read_text())["pip"]["packages"]
    first, *installed = packages
    assert first == "-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"
    # a cluster brings its own Ray, and refuses a job that would install another
    assert set(installed) == {one for one in declared if not one.startswith("ray[default]")}


def test_pools_stores_weights_and_environments_stay_at_home(tmp_path: Path) -> None:
    """What Ray's own packing takes of a working directory that has them all, by either list."""
    excludes = yaml.safe_load(RUNTIME_ENV.read_text())["excludes"]
    listed = [line for line in (REPOSITORY / ".rayignore").read_text().splitlines() if not line.startswith("#")]
    assert excludes == listed
    taken = ["mine.yaml", "jobs/cli.py", "jobs/pocket.json", "jobs/report/page.css", "constraints.txt", "truth.csv"]
    left = ["data/0.jpg", "data/deep/0.txt", "out/store/jobs/a.json", ".venv/bin/python", "venv/lib/x.py", ".git/HEAD"]
    left += ["0.tar", "pool/0.tar", "pool/0.tar.gz", "pool/0.parquet", "pool/0.npz", "weights/epoch_6.pt", "docs/a.md"]
    left += ["jobs/__pycache__/cli.pyc", "tests/test_a.py", "uids.npy", "model.safetensors", ".mypy_cache/x.json"]
    folder = tmp_path / "work"
    for name in (*taken, *left):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    assert _packed(folder, excludes) == sorted(taken)
    shutil.copy(REPOSITORY / ".rayignore", folder)
    assert _packed(folder, []) == sorted([*taken, ".rayignore"])


def test_the_repository_is_a_small_package() -> None:
    found = _packed(REPOSITORY, [])
    assert {"jobs/cli.py", "pipeline/executors/on_ray.py", "stages/policy.py", "constraints.txt"} <= set(found)
    assert {Path(name).parts[0] for name in found} & {"data", "out", ".venv", "tests", "docs", ".git"} == set()
    assert sum((REPOSITORY / name).stat().st_size for name in found) < 5e6


def _packed(folder: Path, excludes: list[str]) -> list[str]:
    """Names of the files that Ray would upload."""
    script = (
        "import sys; from ray._private.runtime_env.packaging import create_package; from pathlib import Path; "
        "create_package(sys.argv[1], Path(sys.argv[2]), include_gitignore=True, excludes=sys.argv[3:])"
    )
    with tempfile.TemporaryDirectory() as target:
        package = Path(target, "package.zip")
        subprocess.run([sys.executable, "-c", script, str(folder), str(package), *excludes], check=True, timeout=120)
        with zipfile.ZipFile(package) as file:
            return sorted(name for name in file.namelist() if not name.endswith("/"))


def test_the_runtime_env_is_one_that_ray_knows() -> None:
    check = "import sys, yaml; from ray.runtime_env import RuntimeEnv; RuntimeEnv(**yaml.safe_load(sys.stdin))"
    subprocess.run([sys.executable, "-c", check], input=RUNTIME_ENV.read_bytes(), check=True, timeout=60)


def _submitted(command: list[str], cluster: Cluster, folder: Path) -> str:
    """What a submitted run of the tiny job said; it must succeed."""
    done = subprocess.run(
        [*command, "--", "python", "-m", "winnow.jobs", "run", "tiny.yaml"],
        env=cluster.environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _working_dir(folder: Path, tmp_path: Path) -> Path:
    """The package, as `ray job submit --working-dir .` sends them, and a tiny job beside them."""
    for package in ("pipeline", "stages", "jobs"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "winnow.py", folder)
    return _tiny_job(folder, tmp_path)


def _tiny_job(folder: Path, tmp_path: Path) -> Path:
    """A tiny job in a folder, over a pool and a store beside it."""
    (tmp_path / "pool").mkdir()
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        vectors = {name: rng.normal(size=(SAMPLES_PER_SHARD, WIDTH)) for name in ("image", "text")}
        columns = {name: pa.array(list(values), pa.list_(pa.float64())) for name, values in vectors.items()}
        captions = [f"a picture of thing {shard} {row}" for row in range(SAMPLES_PER_SHARD)]
        pq.write_table(pa.table({"caption": captions, **columns}), tmp_path / f"pool/{shard:05d}.parquet")
    job = {
        "name": "tiny",
        "store": str(tmp_path / "store"),
        "pool": {
            "shards": f"{tmp_path}/pool/*.parquet",
            "format": "vectors",
            "text": "text",
            "encoder": "clip",
        },
        "policy": [
            {"similarity": {"by": "clip", "fraction": 0.5}},
            {"density": {"by": "clip", "fraction": 0.5, "clusters": 4}},
        ],
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(job))
    return folder


def _without_pip(folder: Path) -> Path:
    """The runtime environment of deploy/ without its installation: what it would install is here already."""
    values = yaml.safe_load(RUNTIME_ENV.read_text())
    del values["pip"]
    path = folder / "runtime_env.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _free_ports(count: int) -> list[int]:
    # all are open at once, so that no two are the same
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _wait_until_up(address: str, head: "subprocess.Popen[bytes]", log: Path, timeout_s: float = 60) -> None:
    """Until the job server answers, be it that it refuses."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and head.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/jobs/", timeout=5)
        except urllib.error.HTTPError as error:
            if error.code == 401:
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"Ray's job server must answer within {timeout_s:g} s:\n{log.read_text(errors='replace')}")


def _stop(head: "subprocess.Popen[bytes]") -> None:
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(20)
    finally:
        for process in _session(head.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        head.wait(10)


def _session(leader: int) -> list[int]:
    """Processes that the head node started and that are left: those of its session."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # one that has ended meanwhile is no longer in any session
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(process.name)) == leader:
                found.append(int(process.name))
    return found
