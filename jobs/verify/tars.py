"""Checks that the training shards hold exactly the kept samples, byte for byte."""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa

from winnow.jobs.verify.finished import Finished
from winnow.pipeline import storage
from winnow.pipeline.artifact import read_json, shard_name
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.uid import content_hash, uids_of
from winnow.stages.cuts.contract.findings import (
    Findings,
    looked,
    of_shard,
    over,
    reading,
    unless_equal,
    violated,
    violated_rows,
)
from winnow.stages.pools.reader import Original, Reader
from winnow.stages.results.shards import SHARD_SIZES, OutputShard, Piece, kept_of, plan_shards
from winnow.stages.results.training_members import CAPTION, PICTURES, training_key

_COLUMNS = ("position", "key", "uid", "caption", "image_hash", "offset", "size", "extra_ranges")
_END = 2 * tarfile.BLOCKSIZE


@dataclass(frozen=True)
class _Tar:
    """One output shard as a work item."""

    planned: OutputShard
    url: str

    @property
    def item(self) -> ShardItem:
        """The tar as a ShardItem, for messages."""
        return ShardItem(self.planned.index, self.url)


def _planned(job: Finished, run: Run) -> list[_Tar]:
    """The tars that must exist, planned from the counts in the summaries of the manifest's files."""
    size = job.job.shards.samples_per_shard if job.job.shards else 1
    out = job.artifacts["shards"]
    planned = plan_shards(run.items, kept_of(run, job.manifest), size)
    return [_Tar(shard, out.file(shard_name(shard.index, ".tar"))) for shard in planned]


def shards(job: Finished, run: Run) -> Findings | None:
    """Every planned tar exists and is whole, there is no other tar, and each holds its samples in order.

    The members of one sample are adjacent.
    """
    if "shards" not in job.artifacts:
        return None
    tars, out = _planned(job, run), job.artifacts["shards"]
    expected = {storage.name_of(tar.url): tar.planned.samples for tar in tars}
    url = out.meta(SHARD_SIZES)
    with reading(url):
        sizes = read_json(url)
    found = Findings()
    for name in sorted({*expected, *sizes}):
        found += unless_equal(f"{url}: samples of {name}", expected.get(name, 0), sizes.get(name, 0))
    there = {storage.name_of(file.url) for file in storage.listing(out.folder)}
    strange = sorted(name for name in there if name.endswith(".tar") and name not in expected)
    found += violated(*(f"{out.file(name)} belongs to none of the {len(expected)} output shards" for name in strange))
    return found + over(run, partial(_tar_of, job), tars, "shards")


@dataclass(frozen=True)
class _MemberBytes:
    """One member of a tar. start: first byte of its header. data: first byte of its content. size: of the content."""

    key: str
    suffix: str
    start: int
    data: int
    size: int

    @property
    def end(self) -> int:
        """The byte after its padding."""
        return self.data + self.size + -self.size % tarfile.BLOCKSIZE


def _places(file: BinaryIO) -> list[_MemberBytes]:
    """All members of a tar, in order. Raises tarfile's errors."""
    found = []
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace") as tar:
        for info in tar:
            folder, slash, base = info.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            found.append(_MemberBytes(folder + slash + stem, suffix, info.offset, info.offset_data, info.size))
    return found


def _samples(places: Sequence[_MemberBytes]) -> list[tuple[str, list[_MemberBytes]]]:
    """(key, members) of each run of adjacent members with the same key."""
    return [(key, list(members)) for key, members in groupby(places, key=lambda place: place.key)]


def _expected(job: Finished, tar: _Tar) -> Iterator[tuple[Piece, np.ndarray, pa.Table]]:
    """For each piece of a tar: the kept rows (m,) of its input shard, and the samples' table of these rows."""
    for piece in tar.planned.pieces:
        rows = np.flatnonzero(job.survivors.mask(piece.item.index))[piece.first : piece.last]
        has = [name for name in _COLUMNS if name in job.places.columns(piece.item.index)]
        yield piece, rows, job.places.read(piece.item.index, has).take(pa.array(rows))


def _names(table: pa.Table, used: set[str]) -> Iterator[tuple[str, ...]]:
    """The names that each sample may have in its tar. The caller adds the name that the sample has to `used`.

    The name is the key if the key is safe in a tar, else the uid. If the tar has the name already, it gets a number.
    """
    for key, uid in zip(table["key"].to_pylist(), table["uid"].to_pylist(), strict=True):
        yield _unused(training_key(key), used), _unused(uid, used)


def _unused(name: str, used: set[str]) -> str:
    found, again = name, 1
    while found in used:
        found, again = f"{name}_{again}", again + 1
    return found


def _tar_of(job: Finished, tar: _Tar) -> Findings:
    with storage.open_read(tar.url) as file:
        places = _places(file)
        found = looked(tars=1, members=len(places)) + _end(tar.item, file, places)
    samples = _samples(places)
    if len(samples) != tar.planned.samples:
        found += of_shard(tar.item, f"it must hold {tar.planned.samples} samples, but holds {len(samples)}")
    again = {key for key, times in groupby(sorted(key for key, _ in samples)) if len(list(times)) > 1}
    rows = [row for row, (key, _) in enumerate(samples) if key in again]
    found += violated_rows(
        tar.item, rows, lambda row: f"sample {row}: members of {samples[row][0]!r} must lie side by side"
    )
    return found + _in_order(job, tar, [key for key, _ in samples])


