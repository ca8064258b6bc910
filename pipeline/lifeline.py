"""Ends a child process when the process that started it is gone, even by SIGKILL."""

import os
import signal
import threading
from collections.abc import Callable

WATCHED = "until-stdin-ends"
"""Word on the command line of a process whose stdin is a pipe that only its starter holds open."""


def end_with_starter(end: Callable[[], object]) -> None:
    """Call `end`, in a thread, once the pipe on stdin ends: its starter closed it, or is gone.

    The kernel closes the pipe of a process however it goes. Children inherit an empty stdin in its place; those that
    shall watch the same pipe must be started before.
    """
    held = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_wait, args=(held, end), name="lifeline", daemon=True).start()


def end_group() -> None:
    """SIGTERM to this process and all of its group."""
    os.killpg(os.getpgrp(), signal.SIGTERM)


def end_self() -> None:
    """SIGTERM to this process, which may have a handler for it."""
    os.kill(os.getpid(), signal.SIGTERM)


def _wait(held: int, end: Callable[[], object]) -> None:
    while os.read(held, 64):
        pass
    end()
