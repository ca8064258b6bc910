"""Reads a job file into its parts; refuses unknown keys with the nearest known name, and values of the wrong kind."""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from winnow.jobs.job_file.yaml_text import loads
from winnow.pipeline import storage
from winnow.pipeline.errors import JobError, StorageError
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.stage import Limits
from winnow.stages.cuts.coverage import Coverage
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.duplicates import Duplicates
from winnow.stages.cuts.epochs import Epochs
from winnow.stages.cuts.negclip import Negclip
from winnow.stages.cuts.similarity import Similarity
from winnow.stages.embeddings import has_text
from winnow.stages.encoders import Encoding, OpenClip, Timm
from winnow.stages.policy import CUTS
from winnow.stages.pools import FORMATS, VectorReader
from winnow.stages.pools.pool import Pool

_KEYS = ("name", "store", "pool", "embeddings", "encoding", "policy", "shards", "resources", "limits")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")  # of an entry of a list
_PATTERNS = ("::", "{", "}")  # by which webdataset parts and expands what it is told to open
_NAME = re.compile(r"\w[\w.-]*")  # it names a file of the store
_T = TypeVar("_T")


@dataclass(frozen=True)
class ShardOptions:
    """samples_per_shard: samples in every output tar but the last."""

    samples_per_shard: int = 10_000


@dataclass(frozen=True)
class Resources:
    """workers: how many (all cores or GPUs when None). cpus, gpus: what one worker takes while it embeds.

    retries: how often a failing shard is tried again. prefetch: an embedding worker opens the next shard while it is at
    one, and ends the one before in the background.
    """

    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 2
    prefetch: bool = True


@dataclass(frozen=True)
class Job:
    """One run: what to read, how to embed it, what to keep, where to leave it.

    resolved: the whole job as plain values, defaults filled in; stored with the result.
    """

    name: str
    store: str
    pool: Pool
    embeddings: Mapping[str, OpenClip | Timm]
    encoding: Encoding
    policy: tuple[Cut, ...]
    shards: ShardOptions | None
    resources: Resources
    limits: Limits
    resolved: Mapping[str, object]

    @property
    def needs(self) -> Needs:
        """What one worker takes while it embeds."""
        taken = self.resources
        return Needs(taken.cpus, taken.gpus, taken.retries, taken.prefetch)


def load(path: str, changes: Sequence[str] = ()) -> Job:
    """The job in a YAML file, with `path.to.key=value` changes applied; JobError for anything it does not know."""
    return parse(read(path, changes))


