"""Starts a driver as a process of its own and tells its workers; ends only what it started."""

import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN_S = 240.0
"""Longest that one run may take."""


class Driver:
    """A Python module that drives an executor. log: file that gets its output."""

    def __init__(self, module: str, *words: str, log: Path, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", module, *words]
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self._log, stderr=self._log, start_new_session=True
        )
        self._end = time.monotonic() + RUN_S
        self._seen: set[tuple[int, str]] = set()
        self._looked = 0.0

    @property
    def running(self) -> bool:
        """Whether it still runs, within its time."""
        if time.monotonic() - self._looked > 0.5:  # a look at all processes costs some milliseconds
            self._looked = time.monotonic()
            self._seen |= descendants(self._process.pid)
        return self._process.poll() is None and time.monotonic() < self._end

    @property
    def code(self) -> int | None:
        """Exit code; None where it had to be ended."""
        return self._process.poll()

    def workers(self) -> list[int]:
        """Processes of Ray actors that this driver's own cluster runs."""
        return [pid for pid, _ in sorted(descendants(self._process.pid)) if is_worker(pid)]

    def kill(self) -> None:
        """SIGKILL to the driver alone; what it leaves behind has some seconds to notice."""
        self._seen |= descendants(self._process.pid)
        self._process.kill()
        self._process.wait()

    def wait(self) -> int | None:
        """Until it ends; its exit code."""
        while self.running:
            time.sleep(0.05)
        return self.code

    def close(self) -> None:
        """End it, and what it left, if anything."""
        self._seen |= descendants(self._process.pid)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        end = time.monotonic() + 6
        while any(_is(*found) for found in self._seen) and time.monotonic() < end:
            time.sleep(0.1)
        for pid, started in self._seen:
            if _is(pid, started):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._log.close()


@contextmanager
def driving(job: Path, *words: str, environment: dict[str, str] | None = None) -> Iterator[Driver]:
    """`winnow run` of a job file, ended with the block."""
    command = ["winnow.jobs", "run", str(job), "--workers", "2", *words]
    with started(*command, log=job.with_suffix(".log"), environment=environment) as driver:
        yield driver


@contextmanager
def started(module: str, *words: str, log: Path, environment: dict[str, str] | None = None) -> Iterator[Driver]:
    """A driver that is ended with the block."""
    driver = Driver(module, *words, log=log, environment=environment)
    try:
        yield driver
    finally:
        driver.close()


def is_worker(pid: int) -> bool:
    """True for a process that runs the executor's actor."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Worker")
    except OSError:
        return False


def descendants(root: int) -> set[tuple[int, str]]:
    """(pid, time of its start) of all processes below one."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if (found := _stat(int(folder.name))) is not None:
            parents.setdefault(found[0], []).append((int(folder.name), found[1]))
    below, todo = set[tuple[int, str]](), [root]
    while todo:
        children = parents.get(todo.pop(), [])
        below.update(children)
        todo += [pid for pid, _ in children]
    return below


def listening(root: int) -> set[tuple[str, str]]:
    """(address, command) of every TCP socket on which a process or one below it accepts connections."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for fields in (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]):
            if fields[3] == "0A":  # LISTEN
                addresses[f"socket:[{fields[9]}]"] = _address(fields[1].partition(":")[0])
    found = set()
    for pid in (root, *(pid for pid, _ in descendants(root))):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            command = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if (target := os.readlink(link)) in addresses:
                        found.add((addresses[target], Path(command).name.strip()))
    return found


def _address(digits: str) -> str:
    """As people write it: the kernel shows words of 32 bits, each in the order of the machine."""
    words = [int(digits[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return str(getattr(address, "ipv4_mapped", None) or address)


def _stat(pid: int) -> tuple[int, str] | None:
    """(parent, time of start): a pid that comes again has another."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), fields[19]


def _is(pid: int, started: str) -> bool:
    found = _stat(pid)
    return found is not None and found[1] == started
