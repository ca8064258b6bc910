"""Measures the time of each step of an executor, and the memory of its processes.

Linux only: VmHWM of /proc/<pid>/status is a process's peak resident memory since 5 was written to clear_refs.
"""

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from winnow.pipeline.executors.watching import Done

_PROC = Path("/proc")
_POLL_S = 1.0  # one look costs some milliseconds of a core


@dataclass
class Lap:
    """One step: seconds, peak resident bytes of the driver and of any worker, and sums over all processes.

    own: peak bytes of a worker without shared memory, such as Ray's object store, sampled once per second.
    cpu: CPU seconds, which other programs on the machine hardly change. read, written: bytes, by system calls.
    """

    name: str
    seconds: float = 0.0
    driver: int = 0
    worker: int = 0
    own: int = 0
    cpu: float = 0.0
    read: int = 0
    written: int = 0


def workers_of(parent: int) -> list[int]:
    """Ray's workers below a process."""
    parents: dict[int, int] = {}
    named = []
    for folder in _PROC.glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            if (folder / "cmdline").read_bytes().startswith(b"ray::"):
                named.append(int(folder.name))
        except OSError:  # the process ended meanwhile
            continue
    return [pid for pid in named if _is_below(pid, parent, parents)]


def _is_below(pid: int, parent: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != parent:
        pid = parents[pid]
    return pid == parent


def _field(pid: int, file: str, name: str) -> int:
    """A number of /proc/<pid>/<file>; 0 for a process that has ended."""
    try:
        lines = (_PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _forget_peak(pid: int) -> None:
    try:
        (_PROC / str(pid) / "clear_refs").write_text("5")
    except OSError:  # the process has ended
        return


def peak_bytes(forget: bool = False) -> int:
    """Peak resident bytes of this process since the last reset."""
    peak = 1024 * _field(os.getpid(), "status", "VmHWM")
    if forget:
        _forget_peak(os.getpid())
    return peak


@dataclass(frozen=True)
class Spent:
    """CPU seconds and bytes of a process since it began."""

    cpu: float = 0.0
    read: int = 0
    written: int = 0

    @classmethod
    def of(cls, pid: int) -> "Spent":
        """Read them from /proc; zeros for a process that has ended."""
        try:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return cls()
        ticks = int(fields[11]) + int(fields[12])  # utime and stime
        return cls(ticks / os.sysconf("SC_CLK_TCK"), _field(pid, "io", "rchar"), _field(pid, "io", "wchar"))


@dataclass
class Meter:
    """A watcher that records a lap per pass. A lap lasts until the next begins, or until `stop`.

    laps: by name, in order of first use. A name is the label of the passes, without their number.
    """

    laps: dict[str, Lap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lap: Lap | None = None
        self._started = 0.0
        self._spent: dict[int, Spent] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._poll, daemon=True).start()

    def begin(self, stage: str, total: int, ready: int) -> None:
        """See Watcher.begin."""
        self._begin(stage)

    def done(self, item: Done) -> None:
        """See Watcher.done."""

    def end(self, stage: str, seconds: float) -> None:
        """See Watcher.end. The driver's work after the pass belongs to the lap."""

    def avoided(self, node: str, error: str) -> None:
        """See Watcher.avoided."""

    def made(self, label: str, artifact: str, seconds: float, reused: bool) -> None:
        """See Watcher.made."""
        self.stop()

    def close(self) -> None:
        """Stop looking at processes."""
        self.stop()
        self._ended.set()

    def _begin(self, label: str) -> None:
        name = label.partition(" (")[0].partition(",")[0]
        if self._lap is None or self._lap.name != name:
            self.stop()
            with self._lock:
                for pid in (os.getpid(), *workers_of(os.getpid())):
                    _forget_peak(pid)
                    self._spent[pid] = Spent.of(pid)
                self._started = time.perf_counter()
                self._lap = self.laps.setdefault(name, Lap(name))

    def stop(self) -> None:
        """End the lap at the end of a stage."""
        if self._lap is not None:
            self._lap.seconds += time.perf_counter() - self._started
            self._look()
            self._lap = None

    def _look(self) -> None:
        """Record peaks and bytes so far, because a worker takes its counters with it when it ends."""
        with self._lock:
            lap, driver = self._lap, os.getpid()
            if lap is None:
                return
            for pid in (driver, *workers_of(driver)):
                peak = 1024 * _field(pid, "status", "VmHWM")
                if pid == driver:
                    lap.driver = max(lap.driver, peak)
                else:
                    lap.worker = max(lap.worker, peak)
                    lap.own = max(lap.own, 1024 * _field(pid, "status", "RssAnon"))
                before, now = self._spent.get(pid, Spent()), Spent.of(pid)
                lap.cpu += max(0.0, now.cpu - before.cpu)  # an ended process shows zeros
                lap.read += max(0, now.read - before.read)
                lap.written += max(0, now.written - before.written)
                self._spent[pid] = now

    def _poll(self) -> None:
        while not self._ended.wait(_POLL_S):
            self._look()
