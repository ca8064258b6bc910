"""Finds the cores and the memory that this process may use (cgroup limits included), and checks that a task fits."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from winnow.pipeline.errors import DataError

_SHARE = 0.8  # the rest is for the system, other workers and what an estimate misses
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """Cores that this process may use: the smallest of its affinity and the limits of its cgroups, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *(max(1, math.ceil(quota)) for quota in cgroup_quotas(_CGROUPS, _OWN_CGROUPS))])


def cgroup_quotas(root: Path, own: Path) -> list[float]:
    """All limits of CPU time in cores, from this process's cgroups up to the root; see cgroup_limits."""
    found = []
    for base, group, version in _groups(root, own, "cpu"):
        if version == 1:
            quota, period = _text(base / group / "cpu.cfs_quota_us"), _text(base / group / "cpu.cfs_period_us")
        else:
            quota, _, period = _text(base / group / "cpu.max").partition(" ")
        found += [int(quota) / int(period)] if quota.isdigit() and period.isdigit() else []
    return found


def memory_bytes() -> int:
    """Bytes of memory that this process may use: the smallest of physical memory and the limits of its cgroups."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *cgroup_limits(_CGROUPS, _OWN_CGROUPS)])


def cgroup_limits(root: Path, own: Path) -> list[int]:
    """All memory limits in bytes, from this process's cgroups up to the root; cgroup versions 1 and 2.

    root: where cgroups are mounted. own: the file that lists the cgroups of this process. In a container it may name
    a folder that is not mounted; the container's limit is then at the root. A missing file means no limit.
    """
    names = {1: "memory.limit_in_bytes", 2: "memory.max"}
    texts = (_text(base / group / names[version]) for base, group, version in _groups(root, own, "memory"))
    return [int(text) for text in texts if text.isdigit()]


def _groups(root: Path, own: Path, controller: str) -> Iterator[tuple[Path, Path, int]]:
    """(mount point, cgroup, version) of every cgroup that may limit this process, its parents included."""
    lines = own.read_text().splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        group = Path(path.lstrip("/"))
        if not controllers or controller in controllers.split(","):
            # a limit of any parent group holds for this process too
            for folder in (group, *group.parents):
                yield (root / controller, folder, 1) if controllers else (root, folder, 2)


def _text(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


def check_memory(needed: int, available: int, what: str, remedy: str) -> None:
    """Raises DataError if `needed` bytes are more than 0.8 of `available`. what: names the need in the message."""
    if needed > _SHARE * available:
        raise DataError(
            f"{what} takes {needed / 1e9:.3g} GB, but must fit in {_SHARE} of the {available / 1e9:.3g} GB that the "
            f"worker's machine has; {remedy}"
        )
