"""Checks the inputs of a job before anything runs: first samples, models, and the files that its cuts read.

A job that cannot succeed ends here in about a second: a column or suffix that is not there, an unknown model, a target
of another width.
"""

from collections.abc import Mapping
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
from winnow.stages.preview.look import Looking, Seen, check_readable, first_samples, none_readable

_SHOWN = 60  # characters of a caption


@dataclass(frozen=True)
class Look:
    """What was seen. shards, bytes: of the pool. first: of its first shard that is not empty, None where it cannot be.

    unread: why it cannot. models: what is known of each encoder. files: what the files of a stage are, by its label.
    """

    shards: int
    bytes: int
    first: Seen | None = None
    unread: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people: (what, what of it) lines."""
        size = f"{self.shards:,} shard{'' if self.shards == 1 else 's'}, {_size(self.bytes)}"
        if self.first is not None:
            count, rejected = self.first.samples, self.first.rejected
            size += f"; {count:,} samples of one are looked at, {rejected:,} cannot be read"
            if count and rejected == count:  # what proves that none can is an error
                size += ", and the run will show whether others can"
            size += "".join(f"\n{'':10} {kind}: {self.first.examples[kind]}" for kind in self.first.rejects)
        if self.unread is not None:
            size += f"; the first cannot be read: {self.unread}"
        told = {"pool": size}
        if self.first is not None and (first := _sample(self.first.first)):
            told["sample"] = first
        told |= {**self.models, **self.files}
        return [f"{name:10} {text}" for name, text in told.items()]

    def record(self) -> dict[str, object]:
        """The same as plain values, under the names that docs/formats.md lists."""
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


def look(job: Job, path: Path, shards: tuple[storage.Identity, ...], again: bool = True) -> Look:
    """Look at everything that the stages of a job will read.

    again: at what stages read that are done, too. Raises what the run would: PoolError for a column that is not there,
    RejectsError where hardly a sample can be read, ModelError, JobError and DataError for models and files.
    """
    stages = [(label, stage) for label, stage in path.stages if again or not _is_done(job, stage)]
    labels = {label for label, _ in stages}
    seen, unread = None, None
    models: dict[str, str] = {}
    if "embeddings" in labels and shards:
        seen, unread = _pool(job, shards)
        models = {name: encoder.check() for name, encoder in job.embeddings.items()}
    vectors = cast(Mapping[str, Any], seen.first.get("vectors", {}) if seen is not None else {})
    widths = {column.rpartition(".")[0]: width for column, (width, _) in vectors.items()}
    files = {label: stage.look(widths) for label, stage in stages if isinstance(stage, Looking)}
    size = sum(shard.size for shard in shards)
    return Look(len(shards), size, seen, unread, models, {label: told for label, told in files.items() if told})


def _pool(job: Job, shards: tuple[storage.Identity, ...]) -> tuple[Seen | None, str | None]:
    """What the first shard is, or why it cannot be read.

    Raises PoolError where no shard can be read, StorageError where they are out of reach.
    """
    urls, reader = [shard.url for shard in shards], job.pool.reader
    try:
        seen = first_samples(reader, urls[0])
    except (ShardError, StorageError) as error:
        if not (job.limits.stop_early and none_readable(reader, urls)):
            return None, str(error)
        if isinstance(error, ShardError):
            raise PoolError(str(error)) from error
        raise
    check_readable(reader, urls, job.limits, seen)
    for index in spread(len(urls))[1:]:
        if seen.samples:  # an empty shard shows nothing
            break
        with suppress(ShardError, StorageError):
            seen = first_samples(reader, urls[index])
    return seen, None


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
    """Bytes for people: 34 MB."""
    units = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    scale, unit = next(((scale, unit) for scale, unit in units if count >= scale), (1, "bytes"))
    number = count / scale
    return f"{number:.1f} {unit}" if number < 10 and scale > 1 else f"{number:,.0f} {unit}"
