"""Checks the inputs of a job before anything runs: first samples, models, and the files that its cuts read.

A job that cannot succeed fails here in about a second: for example a missing column or suffix, an unknown model, or a
target of another width.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from winnow.jobs.job_file.job import Job
from winnow.pipeline import storage
from winnow.pipeline.artifact import DONE
from winnow.pipeline.errors import PoolError, ShardError, StorageError
from winnow.pipeline.stage import artifact_of, spread
from winnow.pipeline.terminal import escaped
from winnow.stages.policy import Path
from winnow.stages.pool_field import FIELD
from winnow.stages.pools.reader import Reader
from winnow.stages.preview.look import Looking, Seen, check_readable, first_fields, first_samples, none_readable

_SHOWN = 60  # characters of a caption


@dataclass(frozen=True)
class Look:
    """What the check found.

    shards, bytes: of the pool. first: the first samples of the first shard that is not empty, None if unreadable.
    unread: why it is unreadable. models: facts about each encoder. files: facts about a stage's files, by its label.
    """

    shards: int
    bytes: int
    first: Seen | None = None
    unread: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """One line of text for the pool, the sample, each model and each stage with files."""
        size = f"{self.shards:,} shard{'' if self.shards == 1 else 's'}, {_size(self.bytes)}"
        if self.first is not None:
            count, rejected = self.first.samples, self.first.rejected
            size += f"; of the first {count:,} samples of a shard, {rejected:,} cannot be read"
            if count and rejected == count:  # if no sample of any shard could be read, look() has raised already
                size += ", but others may be readable, which the run will show"
            size += "".join(f"\n{'':10} {kind}: {self.first.examples[kind]}" for kind in self.first.rejects)
        if self.unread is not None:
            size += f"; the first shard cannot be read: {self.unread}"
        told = {"pool": size}
        if self.first is not None and (first := _sample(self.first.first)):
            told["sample"] = first
        told |= {**self.models, **self.files}
        return [f"{name:10} {text}" for name, text in told.items()]

    def record(self) -> dict[str, object]:
        """The same as plain values, with the names that docs/formats.md lists."""
        seen = self.first
        found = None
        if seen is not None:
            found = {
                "shard": seen.url,
                "samples": seen.samples,
                "rejected": dict(seen.rejects),
                "examples": dict(seen.examples),
                "whole": seen.whole,
                "sample": dict(seen.first) or None,
            }
        return {
            "shards": self.shards,
            "bytes": self.bytes,
            "first": found,
            "unread": self.unread,
            "models": dict(self.models),
            "files": dict(self.files),
        }


def look_at_inputs(job: Job, path: Path, shards: tuple[storage.Identity, ...], again: bool = True) -> Look:
    """Look at everything that the stages of a job will read.

    again: also look at the inputs of stages that are done. Raises what the run would raise: PoolError for a missing
    column, RejectsError if hardly any sample can be read, ModelError, JobError and DataError for models and files.
    """
    stages = [(label, stage) for label, stage in path.stages if again or not _is_done(job, stage)]
    labels = {label for label, _ in stages}
    seen, unread = None, None
    models: dict[str, str] = {}
    if "samples" in labels and shards:
        seen, unread = _pool(job, shards)
    if shards:
        models = {name: encoder.check() for name, encoder in job.models.items() if f"vectors.{name}" in labels}
    vectors = cast(Mapping[str, Any], seen.first.get("vectors", {}) if seen is not None else {})
    widths = {column.rpartition(".")[0]: width for column, (width, _) in vectors.items()}
    files = {label: stage.look(widths) for label, stage in stages if isinstance(stage, Looking)}
    files |= _fields(job, shards, labels)
    size = sum(shard.size for shard in shards)
    return Look(len(shards), size, seen, unread, models, {label: told for label, told in files.items() if told})


def _fields(job: Job, shards: tuple[storage.Identity, ...], labels: set[str]) -> Mapping[str, str]:
    """What the first samples have of each field that the run would read, by the label of its stage."""
    sources = {f"{FIELD}.{name}": source for name, source in job.pool.fields.items()}
    wanted = {label: source for label, source in sources.items() if label in labels}
    if not wanted or not shards:
        return {}
    try:
        told = first_fields(job.pool.reader, shards[0].url, list(wanted.values()))
    except (ShardError, StorageError):  # `_pool` has told of it
        return {}
    return {label: told[source] for label, source in wanted.items()}


def _pool(job: Job, shards: tuple[storage.Identity, ...]) -> tuple[Seen | None, str | None]:
    """(first samples, None), or (None, why the first shard cannot be read).

    Raises PoolError if no shard can be read, StorageError if no shard can be reached.
    """
    urls, reader = [shard.url for shard in shards], job.pool.reader
    read = {name for cut in job.policy for name in cut.encoders()}
    try:
        seen = first_samples(reader, urls[0], read)
    except (ShardError, StorageError) as error:
        if not (job.limits.stop_early and none_readable(reader, urls)):
            return None, str(error)
        if isinstance(error, ShardError):
            raise PoolError(str(error)) from error
        raise
    check_readable(reader, urls, job.limits, seen, read)
    _check_vectors(reader, urls, read)
    for index in spread(len(urls))[1:]:
        if seen.samples:  # an empty shard shows nothing
            break
        with suppress(ShardError, StorageError):
            seen = first_samples(reader, urls[index], read)
    return seen, None


def _check_vectors(reader: Reader, urls: Sequence[str], read: Collection[str]) -> None:
    """Raise PoolError if no shard of `spread` has vectors of a known type for the encoders that no cut reads.

    A job that needs no vectors decides the same without them, but a person who names them should hear of it.
    """
    if set(reader.encoders()) <= set(read):
        return
    try:
        first_samples(reader, urls[0])
    except (ShardError, StorageError) as error:
        if isinstance(error, ShardError) and none_readable(reader, urls):
            raise PoolError(str(error)) from error


def _is_done(job: Job, stage: Any) -> bool:
    return storage.exists(artifact_of(stage, job.store).meta(DONE))


def _sample(first: Mapping[str, Any]) -> str:
    """`key 000000000, 'a caption', 224 × 224, uid from json`."""
    if not first:
        return ""
    told = [f"key {escaped(first['key'])}"] if "key" in first else []
    if "caption" in first:
        caption = escaped(first["caption"])
        told.append(f"'{caption if len(caption) <= _SHOWN else caption[:_SHOWN] + '…'}'")
    if first.get("caption_from"):
        told[-1] += f" from {first['caption_from']}"
    if first.get("width") and first.get("height"):
        told.append(f"{first['width']} × {first['height']}")
    if "uid_from" in first:
        told.append(f"uid from {first['uid_from']}")
    told += [f"{name} {width} × {dtype}" for name, (width, dtype) in first.get("vectors", {}).items()]
    return ", ".join(told)


def _size(count: int) -> str:
    """A number of bytes as text: 34 MB."""
    units = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    scale, unit = next(((scale, unit) for scale, unit in units if count >= scale), (1, "bytes"))
    number = count / scale
    return f"{number:.1f} {unit}" if number < 10 and scale > 1 else f"{number:,.0f} {unit}"
