"""Turns the values of a job file into dataclasses and back; an unknown key is an error with the nearest known one."""

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from winnow.pipeline import storage
from winnow.pipeline.errors import JobError

_T = TypeVar("_T")


def options_of(kind: type[_T], where: str, values: Mapping[str, object]) -> _T:
    """A dataclass of plain values, with absolute names of files; raises JobError for unknown keys and wrong types."""
    described = getattr(kind, "__pydantic_fields__", {})
    names = [field.name for field in dataclasses.fields(cast(Any, kind))]
    known_keys(where, values, [getattr(described.get(name), "alias", None) or name for name in names])
    try:
        # strict mode for JSON: a list is accepted for a tuple, but no text for a number and no 1.0 for an integer
        return TypeAdapter(kind).validate_json(_json(where, storage.placed(kind, values)), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join([where, *[str(part) for part in problem["loc"]]])
        raise JobError(f"{place}: {problem['msg'].removeprefix('Value error, ')}, got {problem['input']!r}") from error


def _json(where: str, values: Mapping[str, object]) -> str:
    try:
        return json.dumps(values, default=_mapping_as_dict)
    except TypeError as error:
        raise JobError(f"{where} must be plain values, as YAML holds them, got {values!r}: {error}") from error


def _mapping_as_dict(value: object) -> object:
    """Any mapping as a dict, which is the only kind that json knows."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is none")


def known_keys(where: str, values: Mapping[str, object], known: Sequence[str] | Mapping[str, object]) -> None:
    """Raises JobError for an unknown key; the message suggests the nearest known one."""
    for key in values:
        if key not in known:
            raise JobError(f"{where} has no key {key!r}{nearest(str(key), known)}; it has {', '.join(known)}")


def nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """`; did you mean …?` if a known name is close, else ""."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def unknown_kind(name: str, known: Mapping[str, object]) -> str:
    """What to do about a kind that no installed package has, as the end of a sentence."""
    return nearest(name, known) or "; if another package has it, install that"


def mapping_of(where: str, value: object) -> Mapping[str, object]:
    """The value. Raises JobError unless it is a mapping."""
    if not isinstance(value, Mapping):
        raise JobError(f"{where} must be a mapping, got {value!r}")
    return value


def list_of(where: str, value: object) -> Sequence[object]:
    """The value. Raises JobError unless it is a list."""
    if not isinstance(value, list | tuple):
        raise JobError(f"{where} must be a list, got {value!r}")
    return value


def given(values: Mapping[str, object], key: str, default: object) -> object:
    """A key's value, or the default if the key is missing or null. Other false values stay."""
    return default if values.get(key) is None else values[key]


def plain_options(value: object) -> dict[str, object]:
    """A dataclass as plain values, with the field names of job files."""
    adapter: TypeAdapter[object] = TypeAdapter(type(value))
    return cast(dict[str, object], adapter.dump_python(value, mode="json", by_alias=True))


def changed_fields(value: object) -> dict[str, object]:
    """The fields of a dataclass that differ from their defaults, with the field names of job files."""
    described = getattr(type(value), "__pydantic_fields__", {})
    found = {}
    values = plain_options(value)
    for field in dataclasses.fields(cast(Any, value)):
        known = described.get(field.name)
        default = field.default if known is None else known.default
        if getattr(value, field.name) != default:
            name = getattr(known, "alias", None) or field.name
            found[name] = values[name]
    return found
