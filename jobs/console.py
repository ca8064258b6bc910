"""Starts a console command and ends it: progress and errors on stderr, JSON on stdout, exit codes, and signals.

What a command alone needs is imported when it is called, so that --help and completion are fast.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from winnow.pipeline.errors import WinnowError
from winnow.pipeline.terminal import escaped

if TYPE_CHECKING:
    from winnow.pipeline.executors.contract import Executor


def start(command: typer.Typer, name: str = "winnow") -> None:
    """Run a console command; exit code 0 only when every sample of the pool is accounted for.

    name: what its help calls it. SIGINT and SIGTERM end the workers first, and leave no file half written: exit code
    130 and 143.
    """
    terminated: list[int] = []

    def terminate(number: int, _frame: FrameType | None) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        command(prog_name=name)  # also as `python -m winnow.jobs`: completion goes by the name
    except WinnowError as error:
        shown = escaped(f"winnow: {error}", keep="\n")
        Console(stderr=True).print(shown, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of a KeyboardInterrupt
            Console(stderr=True).print("winnow: stopped; the same command resumes", style="red")
            sys.exit(128 + signal.SIGTERM if terminated else 130)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def telling(quiet: bool, soft_wrap: bool | None = None) -> Iterator[Callable[[str], None]]:
    """Print one line per stage and the progress on stderr; with `quiet`, print neither."""
    from winnow.pipeline.progress import hushed

    stderr = Console(stderr=True, quiet=quiet)
    with hushed(quiet):
        yield lambda line: stderr.print(line, highlight=False, markup=False, soft_wrap=soft_wrap)


@contextmanager
def working(
    executor: str, workers: int | None, address: str | None, quiet: bool, soft_wrap: bool | None = None
) -> Iterator[tuple["Executor", Callable[[str], None]]]:
    """Open the executor that the options name, close it at the end, and print lines as `telling` does."""
    from winnow.pipeline.executors.choose import open_executor

    opened = open_executor(executor, workers, address)
    with telling(quiet, soft_wrap) as say:
        try:
            yield opened, say
        finally:
            opened.close()


def print_json(document: object) -> None:
    """Print one JSON document on stdout, for programs."""
    print(json.dumps(document, indent=2))
