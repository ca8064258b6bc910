"""Lays out the stages of a job's columns, and opens the columns of a finished job."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Stage, artifact_of
from winnow.stages.columns.column import Beside, Column
from winnow.stages.pool_field import Field
from winnow.stages.survivors import Survivors


def column_stages(
    columns: Mapping[str, Column], known: Survivors, recipe_of_rows: str, recipes: Mapping[str, str], store: str
) -> tuple[list[Stage], tuple[Field, ...]]:
    """The stage of each column of a job, and the fields that cuts read.

    known: every readable sample. recipe_of_rows: of the samples. recipes: of the vectors of each encoder.
    """
    stages = []
    for column in columns.values():
        read = column.encoders()
        seen = replace(known, encoded=tuple(one for one in known.encoded if one[0] in read))
        recipe = fingerprint([recipe_of_rows, *(recipes[name] for name in read)]) if read else recipe_of_rows
        stages.append(column.stage(Beside(seen, recipe)))
    return stages, fields_of(columns, [artifact_of(stage, store) for stage in stages])


def fields_of(columns: Mapping[str, Column], made: Sequence[Artifact]) -> tuple[Field, ...]:
    """The columns of a job as fields. made: the artifact of each."""
    return tuple(Field(name, one, column.chosen()) for (name, column), one in zip(columns.items(), made, strict=True))
