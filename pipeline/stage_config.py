"""Writes a stage's configuration for `_done.json`, and compares it where an artifact of that name is there already."""

import dataclasses
from collections.abc import Mapping
from typing import cast

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import DataError
from winnow.pipeline.fingerprint import canonical


def check_made_of(stage: object, out: Artifact, done: Mapping[str, object]) -> None:
    """Raises DataError unless `_done.json` tells the configuration of this stage: a name alone is never believed."""
    there, asked = cast(Mapping[str, object], done["config"]), plain_config(stage)
    for option in _fields_of(stage):
        name = option.name
        if option.metadata.get("fingerprint", True) and there.get(name) != asked[name]:
            raise DataError(
                f"{out.folder} must be made of what this job asks for, but its {name} is {there.get(name)!r:.200} and "
                f"the job's is {asked[name]!r:.200}: two configurations have one name; use another store for one"
            )


def plain_config(stage: object) -> dict[str, object]:
    """A stage's configuration with artifacts by name, for people who read `_done.json`."""
    values = {option.name: getattr(stage, option.name) for option in _fields_of(stage)}
    return {name: v.name if isinstance(v, Artifact) else canonical(v) for name, v in values.items()}


def _fields_of(stage: object) -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(stage)  # type: ignore[arg-type]  # every stage is a dataclass
