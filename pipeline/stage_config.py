"""Writes a stage's configuration for `_done.json`, and compares it with that of an artifact of the same name.

A field marked `field(metadata={"recorded": "fingerprint"})`, such as the list of all input shards, is written only as
its fingerprint, because every command reads `_done.json`, and a run reads it for each finished stage.
"""

import dataclasses
from collections.abc import Mapping
from typing import cast

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import DataError
from winnow.pipeline.fingerprint import canonical, fingerprint, fingerprinted

_DIGITS = 32  # more than the name's, or comparing would find nothing that the name does not


def check_made_of(stage: object, out: Artifact, done: Mapping[str, object]) -> None:
    """Raises DataError unless `_done.json` has the configuration of this stage, because a name alone is no proof."""
    there, counted = cast(Mapping[str, object], done["config"]), fingerprinted(stage)
    for option in _fields_of(stage):
        name, asked = option.name, _plain(stage, option)
        seen = there.get(name)
        if _by_fingerprint(option) and not isinstance(seen, str):
            seen = fingerprint(seen, _DIGITS)  # a store may be older than the mark: its `_done.json` has all of it
        if name in counted and seen != asked:
            raise DataError(
                f"{out.folder} must have the configuration of this job, but its {name} is {seen!r:.200} and the job's "
                f"is {asked!r:.200}: two configurations have the same fingerprint; use another store for one of them"
            )


def plain_config(stage: object) -> dict[str, object]:
    """A stage's configuration with artifacts by name, for people who read `_done.json`."""
    return {option.name: _plain(stage, option) for option in _fields_of(stage)}


def _plain(stage: object, option: dataclasses.Field[object]) -> object:
    value = getattr(stage, option.name)
    if _by_fingerprint(option):
        return fingerprint(value, _DIGITS)
    return value.name if isinstance(value, Artifact) else canonical(value)


def _by_fingerprint(option: dataclasses.Field[object]) -> bool:
    return option.metadata.get("recorded") == "fingerprint"


def _fields_of(stage: object) -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(stage)  # type: ignore[arg-type]  # every stage is a dataclass
