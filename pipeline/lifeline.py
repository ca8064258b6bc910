"""Ends a child process when its parent is gone, even by SIGKILL, and a process in which a thread hangs."""

import os
import signal
import sys
import threading
from collections.abc import Callable

WATCHED = "until-stdin-ends"
"""Argument that tells a child process that its stdin is a pipe which only its parent holds open."""

_LEFT: list[threading.Thread] = []  # threads that hang


def end_with_starter(end: Callable[[], object]) -> None:
    """Call `end` in a thread once the pipe on stdin is closed: the parent closed it, or the parent is gone.

    The kernel closes the pipes of a process however it ends. Children that are started later inherit an empty stdin
    instead of the pipe; start those that must watch the pipe too before this call.
    """
    # keep the pipe under another number and put /dev/null on 0, so that nothing else reads from the pipe
    held = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_wait, args=(held, end), name="lifeline", daemon=True).start()


def end_group() -> None:
    """Send SIGTERM to this process and all of its process group."""
    os.killpg(os.getpgrp(), signal.SIGTERM)


def end_self() -> None:
    """Send SIGTERM to this process, whose handler may clean up."""
    os.kill(os.getpid(), signal.SIGTERM)


def left_behind(thread: threading.Thread) -> None:
    """Mark a thread that hangs: the process will end without waiting for it."""
    _LEFT.append(thread)


def end_without_them(code: object) -> None:
    """End this process with its exit code, at once, if a thread that was left behind still runs.

    Otherwise Python aborts the process if such a thread wakes up in a C++ library while the process ends.
    """
    if any(thread.is_alive() for thread in _LEFT):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _wait(held: int, end: Callable[[], object]) -> None:
    while os.read(held, 64):  # blocks; returns nothing once the last writer is gone
        pass
    end()
