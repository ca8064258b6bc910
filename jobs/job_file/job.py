"""The job: reads a job file into pool, encoders, policy and store, and checks that they fit together."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from winnow.jobs.job_file.changes import change
from winnow.jobs.job_file.columns import check_columns, chosen_options, columns_of
from winnow.jobs.job_file.options import (
    changed_fields,
    given,
    known_keys,
    mapping_of,
    options_of,
    plain_options,
    unknown_kind,
)
from winnow.jobs.job_file.policy_list import cuts_of, plain_cuts
from winnow.jobs.job_file.resources import Resources, check_resources
from winnow.jobs.job_file.yaml_text import loads
from winnow.pipeline import storage
from winnow.pipeline.errors import JobError, StorageError
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.stage import Limits
from winnow.stages.columns.column import Column
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.cut import Cut
from winnow.stages.encoders import Encoding
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.encoders.kinds import ENCODERS, chosen_by
from winnow.stages.pools.formats import FORMATS, format_of
from winnow.stages.pools.pool import POOL_KEYS, Pool
from winnow.stages.pools.reader import Reader

_KEYS = ("name", "store", "pool", "embeddings", "encoding", "columns", "policy", "shards", "resources", "limits")
_PATTERNS = ("::", "{", "}")  # webdataset splits and expands names at these
_FIELD = re.compile(r"\w[\w-]*")  # it names columns of the manifest
_NAME = re.compile(r"\w[\w.-]*")  # it names a file of the store


@dataclass(frozen=True)
class ShardOptions:
    """samples_per_shard: samples in every output tar but the last."""

    samples_per_shard: int = 10_000


@dataclass(frozen=True)
class Job:
    """One run: what to read, how to embed it, what to keep, and where to write the result.

    resolved: the whole job as plain values, defaults filled in; stored with the result.
    """

    name: str
    store: str
    pool: Pool
    embeddings: Mapping[str, Encoder]
    encoding: Encoding
    columns: Mapping[str, Column]
    policy: tuple[Cut, ...]
    shards: ShardOptions | None
    resources: Resources
    limits: Limits
    resolved: Mapping[str, object]

    @property
    def models(self) -> Mapping[str, Encoder]:
        """The encoders that are models; the vectors of the others exist."""
        return {name: encoder for name, encoder in self.embeddings.items() if encoder.has_model}

    @property
    def needs(self) -> Needs:
        """The resources of one worker while it embeds."""
        return self.resources.needs

    @property
    def alone(self) -> Needs:
        """The resources of the worker that fits k-means; see Run.alone."""
        return self.resources.alone


def load_job(path: str, changes: Sequence[str] = ()) -> Job:
    """The job in a YAML file, with `path.to.key=value` changes applied and all file names absolute.

    Raises JobError for an unknown key and for any invalid value.
    """
    return parse(read(path, changes))


def read(path: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a job file, with changes applied. `parse` checks them.

    File names in the job file are relative to its folder, those in `changes` to the working directory.
    """
    try:
        values = storage.from_file(loads(storage.read_text(path), path), path)
    except StorageError as error:
        raise JobError(f"a job must be a YAML file, but: {error}") from error
    if not isinstance(values, dict):
        raise JobError(f"{path} must be a mapping with {', '.join(_KEYS)}, but it holds {type(values).__name__}")
    paths = [text.partition("=")[0] for text in changes]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise JobError(f"--set must name a place once, but {twice} is set {paths.count(twice)} times")
    for text in changes:
        change(values, text)
    return values


