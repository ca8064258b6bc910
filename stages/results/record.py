"""Reads the record of a finished job: its artifacts, its last cut, and the reader of its pool."""

from collections.abc import Mapping
from typing import Any

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_json
from winnow.pipeline.errors import JobError
from winnow.stages.pools.formats import FORMATS
from winnow.stages.pools.pool import POOL_KEYS
from winnow.stages.pools.reader import Reader


def record_of(store: str, name: str, must: str = "a job must have finished before it is read") -> dict[str, Any]:
    """The record of a finished job of a store. Raises JobError if there is none; must: the rule that it then tells."""
    folder = storage.join(store, "jobs")
    url = storage.join(folder, f"{name}.json")
    if not storage.exists(url):
        listed = [storage.name_of(found.url).removesuffix(".json") for found in storage.listing(folder)]
        raise JobError(f"{must}, but {store} has none called {name!r}; it has {', '.join(listed) or 'no finished job'}")
    return read_json(url)


def artifacts_of(store: str, record: Mapping[str, Any]) -> dict[str, Artifact]:
    """The artifacts that a job's record names, by label, in the order of its stages."""
    return {label: Artifact.named(store, folder) for label, folder in record["artifacts"].items()}


def last_of(artifacts: Mapping[str, Artifact]) -> Artifact:
    """The artifact that says which samples stay in the end: that of the last cut, or of `distinct` without any."""
    labels = list(artifacts)
    return artifacts[labels[labels.index("manifest") - 1]]


def reader_of(name: str, pool: Mapping[str, Any]) -> Reader:
    """The reader of job `name`'s pool, as the record has it. Raises JobError for a format that is not installed."""
    plain = {key: value for key, value in pool.items() if key not in POOL_KEYS}
    options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    if pool["format"] not in FORMATS:
        raise JobError(f"the format of {name}'s pool must be installed, got {pool['format']!r}; install its package")
    return FORMATS[pool["format"]](**options)