def read(path: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a job file, with changes applied; what they say is for `parse` to judge."""
    try:
        values = loads(storage.read_text(path), path)
    except StorageError as error:
        raise JobError(f"a job is a YAML file, but: {error}") from error
    if not isinstance(values, dict):
        raise JobError(f"{path} must be a mapping with {', '.join(_KEYS)}, but it holds {type(values).__name__}")
    paths = [change.partition("=")[0] for change in changes]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise JobError(f"--set must name a place once, but {twice} came {paths.count(twice)} times")
    for change in changes:
        _change(values, change)
    return values


def parse(values: Mapping[str, object]) -> Job:
    """The job of plain values, as a YAML file holds them."""
    _known_keys("the job", values, _KEYS)
    for key in ("name", "store", "pool"):
        if not values.get(key):
            raise JobError(f"a job must have {key}")
    if not isinstance(values["name"], str):
        raise JobError(f"name must be text, but {values['name']!r} came; quote it")
    pool = _pool(_mapping("pool", values["pool"]))
    embeddings = {
        name: _encoder(name, _mapping(f"embeddings.{name}", options))
        for name, options in _mapping("embeddings", _given(values, "embeddings", {})).items()
    }
    policy = tuple(_cut(number, entry) for number, entry in enumerate(_list("policy", _given(values, "policy", []))))
    shards = values.get("shards")
    job = Job(
        name=values["name"],
        store=_store(values["store"]),
        pool=pool,
        embeddings=embeddings,
        encoding=options_of(Encoding, "encoding", _mapping("encoding", _given(values, "encoding", {}))),
        policy=policy,
        shards=None if shards is None else options_of(ShardOptions, "shards", _mapping("shards", shards)),
        resources=options_of(Resources, "resources", _mapping("resources", _given(values, "resources", {}))),
        limits=options_of(Limits, "limits", _mapping("limits", _given(values, "limits", {}))),
        resolved={},
    )
    _check(job)
    return dataclasses.replace(job, resolved=_resolved(job))


def _check(job: Job) -> None:
    vectors = isinstance(job.pool.reader, VectorReader)
    names = job.pool.reader.encoders() if isinstance(job.pool.reader, VectorReader) else tuple(job.embeddings)
    if vectors and job.embeddings:
        raise JobError(f"this pool brings its vectors ({', '.join(names)}), so the job must not have embeddings")
    if vectors and job.shards is not None:
        raise JobError("this pool has no images, so no shards can be written: leave shards out and use uids.npy")
    if not names:
        raise JobError("a pool of images needs at least one encoder under embeddings")
    for cut in job.policy:
        _check_cut(cut, job, names)
    if any(isinstance(cut, Epochs) for cut in job.policy[:-1]):
        raise JobError("epochs must be the last cut of a policy, for a later one would take samples out of some epochs")
    if not _NAME.fullmatch(job.name):
        raise JobError(f"a job's name must be letters, digits, dot, dash or underscore, but {job.name!r} came")
    wants = job.resources
    if (wants.workers is not None and wants.workers < 1) or wants.retries < 0:
        raise JobError(f"resources need workers >= 1 and retries >= 0, but {wants} came")
    if not (0 <= wants.cpus < float("inf") and 0 <= wants.gpus < float("inf") and wants.cpus + wants.gpus > 0):
        raise JobError(f"resources need cpus >= 0 and gpus >= 0, not both 0, but {wants} came")
    if not 0 <= job.limits.max_reject_fraction <= 1 or job.limits.max_failed_shards < 0:
        raise JobError(f"limits need 0 <= max_reject_fraction <= 1 and max_failed_shards >= 0, but {job.limits} came")
    if job.shards is not None and job.shards.samples_per_shard < 1:
        raise JobError(f"shards.samples_per_shard must be at least 1, but {job.shards.samples_per_shard} came")


def _check_cut(cut: Cut, job: Job, names: Sequence[str]) -> None:
    reader = job.pool.reader
    by = getattr(cut, "by", None)
    if by is not None and by not in names:
        raise JobError(f"{cut.kind}.by must be an encoder of the job ({', '.join(names)}), but {by!r} came")
    if isinstance(cut, Similarity | Negclip | Coverage) and by is not None:
        text = has_text(reader) if isinstance(reader, VectorReader) else isinstance(job.embeddings[by], OpenClip)
        if not text:
            raise JobError(f"{cut.kind} compares image and text, but {by} has no text vectors; name a CLIP")
    if isinstance(cut, Duplicates) and cut.exact and isinstance(reader, VectorReader):
        raise JobError(
            "duplicates.exact compares the bytes of images, which this pool has not: set exact: false and an epsilon"
        )


def _store(url: object) -> str:
    if not isinstance(url, str):
        raise JobError(f"store must be a URL or a folder, but {url!r} came")
    if url.startswith(("http://", "https://")):
        raise JobError(f"store must be where files can be written, but {storage.shown(url)} came, of a web server")
    try:
        store = storage.absolute(url.rstrip("/"))
    except StorageError as error:
        raise JobError(f"store: {error}") from error
    if found := next((mark for mark in _PATTERNS if mark in store), None):
        raise JobError(
            f"store must be a name that training can open as it is, but {storage.shown(store)} holds {found}, which "
            f"webdataset takes for a list of names; name another folder"
        )
    return store


def _pool(values: Mapping[str, object]) -> Pool:
    shards = values.get("shards")
    patterns = [shards] if isinstance(shards, str) else shards
    if not isinstance(patterns, list | tuple) or not patterns or not all(isinstance(p, str) and p for p in patterns):
        raise JobError(f"pool.shards must be a pattern or a list of them, but {shards!r} came")
    kind = str(values.get("format") or ("parquet" if patterns[0].endswith(".parquet") else "webdataset"))
    if kind not in FORMATS:
        raise JobError(f"pool.format must be one of {', '.join(FORMATS)}, but {kind!r} came{_nearest(kind, FORMATS)}")
    options = {key: value for key, value in values.items() if key not in ("shards", "format")}
    return Pool(tuple(patterns), options_of(FORMATS[kind], "pool", options))


def _encoder(name: str, values: Mapping[str, object]) -> OpenClip | Timm:
    if not isinstance(name, str) or not name or "." in name:
        raise JobError(f"an encoder's name must be text without a dot, but {name!r} came")
    kind: type[OpenClip] | type[Timm] = Timm if "timm" in values else OpenClip
    return options_of(kind, f"embeddings.{name}", values)


def _cut(number: int, entry: object) -> Cut:
    values = _mapping(f"policy.{number}", entry)
    if len(values) != 1:
        raise JobError(f"policy.{number} must be one cut, such as rules: {{min_words: 3}}, but {list(values)} came")
    [(kind, options)] = values.items()
    if kind not in CUTS:
        raise JobError(
            f"policy.{number} must be one of {', '.join(CUTS)}, but {kind!r} came{_nearest(str(kind), CUTS)}"
        )
    where = f"policy.{number}.{kind}"
    known = _mapping(where, {} if options is None else options)
    try:
        return options_of(CUTS[kind], where, known)
    except JobError as error:
        raise error if str(error).startswith(where) else JobError(f"{where}: {error}") from error


def options_of(kind: type[_T], where: str, values: Mapping[str, object]) -> _T:
    """A dataclass of plain values; raises JobError for unknown keys and wrong types."""
    described = getattr(kind, "__pydantic_fields__", {})
    names = [field.name for field in dataclasses.fields(cast(Any, kind))]
    _known_keys(where, values, [getattr(described.get(name), "alias", None) or name for name in names])
    try:
        # strict as JSON is: a list is a tuple there, but no text is a number, and no 1.0 an integer
        return TypeAdapter(kind).validate_json(_json(where, values), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join([where, *[str(part) for part in problem["loc"]]])
        raise JobError(
            f"{place}: {problem['msg'].removeprefix('Value error, ')}, but {problem['input']!r} came"
        ) from error


def _json(where: str, values: Mapping[str, object]) -> str:
    try:
        return json.dumps(values, default=_mapping_as_dict)
    except TypeError as error:
        raise JobError(f"{where} must be plain values, as YAML holds them, but {values!r} came: {error}") from error


def _mapping_as_dict(value: object) -> object:
    """A mapping of another kind than json knows, as that."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is none")


