"""The event log of a store: one JSON line for every shard of every pass, written during a run and read as it grows.

In a local store the file grows line by line. Object stores cannot append, so there the log consists of parts of a
minute or more, `…-p00000.jsonl` …; if the driver is killed, the events after its last part are lost. Lines hold names
of stages and workers, and numbers. They hold no caption, key or URL, so the log contains nothing of the pool and no
credential.
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from winnow.pipeline import storage
from winnow.pipeline.errors import StorageError, TornError
from winnow.pipeline.executors.watching import Done

FOLDER = "events"
PART_S = 60.0
_BLOCK_BYTES = 1 << 20  # a reader holds one block at a time: the log of a large run has a GB
_NAME = re.compile(r"(?P<log>.+-(?P<start>\d{8}T\d{6}Z)-\d+)(?:-p\d{5,})?\.jsonl")


class EventLog:
    """A watcher that writes the event log. Make it with `EventLog.of` and close it; without events it leaves no file.

    If the log cannot be written, for example because the disk is full, logging stops with one line on stderr and the
    run goes on. So the log never ends a run, and never hides the error that did.
    """

    def __init__(self, stem: str) -> None:
        self._stem = stem
        self._started = self._flushed = time.monotonic()
        self._waiting: list[str] = []
        self._parts = 0
        self._path = storage.local_path(f"{stem}.jsonl")
        self._file: FileIO | None = None
        self._lost = False

    @classmethod
    def of(cls, store: str, job: str) -> "EventLog":
        """A new log for a run that starts now."""
        start = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        log = cls(storage.join(store, FOLDER, f"{job}-{start}-{os.getpid()}"))
        log._waiting.append(log._line("run", job=job, start=start))
        return log

    def begin(self, stage: str, total: int, ready: int) -> None:
        """See Watcher.begin."""
        self._note("pass", stage=stage, shards=total, ready=ready)

    def done(self, item: Done) -> None:
        """See Watcher.done."""
        self._note("shard", **{**vars(item), "seconds": round(item.seconds, 4)})

    def end(self, stage: str, seconds: float) -> None:
        """See Watcher.end."""
        self._note("passed", stage=stage, seconds=round(seconds, 3))

    def avoided(self, node: str, error: str) -> None:
        """See Watcher.avoided."""
        self._note("avoided", node=node, error=error)

    def made(self, label: str, artifact: str, seconds: float, reused: bool) -> None:
        """See Watcher.made."""
        self._note("stage", stage=label, artifact=artifact, seconds=round(seconds, 3), reused=reused)

    def close(self, state: str) -> None:
        """Write the last line, the final state of the run, and close the file."""
        if self._file is not None or self._parts or len(self._waiting) > 1:
            self._waiting.append(self._line("end", state=state))
            self._land()
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:  # a network file system may report a full disk only here
                self._give_up(error)

    def _note(self, event: str, **values: object) -> None:
        self._waiting.append(self._line(event, **values))
        # an object store gets one part a minute, a local file every line
        if self._path is not None or time.monotonic() - self._flushed > PART_S:
            self._land()

    def _line(self, event: str, **values: object) -> str:
        return json.dumps({"event": event, "t": round(time.monotonic() - self._started, 3), **values}) + "\n"

    def _land(self) -> None:
        """Write the waiting lines, unless logging has stopped."""
        lines = "".join(self._waiting).encode()
        self._waiting.clear()
        if self._lost:
            return
        try:
            if self._path is None:
                storage.write_bytes(f"{self._stem}-p{self._parts:05d}.jsonl", lines)
                self._parts += 1
            else:
                self._append(self._path, lines)
        except (OSError, StorageError) as error:
            self._give_up(error)
        self._flushed = time.monotonic()

    def _append(self, path: Path, lines: bytes) -> None:
        if self._file is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # unbuffered: a buffer would try again in close() to write what a full disk has refused
            self._file = path.open("ab", buffering=0)
        while lines:
            lines = lines[self._file.write(lines) :]

    def _give_up(self, error: Exception) -> None:
        self._lost = True
        print(f"winnow: the event log cannot be written and ends here: {error}; the run goes on", file=sys.stderr)


class EventReader:
    """Reads the newest log of a store, each line once, while another process writes it."""

    def __init__(self, store: str) -> None:
        self._folder = storage.join(store, FOLDER)
        self._log = ""
        self._read: dict[str, int] = {}  # bytes read so far, by URL

    @property
    def log(self) -> str:
        """The name of the log being read; empty if there is none."""
        return self._log

    def more(self) -> Iterator[dict[str, Any]]:
        """The events since the last call. If a newer log has begun, all of its events, from its `run` line on.

        Cost: one list request and the new bytes, with 1 MiB of them in memory at a time.
        Raises TornError for a line that is not an event.
        """
        # a log is one file, or several parts; the newest log has the latest start in its name
        named = [(_NAME.fullmatch(storage.name_of(file.url)), file) for file in storage.listing(self._folder)]
        found = [(match["start"], match["log"], file) for match, file in named if match is not None]
        if not found:
            return
        _, self._log = max((start, log) for start, log, _ in found)
        for _, log, file in found:
            if log == self._log:
                for line in self._lines(file.url, file.size):
                    yield _event(line, file.url)

    def _lines(self, url: str, size: int) -> Iterator[bytes]:
        """The new complete lines. If the writer is in the middle of a line, the next call returns it."""
        at = self._read.setdefault(url, 0)
        if size <= at:
            return
        begun = b""
        with storage.open_read(url) as stream:
            stream.seek(at)
            while block := stream.read(min(_BLOCK_BYTES, size - at)):
                at += len(block)
                *lines, begun = (begun + block).split(b"\n")
                for line in lines:
                    # counts whole lines only, so that the next call starts at the incomplete one
                    self._read[url] += len(line) + 1
                    yield line


def _event(line: bytes, url: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
        return {"event": found["event"], "t": found["t"], **found}
    except (ValueError, TypeError, KeyError) as error:
        raise TornError(f"{url} must hold one event on each line, got {line[:80]!r}; delete the file") from error
