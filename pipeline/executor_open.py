"""Opens the executor that a job asks for by name; refuses any name but local and ray, and an address that is dead."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import JobError
from pipeline.executor import Executor, Forwarding, Item, Needs, Regroup, Result, State, Task
from pipeline.executor_local import LocalExecutor
from pipeline.metrics_ray import RayMetrics
from pipeline.watching import Watcher

_ANSWER_S = 5.0
_SETTINGS = 4  # the type of the frame that opens an HTTP/2 connection


def open_executor(kind: str, workers: int | None, address: str | None) -> Executor:
    """The executor called `local` or `ray`; workers None means one per core.

    address: of a running Ray cluster (`auto` for the one this machine belongs to); None starts a local one with the
    first work, which listens on loopback only. Raises JobError where no cluster answers at an address, within about 20
    seconds, whether or not there is work.
    """
    if kind == "local":
        if address:
            raise JobError("--address names a Ray cluster, so it goes with --executor ray, not local")
        return LocalExecutor(workers)
    if kind == "ray":
        _prepare_ray(address or os.environ.get("RAY_ADDRESS"))
        return _WithWork(partial(_ray, workers, address))
    raise JobError(f"the executor must be 'local' or 'ray', but {kind!r} came")


class _WithWork(Forwarding):
    """An executor that is opened when it has work: where all is done already, a run waits for no cluster."""

    def __init__(self, opening: Callable[[], Executor]) -> None:
        self._opening = opening

    @cached_property
    def _inner(self) -> Executor:  # type: ignore[override]  # made when it is first asked for
        return self._opening()

    def map(
        self, task: Task[State, Item, Result], items: Sequence[Item], label: str, needs: Needs
    ) -> Iterator[tuple[int, Result]]:
        """See Executor.map."""
        return self._inner.map(task, items, label, needs) if items else iter(())

    def regroup(self, work: Regroup[Item, Result], items: Sequence[Item], label: str) -> Iterator[tuple[int, Result]]:
        """See Executor.regroup."""
        return self._inner.regroup(work, items, label) if items else iter(())

    def close(self) -> None:
        """See Executor.close."""
        if "_inner" in vars(self):
            self._inner.close()


def _ray(workers: int | None, address: str | None) -> Executor:
    # importing ray costs a second, which the local executor and its tests need not pay
    from pipeline.executor_ray import RayExecutor

    return RayExecutor(workers, address)


def open_metrics(kind: str, job: str) -> tuple[Watcher, ...]:
    """Who counts what an executor of this kind does, for Prometheus; nobody without Ray."""
    return (RayMetrics(job),) if kind == "ray" else ()


def _prepare_ray(address: str | None) -> None:
    """Check the address; set what Ray reads from the environment when it is imported, and only then."""
    # of calls that nobody waits for any more, where another one has ended the run and told why
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if address:
        check_answers(_written_down() if address == "auto" else address)
    else:
        # made for laptops whose firewall asks: the node is 127.0.0.1, and all of its ports are bound to that
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _written_down() -> str:
    """Where `ray start` left the address of this machine's cluster; empty where it left none."""
    path = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    return path.read_text().strip() if path.is_file() else ""


def check_answers(address: str) -> None:
    """Raises JobError where an address is host:port, with or without ray://, and no gRPC server answers there.

    Ray itself asks an address that is dead for two minutes, and one where something else answers, such as its own
    dashboard, even longer.
    """
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = place.hostname, place.port
    except ValueError:  # Ray says what is wrong with it
        return
    if host is None or port is None:
        return
    try:
        with socket.create_connection((host, port), _ANSWER_S) as connection:
            connection.settimeout(_ANSWER_S)
            if not os.environ.get("RAY_USE_TLS") and not _speaks_grpc(connection):
                raise ConnectionError("what answers there is not Ray")
    except OSError as error:
        raise JobError(
            f"a Ray cluster must answer at the address {address}, but: {error}; is it up, and is this the port of its "
            f"GCS (6379), or with ray:// that of its client server (10001)?"
        ) from error


def _speaks_grpc(connection: socket.socket) -> bool:
    """True where the other side opens HTTP/2 (RFC 9113, 3.4): preface and empty settings go out, settings come back."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0)))
    frame = connection.recv(9, socket.MSG_WAITALL)
    return len(frame) == 9 and frame[3] == _SETTINGS
