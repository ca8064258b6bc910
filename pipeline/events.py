"""Lands `events/<job>-<start>.jsonl` in a store: a line for every shard of every pass, and reads it back as it grows.

Local stores: the file grows line by line. Object stores cannot append: there the log is parts of a minute each,
`<job>-<start>-00000.jsonl` …, and a driver that is killed takes its last minute along. Lines hold names of stages and
workers and numbers; no caption, no key and no URL, so nothing of the pool and no credential.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

from pipeline import storage
from pipeline.watching import Done

FOLDER = "events"
PART_S = 60.0
_NAME = re.compile(r"(?P<log>.+-(?P<start>\d{8}T\d{6}Z)-\d+)(?:-p\d{5,})?\.jsonl")


class EventLog:
    """A watcher that writes. Make it with `EventLog.of`, and close it; without any event it leaves no file.

    Cost: one line of about 150 bytes for each shard of each pass; 0.04 ms to write it.
    """

    def __init__(self, stem: str) -> None:
        self._stem = stem
        self._started = self._flushed = time.monotonic()
        self._waiting: list[str] = []
        self._parts = 0
        self._path = storage.local_path(f"{stem}.jsonl")
        self._file: TextIO | None = None

    @classmethod
    def of(cls, store: str, job: str) -> "EventLog":
        """The log of a run that starts now."""
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

    def made(self, label: str, artifact: str, seconds: float, reused: bool) -> None:
        """See Watcher.made."""
        self._note("stage", stage=label, artifact=artifact, seconds=round(seconds, 3), reused=reused)

    def close(self, state: str) -> None:
        """The last line: what became of the run."""
        if self._file is not None or self._parts or len(self._waiting) > 1:
            self._note("end", state=state)
        if self._file is not None:
            self._file.close()
        elif self._waiting and (self._parts or len(self._waiting) > 1):
            self._flush()

    def _note(self, event: str, **values: object) -> None:
        self._waiting.append(self._line(event, **values))
        if self._path is None:
            if time.monotonic() - self._flushed > PART_S:
                self._flush()
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", buffering=1, encoding="utf-8")
        self._file.writelines(self._waiting)
        self._waiting.clear()

    def _line(self, event: str, **values: object) -> str:
        return json.dumps({"event": event, "t": round(time.monotonic() - self._started, 3), **values}) + "\n"

    def _flush(self) -> None:
        storage.write_bytes(f"{self._stem}-p{self._parts:05d}.jsonl", "".join(self._waiting).encode())
        self._parts += 1
        self._waiting.clear()
        self._flushed = time.monotonic()


class EventReader:
    """Reads the newest log of a store, each line once, while another process writes it."""

    def __init__(self, store: str) -> None:
        self._folder = storage.join(store, FOLDER)
        self._log = ""
        self._read: dict[str, int] = {}  # by URL, how many bytes

    @property
    def log(self) -> str:
        """The name of the log that is read; empty where there is none."""
        return self._log

    def more(self) -> Iterator[dict[str, Any]]:
        """The events since the last call; of a newer log, where one has begun, all of them from its `run` on.

        Cost: one list request, and the bytes that are new.
        """
        named = [(_NAME.fullmatch(storage.name_of(file.url)), file) for file in storage.listing(self._folder)]
        found = [(match["start"], match["log"], file) for match, file in named if match is not None]
        if not found:
            return
        _, self._log = max((start, log) for start, log, _ in found)
        for _, log, file in found:
            read = self._read.get(file.url, 0)
            if log == self._log and file.size > read:
                with storage.open_read(file.url) as stream:
                    stream.seek(read)
                    text = stream.read(file.size - read)
                whole = text.rfind(b"\n") + 1  # the writer may be in the middle of a line
                self._read[file.url] = read + whole
                for line in text[:whole].splitlines():
                    yield json.loads(line)
