"""Finds one sample of a finished job by its uid, or by its shard and key.

The search for a uid reads only the uid columns, shard by shard in the order of the pool, and stops at the first match:
at most 16 bytes per sample. The search for a key reads only its shard.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from winnow.jobs.verify.finished import Finished
from winnow.pipeline import storage
from winnow.pipeline.columns import column
from winnow.pipeline.errors import JobError
from winnow.pipeline.stage import ShardItem
from winnow.pipeline.uid import is_uid_hex, uids_from_hex, uids_of
from winnow.stages.cuts.contract.explained import FoundSample, RejectReason
from winnow.stages.pools.sample import Sample
from winnow.stages.pools.unchanged import check_unchanged
from winnow.stages.rejects import read_rejects

_AHEAD = 4  # shards in flight per worker; those behind the match are read in vain
_COLUMNS = ("position", "key", "uid", "caption", "width", "height")


def of_uid(job: Finished, items: Sequence[ShardItem], uid: str, workers: int) -> FoundSample:
    """The sample with this uid; the first one if several have it.

    Raises JobError for a malformed uid and for a uid that no readable sample has.
    """
    if not is_uid_hex(uid):
        raise JobError(f"a uid must be 32 hex digits, got {uid!r}; --shard and --key find a sample without it")
    wanted = uids_from_hex([uid])[0]

    def rows_of(item: ShardItem) -> np.ndarray:
        return np.flatnonzero(uids_of(job.places.read(item.index, ["uid"])["uid"]) == wanted)

    block = _AHEAD * workers
    with ThreadPoolExecutor(workers, "why") as threads:
        for start in range(0, len(items), block):
            part = items[start : start + block]
            for item, rows in zip(part, threads.map(rows_of, part), strict=True):
                if len(rows):
                    return at_row(job, item, int(rows[0]))
    raise JobError(
        f"a uid must be that of a readable sample, but {uid.lower()} is in none of the {len(items):,} shards of "
        f"{job.job.name}; samples rejected while reading have no uid: name them by --shard and --key"
    )


def of_key(job: Finished, items: Sequence[ShardItem], shard: str, key: str) -> FoundSample:
    """The first sample with this key in a shard. shard: its number, its URL, or the end of its URL.

    Raises JobError if the name matches no shard or several, and if the shard has no such key.
    """
    item = _shard(items, shard)
    table = job.places.read(item.index, ["position", "key"])
    rows = [row for row, name in enumerate(table["key"].to_pylist()) if name == key]
    lost = [row for row in read_rejects(job.places, item.index).to_pylist() if row["key"] == key]
    alike = len(rows) + len(lost) - 1
    if rows:
        return at_row(job, item, rows[0], alike)
    if not lost:
        raise JobError(f"a key must be that of a sample of its shard, but {item.url} has no {key!r}")
    first = lost[0]
    why = RejectReason(first["kind"], first["message"])
    return FoundSample(item, first["position"], first["key"], None, rejected=why, alike=alike)


def at_row(job: Finished, item: ShardItem, row: int, alike: int = 0) -> FoundSample:
    """The sample in a row of the samples file."""
    table = job.places.read(item.index, _COLUMNS).slice(row, 1)
    [found] = table.to_pylist()
    rejected = None
    if not bool(column(job.distinct.read(item.index, ["kept"]), "kept")[row]):
        [again] = [r for r in read_rejects(job.distinct, item.index).to_pylist() if r["position"] == found["position"]]
        rejected = RejectReason(again["kind"], again["message"])
    sides = found["width"], found["height"]
    return FoundSample(
        item, found["position"], found["key"], row, found["uid"], found["caption"], *sides, rejected, alike
    )


def picture(job: Finished, place: FoundSample) -> bytes:
    """The sample's image file, byte for byte from the pool. Cost: reads its shard up to the sample.

    Raises JobError for a pool without images and for a sample without one, ShardError if the shard has changed.
    """
    reader = job.job.pool.reader
    if not reader.has_images:
        raise JobError("the pool must have images to write one, but this one has none; leave the option out")
    check_unchanged(job.places, place.item.index, place.item.url, reader)
    for sample in reader.samples(place.item.url):
        if sample.position == place.position and isinstance(sample, Sample):
            return bytes(sample.image)
        if sample.position >= place.position:
            break
    raise JobError(f"a sample must have an image to be written, but {place.key!r} of {place.item.url} has none")


def _shard(items: Sequence[ShardItem], name: str) -> ShardItem:
    if name.isdigit() and int(name) < len(items):
        return items[int(name)]
    found = [item for item in items if item.url == name or item.url.endswith(f"/{name}")]
    if len(found) != 1:
        told = ", ".join(item.url for item in found[:3]) if found else f"0 to {len(items) - 1}, or the end of a URL"
        raise JobError(
            f"--shard must name one shard of the pool, but {name!r} names {len(found) or 'none'}: {told}"
        ) from None
    return found[0]


def shown_shard(item: ShardItem) -> str:
    """Number and last part of a shard's URL, for people."""
    return f"{item.index} ({storage.name_of(item.url)})"
