"""Temporary folders on this machine's disk, and the removal of those that killed processes left behind.

The owner of a folder holds a lock on a file in it (flock). The system frees the lock when the process ends, however it
ends, so a folder whose lock is free has no owner. This also holds between containers that share one /tmp, where a
process id says nothing.
"""

import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "winnow-"
_LOCK = "lock"
_YOUNG_S = 60.0  # a folder may be this young and not locked yet
_SWEPT = threading.Lock()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder in the system's temporary folder (TMPDIR), removed at the end of the block.

    The first call in a process also removes the folders that killed processes of this user left there.
    """
    if _SWEPT.acquire(blocking=False):  # never released: once in a process
        remove_ownerless(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, open(Path(folder, _LOCK), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        inner = Path(folder, "files")
        inner.mkdir()
        yield inner


def remove_ownerless(parent: Path) -> int:
    """Remove the scratch folders in `parent` whose owner is gone; returns how many there were.

    Folders of other users, and those younger than a minute, are left alone.
    """
    removed = 0
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another process may remove it at the same time
            there = folder.lstat()
            if there.st_uid != os.geteuid() or time.time() - there.st_mtime < _YOUNG_S:
                continue
            with open(folder / _LOCK) as lock:  # a folder without this file was not made here
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises BlockingIOError while the owner lives
                shutil.rmtree(folder)
                removed += 1
    return removed
