"""Changes single values of a job by their path, as in `--set policy.0.rules.min_words=5`."""

import re
from typing import Any

from winnow.jobs.job_file.yaml_text import loads
from winnow.pipeline.errors import JobError

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")  # index of a list entry


def change(values: dict[str, Any], text: str) -> None:
    """Apply one `path.to.key=value`, whose value is YAML."""
    path, separator, value = text.partition("=")
    if not separator:
        raise JobError(f"a change must be path=value, got {text!r}")
    put(values, path, loads(value, f"--set {text}"), "--set")


def put(values: dict[str, Any], path: str, value: object, option: str) -> None:
    """Set the value at `path.to.key` in a job's plain values. List entries are named by number.

    option: names the path in errors. Raises JobError for a place that the job does not have.
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
