"""Takes over the files that an earlier artifact made for the same input shards, so a grown pool costs what is new."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from winnow.pipeline import storage
from winnow.pipeline.artifact import DONE, Artifact, is_artifact, json_if_whole, write_json
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run

PARTS = "_parts.json"
"""File of an artifact: its recipe, and the fingerprint of the input shard of each of its files."""


def adopt(run: Run, out: Artifact, recipe: str) -> int:
    """Copy into `out` the shard files that an artifact of the same recipe holds for the same input shards.

    recipe: fingerprint of the stage without its input shards. Writes `_parts.json` so that later artifacts can
    adopt from this one. Returns how many files were copied: after one changed or added shard, all others.
    """
    parts = _parts(run.shards)
    copies = list(_adoptable(out, recipe, parts))
    copied = sum(1 for _ in run.each(_Adopt(out), copies, f"{out.stage}: adopt")) if copies else 0
    write_json(out.meta(PARTS), {"recipe": recipe, "parts": parts})
    return copied


def _parts(shards: Sequence[storage.Identity]) -> list[str]:
    return [fingerprint(shard, digits=32) for shard in shards]


def _adoptable(out: Artifact, recipe: str, parts: Sequence[str]) -> Iterator[tuple[Artifact, int, int]]:
    """(artifact, its shard, shard of `out`) of every file that can be copied."""
    present = out.present()
    wanted = {part: index for index, part in enumerate(parts) if index not in present}
    for folder in storage.folders(out.store):
        other = Artifact.named(out.store, folder) if is_artifact(folder) else out
        if not wanted or other.stage != out.stage or other == out:
            continue
        known = json_if_whole(other.meta(PARTS))
        if known is None:
            continue
        held = other.present()
        for index, part in enumerate(cast(list[str], known["parts"]) if known["recipe"] == recipe else []):
            if part in wanted and index in held:
                yield other, index, wanted.pop(part)


@dataclass(frozen=True)
class _Adopt:
    out: Artifact

    def __call__(self, item: tuple[Artifact, int, int]) -> None:
        source, index, position = item
        if storage.exists(source.rejects(index)):
            storage.copy(source.rejects(index), self.out.rejects(position))
        storage.copy(source.shard(index), self.out.shard(position))


@dataclass(frozen=True)
class Readiness:
    """How far an artifact is. ready: shard files that are there, 0 once it is done. taken: those that would be copied.

    shards: of the pool.
    """

    done: bool
    ready: int
    taken: int
    shards: int

    def __str__(self) -> str:
        if self.done:
            return "done"
        taken = f"{self.taken} of {self.shards} shards taken over" if self.taken else ""
        ready = f"{self.ready} of {self.shards} shards" if self.ready else ""
        return ", ".join(filter(None, [ready, taken])) or "to do"


def state_of(out: Artifact, shards: Sequence[storage.Identity], recipe: str | None = None) -> Readiness:
    """How far an artifact is; recipe: as `adopt` has it, None where nothing is ever taken over. Nothing is written."""
    if storage.exists(out.meta(DONE)):
        return Readiness(True, 0, 0, len(shards))
    taken = 0 if recipe is None else sum(1 for _ in _adoptable(out, recipe, _parts(shards)))
    return Readiness(False, len(out.present()), taken, len(shards))
