"""Finds the artifacts of a store that no job needs, and what else killed runs left; removes nothing."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from winnow.pipeline import storage
from winnow.pipeline.artifact import DONE, Artifact, artifacts_in, json_if_whole
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.storage import Found
from winnow.pipeline.store.in_use import FOLDER, LIVE_S, REMOVES, named_in, notes

_SCRATCH = "scratch"


@dataclass(frozen=True)
class Unneeded:
    """An artifact or another leftover that nothing needs.

    name: relative to the store. files: what to remove, in this order. kept: files of it that stay, because a needed
    artifact refers to them, and by whom.
    """

    name: str
    files: tuple[Found, ...]
    kept: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes to remove."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Survey:
    """What a store holds. records: names of its jobs. needed: artifacts, with what needs them. unneeded: the rest."""

    records: tuple[str, ...]
    needed: Mapping[str, str]
    unneeded: tuple[Unneeded, ...]


def survey(store: str, age_s: float, own: str = "") -> Survey:
    """Look at every record, note and artifact of a store.

    age_s: what was written within so many seconds is needed, and so is what an unfinished run used. own: URL of the
    note of this very removal. Raises JobError for a store without artifacts, DataError for a damaged record, TornError
    for a damaged list of files.
    """
    names = artifacts_in(store)
    if not names:
        raise JobError(f"a store must have artifacts, but {store} has none; is it the `store` of a job that ran?")
    # before the records: a run writes its record, and then removes its note
    others = [note for note in notes(store) if note.url != own]
    records = dict(_records(store))
    needed: dict[str, str] = {}
    for job, text in records.items():
        for name in named_in(text):
            needed.setdefault(name, f"job {job}")
    for note in others:
        if note.what != REMOVES and note.age_s() < max(age_s, LIVE_S):
            needed.update({name: f"a run of {note.what}" for name in note.artifacts if name not in needed})
    made = [Artifact.named(store, name) for name in names]
    for artifact in made:
        if artifact.name not in needed and (manifest := _manifest_of(artifact)) in needed:
            needed[artifact.name] = needed[manifest]
    files = {one.name: _files(one) for one in made if one.name not in needed}
    for name, found in files.items():
        if any(file.age_s() < age_s for file in found):
            needed[name] = "it is new"
    held = _held([one for one in made if one.name in needed])
    unneeded = [_unneeded(name, files[name], held.get(name, {}), store) for name in files if name not in needed]
    left = [*_leftovers(store, age_s, [one for one in made if needed.get(one.name, "").startswith("job ")])]
    stale = [file for note in others for file in storage.tree(note.url) if note.age_s() >= max(age_s, LIVE_S)]
    left += [Unneeded(f"{FOLDER}/{storage.name_of(file.url)}", (file,), {}) for file in stale]
    there = {name: why for name, why in needed.items() if name in names}
    return Survey(tuple(sorted(records)), there, tuple(one for one in [*unneeded, *left] if one.files))


def _records(store: str) -> Iterator[tuple[str, str]]:
    """(name, text) of the record of each job; those that a later result replaced are records too."""
    for file in storage.listing(storage.join(store, "jobs")):
        if file.url.endswith(".json"):
            content = json_if_whole(file.url)
            if content is None:
                raise DataError(
                    f"{file.url} must be the record of a job, but is damaged; run the job again or delete it"
                )
            yield storage.name_of(file.url).removesuffix(".json"), json.dumps(content)


def _manifest_of(artifact: Artifact) -> str:
    """The manifest that an export or a report was made of; "" for other artifacts."""
    if artifact.stage not in ("export", "report"):
        return ""
    done = cast(dict[str, Any], artifact.done() or {})
    return str(done.get("manifest") or done.get("config", {}).get("manifest", ""))


def _files(artifact: Artifact) -> list[Found]:
    return [file for folder in (artifact.folder, artifact.meta_folder) for file in storage.tree(folder)]


def _held(needed: list[Artifact]) -> dict[str, dict[str, str]]:
    """By folder, the names of its files to which needed artifacts refer, and which artifact does."""
    found: dict[str, dict[str, str]] = {}
    for artifact in needed:
        known = artifact.shard_files
        for folder, names in known.by_folder.items() if known is not None else ():
            if folder != artifact.name:
                found.setdefault(folder, {}).update(dict.fromkeys(names, artifact.name))
    return found


def _unneeded(name: str, files: list[Found], held: Mapping[str, str], store: str) -> Unneeded:
    """What of one artifact goes: `_done.json` first, so that nobody takes the rest for whole."""
    data, rejects = storage.join(store, name), storage.join(store, f"{name}.meta", "rejects")
    kept: dict[str, str] = {}
    for file in files:
        short = storage.name_of(file.url)
        if short in held and storage.parent_of(file.url) in (data, rejects):
            kept[file.url.removeprefix(f"{store}/")] = held[short]
    gone = [file for file in files if file.url.removeprefix(f"{store}/") not in kept]
    gone.sort(key=lambda file: (storage.name_of(file.url) != DONE, not file.url.startswith(f"{data}/"), file.url))
    return Unneeded(name, tuple(gone), kept)


def _leftovers(store: str, age_s: float, finished: list[Artifact]) -> Iterator[Unneeded]:
    """What runs that were killed left beside artifacts: rows on their way between workers."""
    folders = [(f"{_SCRATCH}/{name}", storage.join(store, _SCRATCH, name)) for name in _folders(store, _SCRATCH)]
    folders += [(f"{one.name}.meta/exchange", one.meta("exchange")) for one in finished]
    for name, url in folders:
        files = storage.tree(url)
        if files and all(file.age_s() >= max(age_s, LIVE_S) for file in files):
            yield Unneeded(name, tuple(files), {})


def _folders(store: str, name: str) -> list[str]:
    return storage.folders(storage.join(store, name))