def _known_keys(where: str, values: Mapping[str, object], known: Sequence[str] | Mapping[str, object]) -> None:
    for key in values:
        if key not in known:
            raise JobError(f"{where} has no key {key!r}{_nearest(str(key), known)}; it has {', '.join(known)}")


def _nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _given(values: Mapping[str, object], key: str, default: object) -> object:
    """A key's value; the default where the key is absent or empty, but not for other false values."""
    return default if values.get(key) is None else values[key]


def _mapping(where: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise JobError(f"{where} must be a mapping, but {value!r} came")
    return value


def _list(where: str, value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise JobError(f"{where} must be a list, but {value!r} came")
    return value


def _change(values: dict[str, Any], change: str) -> None:
    """Apply one `path.to.key=value`; values are YAML."""
    path, separator, text = change.partition("=")
    if not separator:
        raise JobError(f"a change must be path=value, but {change!r} came")
    put(values, path, loads(text, f"--set {change}"), "--set")


def put(values: dict[str, Any], path: str, value: object, option: str) -> None:
    """Set what lies at `path.to.key` in a job's plain values; list entries go by number.

    option: what names the path in errors. Raises JobError for a place that the job does not have.
    """
    *parents, last = path.split(".")
    where = f"{option} {path}"
    place: Any = values
    for part in parents:
        place = _step(place, part, where)
    if isinstance(place, list):
        _step(place, last, where)
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise JobError(f"{where}: {last!r} must be inside a mapping or list of the job")


def _step(place: Any, part: str, where: str) -> Any:
    if isinstance(place, list) and _NUMBER.fullmatch(part) and int(part) < len(place):
        return place[int(part)]
    if isinstance(place, dict):
        return place.setdefault(part, {})
    raise JobError(f"{where}: there is no {part!r} in the job at that place")


def _resolved(job: Job) -> Mapping[str, object]:
    """The whole job as plain values, every default written out."""
    kinds = {kind: name for name, kind in FORMATS.items()}
    return {
        "name": job.name,
        "store": job.store,
        "pool": {
            "shards": list(job.pool.shards),
            "format": kinds[type(job.pool.reader)],
            **_plain(job.pool.reader),
        },
        "embeddings": {name: _plain(encoder) for name, encoder in job.embeddings.items()},
        "encoding": _plain(job.encoding),
        "policy": [{cut.kind: _plain(cut)} for cut in job.policy],
        "shards": None if job.shards is None else _plain(job.shards),
        "resources": _plain(job.resources),
        "limits": _plain(job.limits),
    }


def changed(job: Job) -> Mapping[str, object]:
    """What of the resolved job is not as it would be by default."""
    parts = {
        "name": job.name,
        "store": job.store,
        "pool": {
            **{name: cast(Any, job.resolved["pool"])[name] for name in ("shards", "format")},
            **_set(job.pool.reader),
        },
        "embeddings": {name: _set(encoder) for name, encoder in job.embeddings.items()},
        "encoding": _set(job.encoding),
        "policy": [{cut.kind: _set(cut)} for cut in job.policy],
        "resources": _set(job.resources),
        "limits": _set(job.limits),
    }
    written = {} if job.shards is None else {"shards": _plain(job.shards)}  # that there are any is the choice
    return {**{name: value for name, value in parts.items() if value}, **written}


def _set(value: object) -> dict[str, object]:
    """The fields of a dataclass that are not its defaults, by the names that a job gives them."""
    described = getattr(type(value), "__pydantic_fields__", {})
    found = {}
    plain = _plain(value)
    for field in dataclasses.fields(cast(Any, value)):
        known = described.get(field.name)
        default = field.default if known is None else known.default
        if getattr(value, field.name) != default:
            name = getattr(known, "alias", None) or field.name
            found[name] = plain[name]
    return found


def _plain(value: object) -> dict[str, object]:
    adapter: TypeAdapter[object] = TypeAdapter(type(value))
    return cast(dict[str, object], adapter.dump_python(value, mode="json", by_alias=True))