def parse(values: Mapping[str, object]) -> Job:
    """The job from plain values, as a YAML file holds them. File names are relative to the working directory."""
    known_keys("the job", values, _KEYS)
    for key in ("name", "store", "pool"):
        if not values.get(key):
            raise JobError(f"a job must have {key}; its keys are {', '.join(_KEYS)}")
    if not isinstance(values["name"], str):
        raise JobError(f"name must be text, got {values['name']!r}; quote it")
    pool = _pool("pool", mapping_of("pool", values["pool"]))
    embeddings = {
        name: _encoder(name, mapping_of(f"embeddings.{name}", options))
        for name, options in mapping_of("embeddings", given(values, "embeddings", {})).items()
    }
    columns = columns_of(mapping_of("columns", given(values, "columns", {})))
    policy = cuts_of("policy", given(values, "policy", []))
    shards = values.get("shards")
    job = Job(
        name=str(values["name"]),
        store=_store(values["store"]),
        pool=pool,
        embeddings=embeddings,
        encoding=options_of(Encoding, "encoding", mapping_of("encoding", given(values, "encoding", {}))),
        columns=columns,
        policy=policy,
        shards=None if shards is None else options_of(ShardOptions, "shards", mapping_of("shards", shards)),
        resources=options_of(Resources, "resources", mapping_of("resources", given(values, "resources", {}))),
        limits=options_of(Limits, "limits", mapping_of("limits", given(values, "limits", {}))),
        resolved={},
    )
    _check(job)
    return dataclasses.replace(job, resolved=_resolved(job))


def _check(job: Job) -> None:
    images = job.pool.reader.has_images
    names = tuple(job.embeddings) if images else job.pool.reader.encoders()
    if not images and job.embeddings:
        raise JobError(f"this pool has no images: leave embeddings out, its own are {', '.join(names) or 'none'}")
    if not images and job.shards is not None:
        raise JobError("this pool has no images, so no shards can be written: leave shards out and use uids.npy")
    text = {name: _has_text(job, name) for name in names}
    offered = Given(text, images, (*job.pool.fields, *job.columns))
    check_columns(job.columns, job.pool.fields, offered)
    for cut in job.policy:
        cut.check(offered)
    if early := [cut.kind for cut in job.policy[:-1] if cut.draws_epochs]:
        raise JobError(
            f"{early[0]} must be the last cut of a policy, because a later cut would remove samples from some epochs"
        )
    if not _NAME.fullmatch(job.name):
        raise JobError(f"a job's name must be letters, digits, dot, dash or underscore, got {job.name!r}")
    check_resources(job.resources)
    if not 0 <= job.limits.max_reject_fraction <= 1 or job.limits.max_failed_shards < 0:
        raise JobError(f"limits need 0 <= max_reject_fraction <= 1 and max_failed_shards >= 0, got {job.limits}")
    if job.shards is not None and job.shards.samples_per_shard < 1:
        raise JobError(f"shards.samples_per_shard must be at least 1, got {job.shards.samples_per_shard}")


def _has_text(job: Job, encoder: str) -> bool:
    """Whether an encoder of the job has text vectors too."""
    reader = job.pool.reader
    return job.embeddings[encoder].has_text if reader.has_images else reader.has_text


def _store(url: object) -> str:
    if not isinstance(url, str):
        raise JobError(f"store must be a URL or a folder, got {url!r}")
    if url.startswith(("http://", "https://")):
        raise JobError(
            f"store must be a place where files can be written, got {storage.redacted(url)}, which is on a web server"
        )
    try:
        store = storage.rooted(url).rstrip("/") or "/"
        storage.check_commits(store)
    except StorageError as error:
        raise JobError(f"store: {error}") from error
    if found := next((mark for mark in _PATTERNS if mark in store), None):
        raise JobError(
            f"store must be a name that webdataset can open, but {storage.redacted(store)} contains {found}, which "
            f"webdataset expands to a list of names; use another folder"
        )
    return store


def _pool(where: str, values: Mapping[str, object]) -> Pool:
    shards = values.get("shards")
    patterns = [shards] if isinstance(shards, str) else shards
    if not isinstance(patterns, list | tuple) or not patterns or not all(isinstance(p, str) and p for p in patterns):
        raise JobError(f"{where}.shards must be a pattern or a list of them, got {shards!r}")
    kind = str(values.get("format") or format_of(patterns[0]))
    if kind not in FORMATS:
        raise JobError(f"{where}.format must be one of {', '.join(FORMATS)}, got {kind!r}{unknown_kind(kind, FORMATS)}")
    options = {key: value for key, value in values.items() if key not in POOL_KEYS}
    reader = options_of(FORMATS[kind], where, options)
    fields = _fields(reader, mapping_of(f"{where}.fields", given(values, "fields", {})))
    return Pool(tuple(map(storage.rooted_pattern, patterns)), reader, fields)


