"""Which Ray cluster a run is for, whatever else there is; one that is dead or hangs is named in time."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pools import Samples, write_vectors
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors import ray_address
from winnow.pipeline.executors.choose import open_executor

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine where nobody said anything of Ray."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def written_down(folder: Path, host: str) -> None:
    """As `ray start` leaves it, and a crash too."""
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text(host)


def test_a_plain_run_is_for_a_cluster_of_its_own_whatever_else_there_is(tmp_path, monkeypatch, capsys):
    written_down(tmp_path, "10.0.0.1:6379")
    assert ray_address.cluster_at(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.2:8265")
    assert ray_address.cluster_at(None) is None
    assert capsys.readouterr().err == (
        "winnow: RAY_ADDRESS is http://10.0.0.2:8265, but the run has a cluster of its own on this machine; "
        "--address auto goes there\n"
    )


def test_auto_is_what_is_said_then_what_is_written_down_then_what_ray_finds(tmp_path, monkeypatch):
    assert ray_address.cluster_at("auto") == "auto"
    written_down(tmp_path, "10.0.0.1:6379")
    assert ray_address.cluster_at("auto") == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert ray_address.cluster_at("auto") == "10.0.0.2:6379"
    assert ray_address.cluster_at("ray://10.0.0.3:10001") == "ray://10.0.0.3:10001"


def test_a_submitted_job_is_for_the_cluster_that_runs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert ray_address.cluster_at(None) == "10.0.0.2:6379"
    written_down(tmp_path, "10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert ray_address.cluster_at(None) == "10.0.0.1:6379"


def test_another_users_trace_is_none(tmp_path, monkeypatch):
    (tmp_path / "ray" / "ray_current_cluster").mkdir(parents=True)  # root may read all files
    assert ray_address.cluster_at("auto") == "auto"


@pytest.fixture(params=["silent", "http"])
def no_cluster(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port where something answers that is no Ray: nothing at all, or as the dashboard does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(99)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        if request.param == "http":
            threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize("way", ["{host}", "ray://{host}", "auto"])
def test_an_address_where_no_cluster_answers_is_named_soon(no_cluster, way, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_address, "_ANSWER_S", 0.5)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    host = f"127.0.0.1:{no_cluster}"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(host)
    started = time.monotonic()
    with pytest.raises(JobError, match=rf"must answer at the address (ray://)?{host}, but: .*port of its GCS"):
        open_executor("ray", None, way.format(host=host))
    assert time.monotonic() - started < 5


def test_an_address_that_nobody_holds_is_named_by_us_and_one_that_is_none_by_ray(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", host)
    with pytest.raises(JobError, match=f"must answer at the address {host}, but: .*refused"):
        open_executor("ray", None, "auto")
    for address in ("nowhere", "auto", "host:port", ""):
        ray_address.check_answers(address)


def test_a_cluster_that_answers_is_found(ray_cluster):
    import ray

    ray_address.check_answers(ray.get_runtime_context().gcs_address)


@pytest.fixture
def hanging() -> Iterator[str]:
    """A host where something opens HTTP/2 as a cluster does, and then says no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])
                    with contextlib.suppress(OSError):  # it has left already
                        held[-1].sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))

        threading.Thread(target=answer, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


def job(folder: Path, name: str = "job") -> Path:
    shards = list(write_vectors(str(folder / "pool"), Samples.drawn(20), 2))
    values: dict[str, Any] = {
        "name": name,
        "store": str(folder / name),
        "pool": {"shards": shards, "format": "vectors", "text": "text", "encoder": "clip"},
        "policy": [{"random": {"fraction": 0.5}}],
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{name}.yaml"


def test_a_cluster_that_hangs_is_given_up(hanging):
    started = time.monotonic()
    with pytest.raises(JobError, match=f"at {hanging} must accept a driver within 1 seconds"):
        ray_address.check_connects(hanging, 1)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_waits_for_a_cluster_hears_signals(tmp_path, hanging, number, code):
    command = [sys.executable, "-m", "winnow.jobs", "run", str(job(tmp_path)), "--address", hanging]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def trying() -> list[Path]:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [path for child in children if b"ray.init" in (path := Path("/proc", child, "cmdline")).read_bytes()]

    while not (children := trying()):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)  # it waits for it by now
    process.send_signal(number)
    started = time.monotonic()
    said = process.communicate(timeout=60)[1]
    assert time.monotonic() - started < 20
    assert process.returncode == code, said
    assert said.splitlines()[-1] == "winnow: stopped; the same command resumes"
    assert not [child for child in children if child.exists()]


@contextlib.contextmanager
def started(host: str, environment: dict[str, str]) -> Iterator[Path]:
    """A real `ray start` at a host; the file in which it leaves its address."""
    words = f"start --head --block --port={host.partition(':')[2]} --num-cpus=1 --object-store-memory=80000000"
    cluster = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), *words.split(), "--include-dashboard=false"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    trace = Path(environment["RAY_TMPDIR"], "ray", "ray_current_cluster")
    try:
        while not trace.exists():
            assert cluster.poll() is None
            time.sleep(0.2)
        yield trace
    finally:
        cluster.terminate()
        cluster.wait(60)


@pytest.fixture
def host() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def start() -> Iterator[dict[str, str]]:
    """What a cluster and its drivers are started with; a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="w-") as short:
        loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_raylet_start_wait_time_s": "120"}
        yield {**os.environ, **loopback, "RAY_TMPDIR": short}


def ran(file: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "winnow.jobs", "run", str(file), "--workers", "1", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture
def with_token(tmp_path: Path, start: dict[str, str]) -> dict[str, str]:
    """The same on a machine that has a token."""
    (tmp_path / "token").write_text("0" * 64)
    return {**start, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}


@pytest.mark.timeout(600)
def test_beside_a_living_cluster_and_a_dead_one(tmp_path, host, with_token):
    """A real `ray start` without tokens: `auto` finds it by its trace; a plain run leaves it and a dead trace alone.

    A token that is sent to it would have every worker taken for given up.
    """
    said = {**with_token, "RAY_ADDRESS": host}
    with started(host, {**with_token, "RAY_AUTH_MODE": "disabled"}) as trace:
        inside = ran(job(tmp_path, "inside"), with_token, "--address", "auto")
        trace.write_text("127.0.0.1:1")
        beside = ran(job(tmp_path, "beside"), said)
    dead = ran(job(tmp_path, "dead"), said, "--address", "auto")
    assert inside.returncode == 0, inside.stderr
    assert "of its own" not in inside.stderr
    assert beside.returncode == 0, beside.stderr
    assert f"RAY_ADDRESS is {host}, but the run has a cluster of its own" in beside.stderr
    assert dead.returncode == 2
    assert dead.stderr.startswith(f"winnow: a Ray cluster must answer at the address {host}, but: ")


@pytest.mark.timeout(300)
def test_a_token_is_sent_to_a_cluster_that_asks_for_one(tmp_path, host, with_token):
    with started(host, {**with_token, "RAY_AUTH_MODE": "token"}):
        inside = ran(job(tmp_path), with_token, "--address", host)
    assert inside.returncode == 0, inside.stderr
