"""Real servers that a test may ask for, started once, never by themselves: a Ray cluster, an S3 store, faults."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from hypothesis import settings

from tests.faults import FaultyProxy
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor

CPUS = 2

# the first example pays for imports, and a busy machine for its neighbours: pytest's timeout ends what hangs
settings.register_profile("winnow", deadline=None)
settings.load_profile("winnow")


_LONG = (
    "pipeline/executors/test_ray_pool",
    "pipeline/executors/test_ray_address",
    "deploy/test_wheel",
    "jobs/test_run",
)
"""Files whose tests mostly wait for processes that start, up to a minute each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait come first: of several processes, none is left alone with them at the end.

    Those that need Ray follow. The first process gets most of them, so fewer processes start a cluster.
    """
    here = Path(__file__).parent

    def turn(item: pytest.Item) -> int:
        if item.path.relative_to(here).with_suffix("").as_posix() in _LONG:
            return 0
        return 1 if "[ray" in item.name or "ray_cluster" in getattr(item, "fixturenames", ()) else 2

    items.sort(key=turn)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of two cores that every test of a session shares."""
    with pytest.MonkeyPatch.context() as environment:
        # ray warns that a later version will not hide GPUs from actors which ask for none
        environment.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        environment.setenv("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # as open_executor does
        # a worker imports the task's module, which lies with the tests
        here = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        environment.setenv("PYTHONPATH", here)
        import ray  # only here: whoever asks for no cluster does not pay for the import

        ray.init(
            "local",  # else it joins any cluster of this machine that it finds a trace of
            num_cpus=CPUS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=100 << 20,
            _node_ip_address="127.0.0.1",
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def ray_executor(ray_cluster: None) -> Iterator[Executor]:
    """Two Ray actors; the session's cluster outlives it."""
    from winnow.pipeline.executors.on_ray import RayExecutor

    executor = RayExecutor(CPUS)
    yield executor
    executor.close()


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Each executor in turn."""
    if request.param == "local":
        return LocalExecutor(CPUS)
    found: Executor = request.getfixturevalue("ray_executor")
    return found


@pytest.fixture(scope="session")
def s3_server() -> Iterator[None]:
    """A real S3 server process on a free loopback port, known to clients by the usual environment alone."""
    with pytest.MonkeyPatch.context() as environment, s3_process() as url:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
        }.items():
            environment.setenv(name, value)
        yield


@contextmanager
def s3_process() -> Iterator[str]:
    """The address of an S3 server while the block runs."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until(lambda: _listens(port), "the S3 server must listen")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def faulty(s3_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the S3 server that this process and its children go through; it passes all until it is told."""
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"]).running() as proxy:
        client = {"endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 1, "connect_timeout": 1}}
        monkeypatch.setitem(fsspec.config.conf, "s3", client)  # of this process
        monkeypatch.setenv("FSSPEC_S3", json.dumps(client))  # of those it starts
        yield proxy


@pytest.fixture
def counted(faulty: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> FaultyProxy:
    """The same proxy for a client that waits: on a busy machine it would ask again, and its requests be too many."""
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": faulty.url})
    return faulty


@pytest.fixture(scope="session")
def s3_store(s3_server: None) -> str:
    """URL of an empty bucket."""
    import boto3

    boto3.client("s3").create_bucket(Bucket="store")
    return "s3://store"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_until(true: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} within {timeout_s} s")
        time.sleep(0.1)