def _fields(reader: Reader, values: Mapping[str, object]) -> Mapping[str, str]:
    for name, source in values.items():
        if not isinstance(name, str) or not _FIELD.fullmatch(name):
            raise JobError(f"pool.fields must be named by letters, digits, dash or underscore, got {name!r}")
        if not isinstance(source, str):
            raise JobError(f"pool.fields.{name} must be a column or json:KEY, got {source!r}")
        try:
            reader.field_name(source)
        except JobError as error:
            raise JobError(f"pool.fields.{name}: {error}") from error
    return {name: str(source) for name, source in values.items()}


def _encoder(name: str, values: Mapping[str, object]) -> Encoder:
    if not isinstance(name, str) or not name or "." in name:
        raise JobError(f"an encoder's name must be text without a dot, got {name!r}")
    where = f"embeddings.{name}"
    kind = values.get("kind")
    if kind is not None and kind not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise JobError(f"{where}.kind must be one of {known}, got {kind!r}{unknown_kind(str(kind), ENCODERS)}")
    chosen = chosen_by(values) if kind is None else ENCODERS[str(kind)]
    options = {key: value for key, value in values.items() if key != "kind"}
    for key in set(chosen.pools) & set(options):  # the pool's own options are checked as strictly as those of `pool`
        options[key] = _plain_pool(_pool(f"{where}.{key}", mapping_of(f"{where}.{key}", options[key])))
    try:
        return options_of(chosen, where, options)
    except JobError as error:
        raise error if str(error).startswith(where) else JobError(f"{where}: {error}") from error


def _resolved(job: Job) -> Mapping[str, object]:
    """The whole job as plain values, every default written out."""
    return {
        "name": job.name,
        "store": job.store,
        "pool": _plain_pool(job.pool),
        "embeddings": {name: {**_kind(encoder), **plain_options(encoder)} for name, encoder in job.embeddings.items()},
        "encoding": plain_options(job.encoding),
        **({"columns": {name: plain_options(one) for name, one in job.columns.items()}} if job.columns else {}),
        "policy": plain_cuts(job.policy, plain_options),
        "shards": None if job.shards is None else plain_options(job.shards),
        "resources": plain_options(job.resources),
        "limits": plain_options(job.limits),
    }


def changed(job: Job) -> Mapping[str, object]:
    """The values of the resolved job that differ from the defaults."""
    parts = {
        "name": job.name,
        "store": job.store,
        "pool": {
            **{name: cast(Any, job.resolved["pool"])[name] for name in ("shards", "format")},
            **changed_fields(job.pool.reader),
            **_said(job.pool),
        },
        "embeddings": {name: {**_kind(encoder), **changed_fields(encoder)} for name, encoder in job.embeddings.items()},
        "encoding": changed_fields(job.encoding),
        "columns": {name: chosen_options(column) for name, column in job.columns.items()},
        "policy": plain_cuts(job.policy, changed_fields),
        "resources": changed_fields(job.resources),
        "limits": changed_fields(job.limits),
    }
    written = {} if job.shards is None else {"shards": plain_options(job.shards)}  # that there are any is the choice
    return {**{name: value for name, value in parts.items() if value}, **written}


def _plain_pool(pool: Pool) -> dict[str, object]:
    return {
        "shards": list(pool.shards),
        "format": pool.reader.kind,
        **plain_options(pool.reader),
        **_said(pool),
    }


def _said(pool: Pool) -> dict[str, object]:
    return {"fields": dict(pool.fields)} if pool.fields else {}


def _kind(encoder: Encoder) -> dict[str, object]:
    """The key `kind`, if a job needs it to choose this encoder."""
    return {} if encoder.named_by else {"kind": encoder.kind}
