"""Reads the columns of a job file, and checks that the job has what they need."""

import re
from collections.abc import Collection, Mapping

from winnow.jobs.job_file.options import changed_fields, mapping_of, options_of, plain_options
from winnow.pipeline.errors import JobError
from winnow.stages.columns.column import Column
from winnow.stages.columns.kinds import chosen_by
from winnow.stages.cuts.contract.given import Given

_NAME = re.compile(r"\w[\w-]*")  # it names columns of the manifest


def columns_of(values: Mapping[str, object]) -> Mapping[str, Column]:
    """The columns of a job, by name. Raises JobError for a name or an option that cannot be."""
    return {name: _column(name, options) for name, options in values.items()}


def check_columns(columns: Mapping[str, Column], fields: Collection[str], given: Given) -> None:
    """Raises JobError for a column with the name of a field, and for one that needs what the job lacks."""
    if twice := [name for name in columns if name in fields]:
        raise JobError(f"columns must not have a name of pool.fields, got {twice[0]}; give one of them another name")
    for name, column in columns.items():
        column.check(f"columns.{name}", given)


def chosen_options(column: Column) -> dict[str, object]:
    """Its options that are not the default, and the one that chooses its kind."""
    return {column.kind: plain_options(column)[column.kind], **changed_fields(column)}


def _column(name: object, options: object) -> Column:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise JobError(f"columns must be named by letters, digits, dash or underscore, got {name!r}")
    where = f"columns.{name}"
    values = mapping_of(where, options)
    try:
        return options_of(chosen_by(where, values), where, values)
    except JobError as error:
        raise error if str(error).startswith(where) else JobError(f"{where}: {error}") from error
