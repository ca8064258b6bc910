"""Finds how much memory this process may use (cgroup limits included), and checks that a task fits into it."""

import os
from pathlib import Path

from winnow.pipeline.errors import DataError

_SHARE = 0.8  # the rest is for the system, other workers and what an estimate misses
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def memory_bytes() -> int:
    """Bytes of memory that this process may use: the smallest of physical memory and the limits of its cgroups."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *cgroup_limits(_CGROUPS, _OWN_CGROUPS)])


def cgroup_limits(root: Path, own: Path) -> list[int]:
    """All memory limits in bytes, from this process's cgroups up to the root; cgroup versions 1 and 2.

    root: where cgroups are mounted. own: the file that lists the cgroups of this process. In a container it may name
    a folder that is not mounted; the container's limit is then at the root. A missing file means no limit.
    """
    found = []
    lines = own.read_text().splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = Path(path.lstrip("/"))
        # a limit of any parent group holds for this process too
        for folder in (group, *group.parents):
            limit = base / folder / name
            text = limit.read_text().strip() if limit.exists() else "max"
            found += [int(text)] if text.isdigit() else []
    return found


def check_memory(needed: int, available: int, what: str, remedy: str) -> None:
    """Raises DataError if `needed` bytes are more than 0.8 of `available`. what: names the need in the message."""
    if needed > _SHARE * available:
        raise DataError(
            f"{what} takes {needed / 1e9:.3g} GB, but must fit in {_SHARE} of the {available / 1e9:.3g} GB that the "
            f"worker's machine has; {remedy}"
        )
