"""Tells how much memory this process may use, and checks that some work fits into it."""

import os
from pathlib import Path

from winnow.pipeline.errors import DataError

_SHARE = 0.8  # the rest is for the system, the other workers and what a count forgets
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def memory_bytes() -> int:
    """Physical memory, or the least limit of the control groups that this process is in, where that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *cgroup_limits(_CGROUPS, _OWN_CGROUPS)])


def cgroup_limits(root: Path, own: Path) -> list[int]:
    """Every memory limit from this process's control groups up to the root, in bytes; versions 1 and 2.

    root: where the groups are mounted. own: the file that names those of this process; inside a container it may
    name a folder that is not mounted, and the container's own limit lies at the root. No file, no limit.
    """
    found = []
    lines = own.read_text().splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            limit = base / folder / name
            text = limit.read_text().strip() if limit.exists() else "max"
            found += [int(text)] if text.isdigit() else []
    return found


def check_memory(needed: int, available: int, what: str, remedy: str) -> None:
    """Raises DataError where `needed` bytes are more than 0.8 of `available`; what: shows where they come from."""
    if needed > _SHARE * available:
        raise DataError(
            f"{what} takes {needed / 1e9:.3g} GB, but must fit in {_SHARE} of the {available / 1e9:.3g} GB that the "
            f"worker's machine has; {remedy}"
        )
