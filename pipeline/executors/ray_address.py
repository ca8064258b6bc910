"""Finds the Ray cluster for a run, and checks within seconds that it answers and accepts a driver."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from winnow.pipeline.errors import JobError

CONNECT_S = 60.0
"""Seconds within which a cluster that answers must accept a driver."""

_ANSWER_S = 5.0
_CONNECT = """
import signal, sys
signal.alarm(int(float(sys.argv[2])) + 5)  # ends this process even if its parent was killed
import ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="error")
ray.shutdown()
"""
_SETTINGS = 4  # the type of the frame that opens an HTTP/2 connection
_TOKEN = "RAY_AUTH_MODE"
_ASKS = "InvalidAuthToken"  # in Ray's message if a cluster asks for a token, or for another one


def cluster_at(address: str | None) -> str | None:
    """The address of a cluster; `auto` if nothing names one, so that Ray looks for it; None to start one."""
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
    """Whether Ray's job server started this process, for `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _written_down() -> str:
    """The address that `ray start` recorded for this machine's cluster; "" if there is none."""
    path = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        return path.read_text().strip()
    except (OSError, ValueError):  # there is no file, or it is another user's
        return ""


def check_connects(address: str, within_s: float) -> None:
    """Raises JobError if a cluster does not accept a driver. A child process tries it, and is ended in time.

    Ray waits forever for a cluster with a dead or hanging part, in a call that no signal interrupts. Ray's token is
    sent only to a cluster that asks for one: the workers of any other cluster could not call back, and it would
    consider all of them lost.
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
    """What Ray printed in a process that did not connect; "" if it connected."""
    with subprocess.Popen(
        [sys.executable, "-c", _CONNECT, address, str(within_s)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches only this process, which ends the child
    ) as trying:
        try:
            said = trying.communicate(timeout=within_s)[1].strip()
        except subprocess.TimeoutExpired as error:
            raise JobError(
                f"the Ray cluster at {address} must accept a driver within {within_s:g} seconds, but it only answers; "
                "check with `ray status` that all of its processes run, and that this machine belongs to it"
            ) from error
        finally:
            trying.kill()
            trying.wait()  # `with` does not wait if Ctrl-C leaves it
    return (said or f"exit code {trying.returncode}") if trying.returncode else ""


def _has_token() -> bool:
    """Whether this machine has Ray's token, which a cluster writes when it starts with one."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()


def check_answers(address: str) -> None:
    """Raises JobError if an address is host:port, with or without ray://, and no gRPC server answers there.

    Ray itself tries a dead address for two minutes, and even longer if something else answers there, such as its own
    dashboard.
    """
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = place.hostname, place.port
    except ValueError:  # Ray reports what is wrong with the address
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
            f"a Ray cluster must answer at the address {address}, but: {error}; check that it runs, and that this is "
            "the port of its GCS (6379) or, for ray://, of its client server (10001)"
        ) from error


def _speaks_grpc(connection: socket.socket) -> bool:
    """True if the other side speaks HTTP/2 (RFC 9113, 3.4): send preface and empty settings, receive settings."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0)))
    frame = connection.recv(9, socket.MSG_WAITALL)
    return len(frame) == 9 and frame[3] == _SETTINGS
