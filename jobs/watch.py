"""`winnow status --watch`: follows the event log of the newest run of a store and shows its progress.

Any process that can read the store can watch. It does not contact the driver.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.choose import open_metrics
from winnow.pipeline.executors.watching import Watcher
from winnow.pipeline.store.events import EventLog, EventReader

EVERY_S = 2.0


@contextmanager
def recorded(store: str, job: str, executor: str) -> Iterator[tuple[Watcher, ...]]:
    """The watchers of a run that starts now: its event log and, on Ray, Ray's metrics."""
    log, state = EventLog.of(store, job), "failed"
    try:
        yield (log, *open_metrics(executor, job))
        state = "finished"
    except KeyboardInterrupt:
        state = "stopped"
        raise
    finally:
        log.close(state)


@dataclass
class Passing:
    """One pass over shards so far. since: seconds of the log when it began; last: of its last event."""

    stage: str
    total: int
    ready: int
    since: float
    done: int = 0
    rows: int = 0
    rejects: int = 0
    retries: int = 0
    last: float = 0.0
    over: bool = False

    @property
    def rate(self) -> float | None:
        """Samples a second, None before there is any."""
        seconds = self.last - self.since
        return self.rows / seconds if self.rows and seconds > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds to go at the pace so far."""
        if self.over or not self.done:
            return None
        return (self.total - self.ready - self.done) * (self.last - self.since) / self.done


@dataclass
class RunState:
    """The state that the events so far describe; memory grows with stages, not with shards."""

    job: str = ""
    start: str = ""
    state: str = "running"
    seconds: float = 0.0
    made: dict[str, tuple[float, bool]] = field(default_factory=dict)
    now: Passing | None = None

    def take(self, event: dict[str, Any]) -> None:
        """Add one event; unknown kinds of events change nothing."""
        kind, self.seconds = event["event"], event["t"]
        if kind == "run":
            self.job, self.start, self.state, self.made, self.now = event["job"], event["start"], "running", {}, None
        elif kind == "pass":
            self.now = Passing(event["stage"], event["shards"], event["ready"], event["t"], last=event["t"])
        elif kind == "shard" and self.now is not None:
            self.now.done += 1
            self.now.last = event["t"]
            for name in ("rows", "rejects", "retries"):
                setattr(self.now, name, getattr(self.now, name) + event[name])
        elif kind == "passed" and self.now is not None:
            self.now.over = True
        elif kind == "stage":
            self.made[event["stage"]] = event["seconds"], event["reused"]
            self.now = None
        elif kind == "end":
            self.state = event["state"]

    def table(self) -> Table:
        """One row for each finished stage, and one for the current pass."""
        title = Text(f"{self.job}, started {self.start}, {self.state} after {self.seconds:,.0f} s")
        table = Table("stage", "shards", "samples/s", "rejects", "retries", "time", title=title)
        for column in table.columns[1:]:
            column.justify = "right"
        for label, (seconds, reused) in self.made.items():
            table.add_row(label, "", "", "", "", "done before" if reused else f"{seconds:,.1f} s")
        if (now := self.now) is not None:
            table.add_section()
            rate, left = now.rate, now.left_s
            shards = f"{now.ready + now.done:,} of {now.total:,}"
            eta = "" if left is None else f"{left:,.0f} s left"
            numbers = ["" if rate is None else f"{rate:,.0f}", f"{now.rejects:,}", f"{now.retries:,}"]
            table.add_row(now.stage, shards, *numbers, eta, style="bold")
        return table


def watch(
    store: str, console: Console, refreshes: int | None = None, wait: Callable[[float], None] = time.sleep
) -> RunState:
    """Show the newest run until it ends, or a number of times; use Ctrl-C for a run that was killed.

    Raises JobError if the store has no event log. Cost per look: one list request and the new bytes.
    """
    reader, standing, looks = EventReader(store), RunState(), 0
    with Live(console=console, auto_refresh=False) as live:
        while True:
            for event in reader.more():
                standing.take(event)
            if not reader.log:
                raise JobError(f"a store must have an event log to be watched, but {store} has none; did a run start?")
            live.update(standing.table(), refresh=True)
            looks += 1
            if standing.state != "running" or looks == refreshes:
                return standing
            wait(EVERY_S)
