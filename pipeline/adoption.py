"""Copies shard files from earlier artifacts of the same recipe, so a pool that has grown costs only its new shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from winnow.pipeline import storage
from winnow.pipeline.artifact import DONE, Artifact, is_artifact, json_if_whole, write_json
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run

PARTS = "_parts.json"
"""File of an artifact that holds its recipe and, for each of its shard files, the fingerprint of the input shard."""


def adopt(run: Run, out: Artifact, recipe: str) -> int:
    """Copy into `out` every shard file that another artifact of the same recipe made from the same input shard.

    recipe: fingerprint of the stage without its input shards. Returns the number of files copied; if one shard of the
    pool was changed or added, these are the files of all others. Writes `_parts.json`, so that later artifacts can copy
    from this one.
    """
    parts = _parts(run.shards)
    copies = list(_adoptable(out, recipe, parts))
    copied = sum(1 for _ in run.each(_Adopt(out), copies, f"{out.stage}: adopt")) if copies else 0
    write_json(out.meta(PARTS), {"recipe": recipe, "parts": parts})
    return copied


def _parts(shards: Sequence[storage.Identity]) -> list[str]:
    return [fingerprint(shard, digits=32) for shard in shards]


def _adoptable(out: Artifact, recipe: str, parts: Sequence[str]) -> Iterator[tuple[Artifact, int, int]]:
    """(artifact, index of its shard, index of the shard in `out`) of every file that can be copied."""
    # shards by fingerprint, not by number: a new shard at the front of the pool renumbers all others
    present = out.present()
    wanted = {part: index for index, part in enumerate(parts) if index not in present}
    for folder in storage.folders(out.store):
        other = Artifact.named(out.store, folder) if is_artifact(folder) else out
        if not wanted or other.stage != out.stage or other == out:
            continue
        known = json_if_whole(other.meta(PARTS))
        if known is None:
            continue
        # an unfinished artifact is a source too: each of its shard files is committed whole
        held = other.present()
        for index, part in enumerate(cast(list[str], known["parts"]) if known["recipe"] == recipe else []):
            if part in wanted and index in held:
                # popped, so that a second artifact does not offer the same shard again
                yield other, index, wanted.pop(part)


@dataclass(frozen=True)
class _Adopt:
    out: Artifact

    def __call__(self, item: tuple[Artifact, int, int]) -> None:
        source, index, position = item
        # rejects first: the shard file marks the shard as finished
        if storage.exists(source.rejects(index)):
            storage.copy(source.rejects(index), self.out.rejects(position))
        storage.copy(source.shard(index), self.out.shard(position))


@dataclass(frozen=True)
class Readiness:
    """How much of an artifact exists.

    ready: shard files that are there, 0 if the artifact is done. taken: shard files that a run would copy from other
    artifacts. shards: number of shards in the pool.
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
    """How much of an artifact exists. Only reads.

    recipe: as in `adopt`; None for a stage that never copies files.
    """
    if storage.exists(out.meta(DONE)):
        return Readiness(True, 0, 0, len(shards))
    taken = 0 if recipe is None else sum(1 for _ in _adoptable(out, recipe, _parts(shards)))
    return Readiness(False, len(out.present()), taken, len(shards))