def _in_order(job: Finished, tar: _Tar, keys: Sequence[str]) -> Findings:
    """Check by key that each sample of a tar is the kept sample that belongs at its place."""
    used: set[str] = set()
    owners: list[tuple[ShardItem, int]] = []
    wrong: list[int] = []
    for piece, rows, table in _expected(job, tar):
        for row, names in zip(rows.tolist(), _names(table, used), strict=True):
            seen = keys[len(owners)] if len(owners) < len(keys) else ""
            used.add(seen if seen in names else names[0])
            wrong += [len(owners)] * (seen not in names)
            owners.append((piece.item, row))

    def say(place: int) -> str:
        item, row = owners[place]
        seen = repr(keys[place]) if place < len(keys) else "not there"
        return f"sample {place} must be {job.samples.who(item, row)} of {item.url}, but is {seen}"

    return violated_rows(tar.item, wrong, say)


def _end(item: ShardItem, file: BinaryIO, places: Sequence[_MemberBytes]) -> Findings:
    """Check that only zeros follow the last member: at least two blocks, up to the end of a record."""
    last = places[-1].end if places else 0
    length = file.seek(0, io.SEEK_END)
    wanted = last + _END + -(last + _END) % tarfile.RECORDSIZE
    if length != wanted:
        return of_shard(item, f"its last member ends at byte {last}, so it must have {wanted} bytes, but has {length}")
    file.seek(last)
    zeros = file.read()
    return of_shard(item, f"after its last member, at byte {last}, must be zeros only") if any(zeros) else Findings()


def members(job: Finished, run: Run) -> Findings | None:
    """The members of a sample in its tar equal those of its source, and match its hash, caption and uid."""
    if "shards" not in job.artifacts:
        return None
    return over(run, partial(_members_of, job), _planned(job, run), "members")


def _members_of(job: Finished, tar: _Tar) -> Findings:
    reader = job.job.pool.reader
    found, start = looked(tars=1), 0
    wrong: dict[int, tuple[Piece, int, list[str]]] = {}
    with storage.open_read(tar.url) as file:
        samples = _samples(_places(file))
        for piece, rows, table in _expected(job, tar):
            chosen = np.flatnonzero(job.sample.mask(uids_of(table["uid"]), int(job.counts["kept"])))
            facts = cast(list[dict[str, Any]], table.take(pa.array(chosen)).to_pylist())
            originals = reader.originals(piece.item.url, facts) if facts else ()
            for entry, fact, source in zip(chosen.tolist(), facts, originals, strict=True):
                if start + entry >= len(samples):  # missing: the check `shards` reports it
                    continue
                places = samples[start + entry][1]
                said = [*_differences(file, places, fact, source), *_contents(reader, file, places, fact)]
                if said:
                    wrong[start + entry] = piece, int(rows[entry]), said
                found += looked(samples=1, members=len(places), bytes=sum(place.size for place in places))
            start += len(rows)

    def say(place: int) -> str:
        piece, row, said = wrong[place]
        return f"sample {place}, {job.samples.who(piece.item, row)} of {piece.item.url}: {'; '.join(said)}"

    return found + violated_rows(tar.item, list(wrong), say)


def _content(file: BinaryIO, place: _MemberBytes) -> bytes:
    file.seek(place.data)
    return file.read(place.size)


def _differences(
    file: BinaryIO, places: Sequence[_MemberBytes], fact: Mapping[str, Any], source: Original
) -> Iterator[str]:
    """The differences between a sample in a tar and its source, as sentences."""
    expected = source.members
    suffixes = [place.suffix for place in places]
    if suffixes != [suffix for suffix, _ in expected]:
        yield f"its members must be {', '.join(suffix for suffix, _ in expected)}, but are {', '.join(suffixes)}"
        return
    same = True
    for place, (suffix, content) in zip(places, expected, strict=True):
        if (seen := content_hash(_content(file, place))) != (wanted := content_hash(content)):
            same = False
            yield f"member {suffix} must hash to {wanted.hex()}, as in its source, but hashes to {seen.hex()}"
    if same and source.blocks and places[0].key == fact["key"]:
        file.seek(places[0].start)
        if file.read(places[-1].end - places[0].start) != source.blocks:
            yield "its headers and padding must be those of its source, but are not"


def _contents(reader: Reader, file: BinaryIO, places: Sequence[_MemberBytes], fact: Mapping[str, Any]) -> Iterator[str]:
    """The differences between the facts of the samples file on a sample and what a trainer reads from its members."""
    parts = {place.suffix.lower(): _content(file, place) for place in places}
    image = next((parts[suffix] for suffix in PICTURES if suffix in parts), b"")  # the order of open_clip's loader
    if content_hash(image) != fact["image_hash"]:
        yield f"its image must hash to {fact['image_hash'].hex()}, but hashes to {content_hash(image).hex()}"
    caption = parts.get(CAPTION, b"")
    if caption != fact["caption"].encode():
        yield f"its caption must be {fact['caption']!r:.80}, but is {caption!r:.80}"
    uid = reader.uid_again(fact, _described(parts.get("json", b"")), image)
    if uid is not None and uid.hex() != fact["uid"]:
        yield f"its members must have uid {fact['uid']}, but have {uid.hex()}"


def _described(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # with broken json, the uid comes from the content
        return None
