"""The columns that a job can name: winnow's own, and those of installed plugins."""

from collections.abc import Mapping

from winnow.pipeline.errors import JobError
from winnow.pipeline.plugins import Offered
from winnow.stages.columns.captions import Captions
from winnow.stages.columns.column import Column, check_kind
from winnow.stages.columns.language import Language

OWN: Mapping[str, type[Column]] = {column.kind: column for column in (Captions, Language)}
"""Winnow's own columns. A new column is one file, one test file, and one name here."""

COLUMNS: Mapping[str, type[Column]] = Offered("winnow.columns", OWN, check_kind)
"""Every column by its kind. The column of a plugin is imported when a job names it."""


def chosen_by(where: str, options: Mapping[str, object]) -> type[Column]:
    """The column whose kind is among the options. Raises JobError if that is none, or several."""
    named = [kind for kind in COLUMNS if kind in options]
    if len(named) != 1:
        known, came = ", ".join(COLUMNS), ", ".join(map(str, options)) or "no option"
        raise JobError(f"{where} must have exactly one of {known}, got {came}; if another package has it, install that")
    return COLUMNS[named[0]]
