"""Removes what no job of a store needs, even while runs are in progress."""

from collections.abc import Callable

from winnow.jobs.garbage.survey import Survey, Unneeded, survey
from winnow.pipeline import storage
from winnow.pipeline.errors import StorageError
from winnow.pipeline.store.in_use import LIVE_S, REMOVES, Renewal


def remove_unneeded(store: str, age_s: float, say: Callable[[str], None] = lambda _line: None) -> Survey:
    """Remove what `survey` finds; returns what was found, and so removed.

    It first writes a note of what it is about to remove, and looks again: what a run began to use before that note is
    left alone, and a run that begins later sees the note. Killed half way, the next call goes on. say: one line for
    each artifact. Raises StorageError if this process stood still for so long that its note says nothing any more.
    """
    first = survey(store, age_s)
    if not first.unneeded:
        return first
    note = Renewal(store, REMOVES, {"artifacts": [one.name for one in first.unneeded]})
    try:
        now = survey(store, age_s, note.url)
        names = {one.name for one in first.unneeded}
        gone = tuple(one for one in now.unneeded if one.name in names)
        for one in gone:
            _remove(store, one, note)
            say(f"{one.name:40} removed, {len(one.files)} files")
        return Survey(now.records, now.needed, gone)
    finally:
        note.close(remove=True)


def _remove(store: str, one: Unneeded, note: Renewal) -> None:
    # in batches, so that the note is looked at between them
    for start in range(0, len(one.files), 1000):
        if note.lag_s > LIVE_S / 2:
            raise StorageError(
                f"the note {note.url} must be renewed in time, but was not for {note.lag_s:.0f} s; run winnow gc again"
            )
        storage.remove([file.url for file in one.files[start : start + 1000]])
    for name in (one.name, f"{one.name}.meta"):
        if not any(kept.startswith(f"{name}/") for kept in one.kept):
            storage.remove_folder(storage.join(store, name))  # what is left are empty folders
