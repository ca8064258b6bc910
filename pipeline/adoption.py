"""Takes over shard files of earlier artifacts of the same recipe, so a pool that has grown costs only its new shards.

Nothing is copied: the new artifact's list of files (store/shard_files.py) names each file where it lies. A shard is
known again by its url, size and stamp, or, under another name, by the mark of its content (`Identity.content`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from winnow.pipeline import storage
from winnow.pipeline.artifact import DONE, Artifact, artifacts_in, json_if_whole, shard_name, write_json
from winnow.pipeline.errors import TornError
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run
from winnow.pipeline.store.in_use import being_removed
from winnow.pipeline.store.shard_files import FILES, ShardFiles, forget

PARTS = "_parts.json"
"""File of an artifact that holds its recipe and, for each of its shard files, the fingerprint of the input shard."""


def adopt(run: Run, out: Artifact, recipe: str) -> int:
    """Let `out` refer to every shard file that another artifact of the same recipe made from the same input shard.

    recipe: fingerprint of all that the file of a shard depends on beside that shard: the stage's name, version and
    options, the recipes of the artifacts that it reads shard by shard, and the fingerprints of others. Returns the
    number of files that lie in other artifacts. If one shard of the pool was changed or added, these are the files of
    all others. Writes `files.parquet`, and `_parts.json`, so that later artifacts can refer to files of this one. The
    stage must have the property `recipe`.
    """
    if not out.refers:
        raise ValueError(f"a stage that takes over files must have the property `recipe`, but {out.stage} has none")
    forget()  # another process may have begun this artifact since this one looked
    marks, barred = _Marks.of(run.shards), frozenset[str]()
    while True:
        files = _files(out, marks, recipe, barred)
        files.commit(out.meta(FILES))
        # a removal that began before the list was there may not have seen it: see in_use.py
        if not (gone := (being_removed(out.store) & files.by_folder.keys()) - barred - {out.name}):
            break
        barred |= gone
    write_json(out.meta(PARTS), {"recipe": recipe, "parts": marks.parts, "contents": marks.contents})
    return len(files.taken(out.name))


def keep_own(out: Artifact, shards: Collection[int]) -> None:
    """The files of these shards lie in `out` itself from now on: the stage has made them again there."""
    known = out.shard_files
    if known is not None and known.taken(out.name) & set(shards):
        files = known.files.to_pylist()
        own = [f"{out.name}/{shard_name(i)}" if i in shards else file for i, file in enumerate(files)]
        ShardFiles.of(own).commit(out.meta(FILES))


@dataclass(frozen=True)
class _Marks:
    """By what each input shard is known again. parts: by url, size and stamp. contents: by its content, "" if not."""

    parts: list[str]
    contents: list[str]

    @classmethod
    def of(cls, shards: Sequence[storage.Identity]) -> "_Marks":
        contents = (fingerprint([shard.size, shard.content], digits=32) if shard.content else "" for shard in shards)
        return cls([fingerprint(shard, digits=32) for shard in shards], list(contents))

    @classmethod
    def told(cls, parts: Mapping[str, object]) -> "_Marks":
        """Those of an artifact's `_parts.json`; earlier versions wrote no contents."""
        known = cast(list[str], parts["parts"])
        return cls(known, cast(list[str], parts.get("contents", [""] * len(known))))

    def each(self) -> Iterator[tuple[int, set[str]]]:
        """(shard, its marks)."""
        return ((index, {*pair} - {""}) for index, pair in enumerate(zip(self.parts, self.contents, strict=True)))


def _files(out: Artifact, marks: _Marks, recipe: str, barred: Collection[str]) -> ShardFiles:
    """Where the file of each shard lies, or shall be made: there already, in an artifact that has it, or in `out`.

    barred: artifacts that are being removed.
    """
    known, present = _there(out)
    if known is not None:
        present -= {index for name in barred for shards in known.by_folder.get(name, {}).values() for index in shards}
    offered = dict(_offered(out, marks, present, recipe, barred))
    own = [f"{out.name}/{shard_name(index)}" for index in range(len(marks.parts))]
    files = own if known is None else known.files.to_pylist()
    return ShardFiles.of([files[i] if i in present else offered.get(i, mine) for i, mine in enumerate(own)])


def _there(out: Artifact) -> tuple[ShardFiles | None, set[int]]:
    """The list of files of an artifact, None if it has none or a damaged one, and the shards whose file is there."""
    try:
        return out.shard_files, out.present()
    except TornError:
        storage.remove([out.meta(FILES)])
        forget()
        return None, out.present()


def _offered(
    out: Artifact, marks: _Marks, present: Collection[int], recipe: str, barred: Collection[str] = ()
) -> Iterator[tuple[int, str]]:
    """(shard, its file in another artifact) of every shard that is not present and that another artifact has."""
    wanted: dict[str, set[int]] = defaultdict(set)
    # shards by mark, not by number: a new shard at the front of the pool renumbers all others
    for index, own in marks.each():
        for mark in own if index not in present else ():
            wanted[mark].add(index)
    for other in _others(out, recipe) if wanted else ():
        for index, known in other.marks.each():
            folder, name = other.place(index)
            if folder in barred:
                continue
            for mine in {shard for mark in known for shard in wanted.get(mark, ())} if index in other.held else ():
                # taken out, so that a second artifact does not offer the same shard again
                for mark in {marks.parts[mine], marks.contents[mine]} - {""}:
                    wanted[mark].discard(mine)
                yield mine, f"{folder}/{name}"
        if not any(wanted.values()):
            return


@dataclass(frozen=True)
class _Other:
    """Another artifact. files: as Artifact.shard_files. held: shards whose file is there."""

    name: str
    marks: _Marks
    files: ShardFiles | None
    held: set[int]

    def place(self, index: int) -> tuple[str, str]:
        """(folder, name) of the file of one shard; it lies in a third artifact if this one refers to that."""
        return (self.name, shard_name(index)) if self.files is None else self.files.of_shard(index)


def _others(out: Artifact, recipe: str) -> Iterator[_Other]:
    """Every other artifact of the recipe whose lists are whole.

    An unfinished artifact is one too: each of its shard files is committed whole.
    """
    for name in artifacts_in(out.store):
        other = Artifact.named(out.store, name)
        if other.stage != out.stage or other == out:
            continue
        known = json_if_whole(other.meta(PARTS))
        if known is not None and known["recipe"] == recipe:
            with suppress(TornError):  # of its list of files
                yield _Other(other.name, _Marks.told(known), other.shard_files, other.present())


@dataclass(frozen=True)
class Readiness:
    """How much of an artifact exists.

    ready: shard files that it has made, 0 if the artifact is done. taken: shard files of other artifacts that it refers
    to, or that a run would refer to. shards: number of shards in the pool.
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

    recipe: as in `adopt`; None for a stage that never takes over files.
    """
    if storage.exists(out.meta(DONE)):
        return Readiness(True, 0, 0, len(shards))
    try:
        known, present = out.shard_files, out.present()
    except TornError:
        known, present = None, set()
    taken = set() if known is None else known.taken(out.name) & present
    more = 0 if recipe is None else sum(1 for _ in _offered(out, _Marks.of(shards), present, recipe))
    return Readiness(False, len(present - taken), len(taken) + more, len(shards))
