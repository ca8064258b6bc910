"""Reads the first samples of a pool and describes them, before anything runs.

It reads the head of one shard. If hardly any sample there can be read, it reads five shards spread over the pool.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from math import inf
from typing import Protocol, runtime_checkable

import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.errors import RejectsError, SampleError, ShardError, StorageError
from winnow.pipeline.stage import Limits, nearly_whole, spread
from winnow.stages.encoders.pixels.opening import open_image
from winnow.stages.pools.field_types import exact, said
from winnow.stages.pools.reader import TABLE, Reader
from winnow.stages.pools.sample import NOT_DOWNLOADED, Reject, Sample
from winnow.stages.preview.early import ShardRejects, example, joined, refusal
from winnow.stages.preview.head import Head, table_head

_IMAGES = 16  # rows of parquet with images, which may have megabytes each
_VECTORS = 64
_SAMPLES = 256


@dataclass(frozen=True)
class Seen(ShardRejects):
    """The first samples of one shard.

    samples: how many were looked at, with rejects. first: the first readable sample, by names in docs/formats.md.
    whole: whether these are all samples of the shard, or enough to tell what is true of nearly all.
    """

    first: Mapping[str, object] = field(default_factory=dict)
    whole: bool = True


def first_samples(reader: Reader, url: str, encoders: Collection[str] | None = None) -> Seen:
    """Read the first samples of a shard with a few requests.

    encoders: of those whose vectors the pool brings, which ones to look at; None for all. Raises PoolError if it does
    not fit the job, ShardError if it cannot be read, StorageError if it cannot be reached.
    """
    names = [name for name in reader.encoders() if encoders is None or name in encoders]
    with storage.scratch_folder() as folder:
        if not (reader.has_images or names) and reader.suffix == TABLE:
            with suppress(ShardError, StorageError):  # then a uid is a hash of a vector, or the file itself is broken
                return _of_vectors(reader, table_head(url, (), _VECTORS, folder / "table"), ())
        head = reader.head(url, _IMAGES if reader.has_images else _VECTORS, folder)
        with head.telling():
            if reader.has_images:
                return _counted(islice(reader.head_samples(head), _SAMPLES), head, head.whole)
            return _of_vectors(reader, head, names)


def first_fields(reader: Reader, url: str, sources: Sequence[str]) -> Mapping[str, str]:
    """What the first samples of a shard have of each field that a job names, in words.

    Raises DataError for a field whose types mix, else as `first_samples`.
    """
    with storage.scratch_folder() as folder:
        head = reader.head(url, _IMAGES if reader.has_images else _VECTORS, folder)
        with head.telling():
            if reader.has_images:
                samples = [one for one in islice(reader.head_samples(head), _SAMPLES) if isinstance(one, Sample)]
                columns = ("position", "key", "caption", "offset", "size", "extra_ranges")
                places = pa.table({name: [getattr(sample, name) for sample in samples] for name in columns})
            else:
                places = reader.rows(head.url)[0]
            names = {source: reader.field_name(source) for source in sources}
            found = reader.fields(head.url, places, list(names.values())) if len(places) else {}
    told = {}
    for source, name in names.items():
        values = exact(found.get(name, [None] * len(places)), f"{url}: {source}", "sample {}".format)
        there, count = len(values) - values.null_count, len(values)
        told[source] = f"{source}: {said(values.type)} in {there:,} of the first {count:,} samples"
        if count and not there:
            told[source] = f"none of the first {count:,} samples has {source}"
    return told


def check_readable(
    reader: Reader, urls: Sequence[str], limits: Limits, seen: Seen, encoders: Collection[str] | None = None
) -> None:
    """Raise RejectsError if hardly any sample of the pool can be read, with the option that would read them.

    seen: of the first shard. encoders: as `first_samples`. The run ends only if nearly everything (`nearly_whole`) is
    rejected in each shard of `spread`; one bad shard does not end it. A head can show that a shard is good, never that
    it is bad: members of a tar may lie apart, and later rows may be good. So a local shard is read to its end, or until
    it turns out good. A remote one is left to the same rule at the end of these shards (stages/preview/early.py). Cost:
    nothing more if the first shard is good; else at most one read of these shards.
    """
    if not limits.stop_early or not nearly_whole(seen.rejected, seen.samples, limits):
        return
    probed = []
    for index in spread(len(urls)):
        try:
            found = first_samples(reader, urls[index], encoders) if index else seen
            if not found.whole and not _is_well(found, limits):
                if storage.local_path(urls[index]) is None:
                    return
                found = _all_of(reader, urls[index], encoders)
        except (ShardError, StorageError):  # the run itself reports a shard that cannot be read
            return
        if _is_well(found, limits):
            return
        probed += [found] if found.samples else []
    raise RejectsError(refusal(reader, joined(probed), len(probed), len(urls)))


def _is_well(found: Seen, limits: Limits) -> bool:
    return found.samples > 0 and not nearly_whole(found.rejected, found.samples, limits)


def _all_of(reader: Reader, url: str, encoders: Collection[str] | None) -> Seen:
    """Read all samples of a shard, or enough to show that not nearly all are rejected; reads only headers of images."""
    if not reader.has_images:
        table, lost = reader.sound(url, [e for e in reader.encoders() if encoders is None or e in encoders])
        return _tallied([*lost, *repeat({}, table.num_rows)], url)
    described = (_described(one) if isinstance(one, Sample) else one for one in reader.samples(url))
    return _tallied(described, url, enough=_SAMPLES)


def _tallied(found: Iterable[Mapping[str, object] | Reject], url: str, enough: float = inf) -> Seen:
    """Counts of the samples, and the first readable one. Stops after `enough` samples if over half are readable."""
    count, rejects, examples = 0, Counter[str](), dict[str, str]()
    first: Mapping[str, object] = {}
    for one in found:
        if not isinstance(one, Reject):
            first = first or one
        elif one.kind == NOT_DOWNLOADED:  # not a sample of the pool
            continue
        else:
            rejects[one.kind] += 1
            examples.setdefault(one.kind, example(url, one.key, one.position, one.message))
        count += 1
        if count >= enough and 2 * rejects.total() < count:
            break
    return Seen(url, count, dict(rejects), examples, first)


def _counted(samples: Iterable[Sample | Reject], head: Head, whole: bool) -> Seen:
    """Counts and the first readable sample; reads image headers and decodes nothing."""
    described = (_described(one) if isinstance(one, Sample) else one for one in samples)
    seen = _tallied(described, head.source)
    return replace(seen, whole=whole and seen.samples < _SAMPLES)


def _described(sample: Sample) -> Mapping[str, object] | Reject:
    try:
        with open_image(sample.image) as image:
            width, height = image.size
    except SampleError as error:
        return Reject(sample.position, sample.key, error.kind, str(error))
    return {
        "key": sample.key,
        "caption": sample.caption,
        "width": width,
        "height": height,
        "uid": sample.uid.hex(),
        "uid_from": sample.named,
    }


def _of_vectors(reader: Reader, head: Head, encoders: Sequence[str]) -> Seen:
    table, rejects = reader.sound(head.url, encoders)
    kinds = Counter(reject.kind for reject in rejects)
    examples = {
        reject.kind: example(head.source, reject.key, reject.position, reject.message) for reject in reversed(rejects)
    }
    vectors = {}
    for name in encoders:
        for tower in ("image", "text"):
            if tower == "image" or reader.has_text:
                with reader.blocks(head.url, name, tower) as blocks:
                    if blocks.empty or not table.num_rows:  # the width has no meaning
                        continue
                    part = next(blocks.parts, None)
                    vectors[f"{name}.{tower}"] = [blocks.width, None if part is None else str(part.dtype)]
    first: dict[str, object] = {}
    if table.num_rows:
        row = table.slice(0, 1).to_pylist()[0]
        first = {name: row[name] for name in ("key", "caption", "width", "height")}
        first |= {
            "uid": row["uid"].hex(),
            "uid_from": row["named"],
            "caption_from": reader.caption_from(head.url, table),
        }
    return Seen(
        head.source, table.num_rows + len(rejects), dict(kinds), examples, {**first, "vectors": vectors}, head.whole
    )


def none_readable(reader: Reader, urls: Sequence[str]) -> bool:
    """Whether no shard of `spread` can be read; the first one cannot."""
    for index in spread(len(urls))[1:]:
        with suppress(ShardError, StorageError):
            first_samples(reader, urls[index])
            return False
    return True


@runtime_checkable
class Looking(Protocol):
    """A stage that reads files of the user, such as scores."""

    def look(self, widths: Mapping[str, int]) -> str:
        """Describe these files from their first bytes; "" if there are none.

        widths: width of each encoder's image vectors, if known. Raises WinnowError for a file that the stage would
        refuse.
        """
        ...
