"""Shows the progress of a stage on stderr: one live line on a terminal, a plain line now and then in a log."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_EVERY_S = 15.0

_HUSHED = ContextVar("hushed", default=False)


@contextmanager
def hushed(quiet: bool = True) -> Iterator[None]:
    """Inside the block, no progress and no warnings are shown. With quiet=False the block has no effect."""
    if not quiet:
        yield
        return
    before, logged = _HUSHED.set(True), logging.root.manager.disable
    logging.disable(logging.WARNING)  # Ray's own too
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _HUSHED.reset(before)
        logging.disable(logged)


class StageProgress:
    """Counts items, rows and rejects of one stage. Use it as a context manager; call `advance` for each finished item.

    total: number of items. ready: items that an earlier run finished. stream: stderr by default. of: what
    items are.
    """

    def __init__(
        self, label: str, total: int, ready: int = 0, stream: TextIO | None = None, of: str = "shards"
    ) -> None:
        self._label, self._total, self._ready, self._of = label, total, ready, of
        self._items = self._rows = self._rejects = 0
        self._console = Console(file=stream or sys.stderr)
        self._started = self._said = time.monotonic()
        self._live: Progress | None = None
        self._shown = not _HUSHED.get()

    def __enter__(self) -> Self:
        if self._shown and self._console.is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[rejects]}", style="yellow"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._live.start()
            self._live.add_task(self._label, total=self._total, completed=self._ready, rate="", rejects="")
        return self

    def advance(self, rows: int = 0, rejects: int = 0) -> None:
        """Count one finished item. rows: in the item. rejects: samples of it that could not be read."""
        self._items += 1
        self._rows += rows
        self._rejects += rejects
        if self._live is not None:
            self._live.update(self._live.task_ids[0], advance=1, rate=self._rate(), rejects=self._lost())
        elif self._shown and time.monotonic() - self._said > PLAIN_EVERY_S:
            self._said = time.monotonic()
            self._console.print(self._line(), highlight=False, markup=False, soft_wrap=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)

    def _rate(self) -> str:
        return f"{self._rows / self._seconds():,.0f} samples/s" if self._rows else ""

    def _lost(self) -> str:
        return f"{self._rejects:,} rejects" if self._rejects else ""

    def _line(self) -> str:
        # items of an earlier run took no time now, so the pace counts only those of this run
        left = self._total - self._ready - self._items
        eta = left * self._seconds() / self._items
        done = f"{self._ready + self._items} of {self._total} {self._of}"
        said = done, self._rate(), self._lost(), f"{eta:,.0f} s left"
        return f"{self._label}: {', '.join(text for text in said if text)}"
