"""Notes in a store about runs and removals in progress, so that neither takes files away from the other.

A run writes `<store>/running/<id>.json` before it looks at any artifact, renews it every few minutes, and removes it
when its record is written. `winnow gc` writes such a note of what it is about to remove, then looks for runs again. So
of a run and a removal that start at once, at least one sees the other: the run ends with an error, or the removal
leaves the artifact alone.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from winnow.pipeline import storage
from winnow.pipeline.artifact import json_if_whole, write_json
from winnow.pipeline.errors import JobError, StorageError

FOLDER = "running"
RENEW_S = 300.0
LIVE_S = 3600.0
"""A note that was not renewed for so long is of a process that is gone. Clocks may differ by less than this."""

REMOVES = "gc"
_ARTIFACT = re.compile(r"[A-Za-z_][\w-]*-[0-9a-f]{16}")


@dataclass(frozen=True)
class Note:
    """One note. what: `gc`, or the name of the job that runs. artifacts: those that it names. seen: last renewal."""

    url: str
    what: str
    artifacts: frozenset[str]
    seen: float

    def age_s(self) -> float:
        """Seconds since the last renewal."""
        return time.time() - self.seen


def named_in(text: str) -> set[str]:
    """Every name of an artifact in a text, such as `density-7be02d5555d20eb7`."""
    return set(_ARTIFACT.findall(text))


def notes(store: str) -> list[Note]:
    """All notes of a store: one list request, and one for each note."""
    found = []
    for file in storage.listing(storage.join(store, FOLDER)):
        content = json_if_whole(file.url)  # None if its process has just removed it
        if content is not None:
            artifacts = frozenset(named_in(json.dumps(content)))
            found.append(Note(file.url, str(content["what"]), artifacts, float(str(content["seen"]))))
    return found


def being_removed(store: str) -> set[str]:
    """The artifacts that a `winnow gc` is about to remove now."""
    live = [note for note in notes(store) if note.what == REMOVES and note.age_s() < LIVE_S]
    return {name for note in live for name in note.artifacts}


class Renewal:
    """Keeps one note of this process. Renews it in a thread until it is closed."""

    def __init__(self, store: str, what: str, content: Mapping[str, Any]) -> None:
        self.url = storage.join(store, FOLDER, f"{uuid.uuid4().hex}.json")
        self._content = {"what": what, **content}
        self._ended = threading.Event()
        self.renew()
        self._thread = threading.Thread(target=self._keep_renewing, name="in use", daemon=True)
        self._thread.start()

    @property
    def lag_s(self) -> float:
        """Seconds since the note was last renewed: many, if this process or its storage stood still."""
        return time.time() - self._seen

    def renew(self) -> None:
        """Write the note with the time of now."""
        now = time.time()
        write_json(self.url, {**self._content, "seen": now})
        self._seen = now

    def close(self, remove: bool) -> None:
        """Stop renewing. remove: whether to remove the note too; otherwise it says when it was renewed last."""
        self._ended.set()
        self._thread.join()
        if remove:
            storage.remove([self.url])

    def _keep_renewing(self) -> None:
        while not self._ended.wait(RENEW_S):
            with suppress(StorageError):  # the storage may be away for a while; the next renewal follows
                self.renew()


@contextmanager
def running(store: str, job: str, content: Mapping[str, Any]) -> Iterator[None]:
    """A note of a run that uses the artifacts named in `content`. It stays if the run fails, so that it can go on.

    Raises JobError if a `winnow gc` is about to remove one of them.
    """
    note = Renewal(store, job, content)
    ended = False
    try:
        if taken := sorted(being_removed(store) & named_in(json.dumps(dict(content)))):
            ended = True
            raise JobError(
                f"a run must keep its artifacts, but winnow gc is removing {', '.join(taken[:3])} of {store}; "
                f"run the same command again when it has ended"
            )
        yield
        ended = True
    finally:
        note.close(remove=ended)
