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
from winnow.stages.cuts.contract.findings import Findings, looked, of_shard, over, reading, told, unless_equal, violated
from winnow.stages.pools.reader import Original, Reader
from winnow.stages.results.shards import SIZES, OutputShard, Piece, plan_shards
from winnow.stages.results.training_members import CAPTION, PICTURES, training_key

_COLUMNS = ("position", "key", "uid", "caption", "image_hash", "offset", "size", "extra_ranges")
_END = 2 * tarfile.BLOCKSIZE


@dataclass(frozen=True)
class _Tar:
    """One output shard as an item of work."""

    planned: OutputShard
    url: str

    @property
    def item(self) -> ShardItem:
        """How messages name it."""
        return ShardItem(self.planned.index, self.url)


def _planned(job: Finished, run: Run) -> list[_Tar]:
    """The tars that there must be, from the counts that the manifest's files sum up."""
    kept = [cast(int, summary["kept"]) for summary in run.summaries(job.manifest)]
    size = job.job.shards.samples_per_shard if job.job.shards else 1
    out = job.artifacts["shards"]
    planned = plan_shards(run.items, kept, size)
    return [_Tar(shard, out.file(shard_name(shard.index, ".tar"))) for shard in planned]


def shards(job: Finished, run: Run) -> Findings | None:
    """Every tar is there and whole, no other is, and each has its samples in order, their members side by side."""
    if "shards" not in job.artifacts:
        return None
    tars, out = _planned(job, run), job.artifacts["shards"]
    expected = {storage.name_of(tar.url): tar.planned.samples for tar in tars}
    url = out.meta(SIZES)
    with reading(url):
        sizes = read_json(url)
    found = Findings()
    for name in sorted({*expected, *sizes}):
        found += unless_equal(f"{url}: samples of {name}", expected.get(name, 0), sizes.get(name, 0))
    there = {storage.name_of(file.url) for file in storage.listing(out.folder)}
    strange = sorted(name for name in there if name.endswith(".tar") and name not in expected)
    found += violated(*(f"{out.file(name)} is of none of {len(expected)} output shards" for name in strange))
    return found + over(run, partial(_tar_of, job), tars, "shards")


@dataclass(frozen=True)
class _Place:
    """One member of a tar: key and suffix of its name, and bytes from its header to the end of its padding."""

    key: str
    suffix: str
    start: int
    data: int
    size: int

    @property
    def end(self) -> int:
        """The byte after its padding."""
        return self.data + self.size + -self.size % tarfile.BLOCKSIZE


def _places(file: BinaryIO) -> list[_Place]:
    """Every member, in order. Raises tarfile's errors."""
    found = []
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace") as tar:
        for info in tar:
            folder, slash, base = info.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            found.append(_Place(folder + slash + stem, suffix, info.offset, info.offset_data, info.size))
    return found


def _samples(places: Sequence[_Place]) -> list[tuple[str, list[_Place]]]:
    """Key and members of each run of members of one key."""
    return [(key, list(members)) for key, members in groupby(places, key=lambda place: place.key)]


def _expected(job: Finished, tar: _Tar) -> Iterator[tuple[Piece, np.ndarray, pa.Table]]:
    """For each piece of a tar the kept rows of its input shard (m,), and what the embeddings say of them."""
    for piece in tar.planned.pieces:
        rows = np.flatnonzero(job.survivors.mask(piece.item.index))[piece.first : piece.last]
        has = [name for name in _COLUMNS if name in job.embeddings.columns(piece.item.index)]
        yield piece, rows, job.embeddings.read(piece.item.index, has).take(pa.array(rows))


def _names(table: pa.Table, used: set[str]) -> Iterator[tuple[str, ...]]:
    """The names that each sample may have in its tar; send the one that it has into `used`.

    A key that would break a tar gives way to the uid, and one that is in the tar already gets a number.
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
    found += told(tar.item, rows, lambda row: f"sample {row}: members of {samples[row][0]!r} must lie side by side")
    return found + _in_order(job, tar, [key for key, _ in samples])


def _in_order(job: Finished, tar: _Tar, keys: Sequence[str]) -> Findings:
    """Each sample of a tar, by its key, is the kept sample at its place."""
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

    return told(tar.item, wrong, say)


def _end(item: ShardItem, file: BinaryIO, places: Sequence[_Place]) -> Findings:
    """After its last member a tar has zeros up to a whole record, and two blocks of them at least."""
    last = places[-1].end if places else 0
    length = file.seek(0, io.SEEK_END)
    wanted = last + _END + -(last + _END) % tarfile.RECORDSIZE
    if length != wanted:
        return of_shard(item, f"its last member ends at byte {last}, so it must have {wanted} bytes, but has {length}")
    file.seek(last)
    zeros = file.read()
    return of_shard(item, f"after its last member, at byte {last}, must be zeros only") if any(zeros) else Findings()


def members(job: Finished, run: Run) -> Findings | None:
    """What a sample has in its tar is what its source has, and its hash, caption and uid are of those bytes."""
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
                if start + entry >= len(samples):  # the check of the shards tells that it is not there
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

    return found + told(tar.item, list(wrong), say)


def _content(file: BinaryIO, place: _Place) -> bytes:
    file.seek(place.data)
    return file.read(place.size)


def _differences(file: BinaryIO, places: Sequence[_Place], fact: Mapping[str, Any], source: Original) -> Iterator[str]:
    """In what a sample of a tar is not as its source has it."""
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


def _contents(reader: Reader, file: BinaryIO, places: Sequence[_Place], fact: Mapping[str, Any]) -> Iterator[str]:
    """In what the embeddings tell of a sample is not what training reads of its members."""
    parts = {place.suffix.lower(): _content(file, place) for place in places}
    image = next((parts[suffix] for suffix in PICTURES if suffix in parts), b"")  # as open_clip's loader reads it
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
    except (ValueError, RecursionError):  # a pool of broken json has uids by content
        return None
