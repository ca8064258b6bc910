"""Finds the Ray cluster for a run, and checks within seconds that it answers and accepts a driver."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from winnow.pipeline.errors import JobError

CONNECT_S = 60.0
"""Seconds in which a cluster that answers at its address must take a driver in."""

_ANSWER_S = 5.0
_CONNECT = """
import signal, sys
signal.alarm(int(float(sys.argv[2])) + 5)  # nobody ends it where we were killed
import ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="error")
ray.shutdown()
"""
_SETTINGS = 4  # the type of the frame that opens an HTTP/2 connection
_TOKEN = "RAY_AUTH_MODE"
_ASKS = "InvalidAuthToken"  # in what Ray says where a cluster asks for a token, or for another one


def cluster_at(address: str | None) -> str | None:
    """Where the cluster is; `auto` is left to Ray where nothing says which, None is one of our own."""
    said = os.environ.get("RAY_ADDRESS", "auto")
    if address is None and said != "auto" and not is_submitted():
        print(
            f"winnow: RAY_ADDRESS is {said}, but the run has a cluster of its own on this machine; --address auto goes "
            "there",
            file=sys.stderr,
        )
    asked = address or ("auto" if is_submitted() else None)
    if asked != "auto":
        return asked
    return said if said not in ("", "auto") else _written_down() or asked


def is_submitted() -> bool:
    """Whether Ray's job server started this process, as `ray job submit` asks it to."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _written_down() -> str:
    """Where `ray start` left the address of this machine's cluster; empty where it left none."""
    path = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        return path.read_text().strip()
    except (OSError, ValueError):  # there is none, or another user's
        return ""


def check_connects(address: str, within_s: float) -> None:
    """Raises JobError where a cluster does not take a driver in; a process of its own tries, and is ended in time.

    Ray waits without end for a cluster of which a part is dead or hangs, deep in a call that hears no signal. Ray's
    token is sent to a cluster that asks for one, and to no other: the workers of one that does not could not call back,
    and it would take every one of them for given up.
    """
    refused = _refusal(address, within_s)
    if refused and _ASKS in refused and _TOKEN not in os.environ and _has_token():
        os.environ[_TOKEN] = "token"
        refused = _refusal(address, within_s)
    if refused:
        reason = refused.splitlines()[-1]
        if _ASKS in refused:
            reason = f"it asks for another token than this process sends; set {_TOKEN}=token, and its RAY_AUTH_TOKEN"
        raise JobError(f"a Ray cluster must answer at the address {address}, but: {reason}")


def _refusal(address: str, within_s: float) -> str:
    """What Ray said in a process that did not connect; empty where it did."""
    with subprocess.Popen(
        [sys.executable, "-c", _CONNECT, address, str(within_s)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is for us, who end it
    ) as trying:
        try:
            said = trying.communicate(timeout=within_s)[1].strip()
        except subprocess.TimeoutExpired as error:
            raise JobError(
                f"the Ray cluster at {address} must take a driver in within {within_s:g} seconds, but it answers and "
                "does not; are all of its processes up (`ray status`), and does this machine belong to it?"
            ) from error
        finally:
            trying.kill()
            trying.wait()  # `with` does not, where it is left by Ctrl-C
    return (said or f"exit code {trying.returncode}") if trying.returncode else ""


def _has_token() -> bool:
    """Whether this machine has Ray's token, as it does once a cluster was started with it."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()


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
