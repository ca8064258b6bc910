"""Computes the fingerprint in an artifact's name: a hash of stage name, version, configuration and inputs."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from winnow.pipeline.plugins import origin_of

IF_GIVEN: Mapping[str, object] = {"fingerprint": "if given"}
"""Metadata of a field that came later: at its default it is left out, so that older artifacts keep their names."""


def fingerprint(value: object, digits: int = 16) -> str:
    """The first hex digits of the sha256 of the canonical JSON of `value`. digits: 16 for a folder, 32 for a shard."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def canonical(value: object) -> object:
    """Configuration as plain JSON: a dataclass becomes its class name and fields, a tuple becomes a list.

    An array becomes its dtype, its shape and a hash of its bytes.

    A field with metadata `fingerprint=False` (how to run, not what to compute) is left out, and so is one with
    `IF_GIVEN` that has its default. An object with a `fingerprint` attribute (an artifact) becomes its fingerprint. A
    plugin's class is named with its distribution and version, so that another version makes another artifact. Raises
    TypeError for other types.
    """
    if isinstance(value, str | int | float) or value is None:  # first, for most values are: a pool has 600,000
        return value
    known = getattr(value, "fingerprint", None)
    if isinstance(known, str):
        return known
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {name: canonical(getattr(value, name)) for name in fingerprinted(value)}
        return {"class": _named(type(value)), **named}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": str(value.dtype), "shape": list(value.shape), "sha256": content}
    if isinstance(value, Sequence):
        return [canonical(item) for item in value]
    raise TypeError(f"configuration is plain values, arrays, dataclasses and artifacts, got {type(value)}")


def fingerprinted(value: object) -> list[str]:
    """The names of a dataclass's fields that its fingerprint has."""
    fields = dataclasses.fields(value)  # type: ignore[arg-type]  # the caller has a dataclass
    return [field.name for field in fields if _counts(field, getattr(value, field.name))]


def _counts(field: dataclasses.Field[object], value: object) -> bool:
    mark = field.metadata.get("fingerprint", True)
    if mark != IF_GIVEN["fingerprint"]:
        return bool(mark)
    made = field.default_factory
    return value != (field.default if made is dataclasses.MISSING else made())


def _named(kind: type) -> str:
    origin = origin_of(kind)
    return kind.__name__ if origin is None else f"{kind.__name__} of {origin}"
