"""The stage `export`: uid, caption and link of the kept samples, for other programs."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.artifact import Artifact, read_schema
from winnow.pipeline.columns import column
from winnow.pipeline.errors import AccountingError, JobError
from winnow.pipeline.fingerprint import IF_GIVEN
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.stages.pool_field import Field
from winnow.stages.pools.fields import as_type, json_values, one_field_type, typed
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.unchanged import check_unchanged

URL = "url"
_SAID = ("uid", "key", "caption")  # the manifest has these for rejected samples too
_SIDES = ("width", "height")
REASON = "reason"


@dataclass(frozen=True)
class Export:
    """The kept samples, or all others, with fields of the pool; no image and no vector.

    columns: fields of a sample's json in tars, columns of a parquet pool, or names of `computed`, the columns that the
    job computed. dropped: list the samples that did not
    stay, with their reason. Columns of each file: uid (32 hex digits), key, caption, width and height (null if the
    pool does not have them), `columns`, and reason if dropped. Rows are in the order of the pool; a shard without such
    samples has a file without rows. A column has the same type in all files: bool, int64, float64 or string.
    Cost: one read of the manifest's and samples' columns per shard. For json fields, also the listed samples: of a
    local tar their headers and json, of a remote one with their pictures. For columns of parquet, those columns.
    """

    samples: Artifact
    manifest: Artifact
    reader: Reader
    columns: tuple[str, ...] = (URL,)
    dropped: bool = False
    computed: tuple[Field, ...] = field(default=(), metadata=IF_GIVEN)
    name: ClassVar[str] = "export"
    version: ClassVar[int] = 3

    def __post_init__(self) -> None:
        own = {*_SAID, *_SIDES, REASON}
        if wrong := [name for name in self.columns if name in own or not name]:
            raise JobError(
                f"--columns must name fields of the pool, got {wrong[0]!r}; every export has {', '.join(sorted(own))}"
            )
        if len(set(self.columns)) < len(self.columns):
            raise JobError(f"--columns must name each column once, got {', '.join(self.columns)}; leave out repeats")

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per input shard; a file is written again if another shard needs a column in another type."""
        totals = run.fill(_Copy(self, out), out, self.name)
        if self.columns:
            schemas = [schema for _, schema in run.each(_Schema(out), run.items, f"{self.name}: types")]
            types = {name: one_field_type(schema.field(name).type for schema in schemas) for name in self.columns}
            for _ in run.each(_Retype(out, tuple(types.items())), run.items, f"{self.name}: one type"):
                pass
        filled = totals.by_name("filled")
        return {"named": totals.number("kept"), "filled": {name: filled[name] for name in self.columns}}


@dataclass(frozen=True)
class _Copy:
    stage: Export
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        table = named_rows(self.stage, item)
        filled = {name: table.num_rows - table[name].null_count for name in self.stage.columns}
        summary = {"rows": table.num_rows, "kept": table.num_rows, "filled": filled}
        self.out.write(item.index, table, summary)
        return summary


@dataclass(frozen=True)
class _Schema:
    """The types of one shard's columns."""

    out: Artifact

    def __call__(self, item: ShardItem) -> pa.Schema:
        return read_schema(self.out.shard(item.index)).remove_metadata()


@dataclass(frozen=True)
class _Retype:
    """Commits a shard's file again if a column does not have the common type of all shards."""

    out: Artifact
    types: tuple[tuple[str, pa.DataType], ...]

    def __call__(self, item: ShardItem) -> Summary:
        schema = read_schema(self.out.shard(item.index))
        others = [(name, kind) for name, kind in self.types if schema.field(name).type != kind]
        if others:
            table, summary = self.out.read(item.index), self.out.summary(item.index)
            for name, kind in others:
                place = table.schema.get_field_index(name)
                table = table.set_column(place, name, as_type(table[name], kind))
            self.out.write(item.index, table, summary)
        return {"rows": 0}


def named_rows(stage: Export, item: ShardItem) -> pa.Table:
    """The exported rows of one shard. Raises AccountingError if manifest and samples are not of one job."""
    verdicts = stage.manifest.read(item.index, [*_SAID, "kept", REASON])
    there = stage.samples.columns(item.index)
    brought = [URL] if URL in stage.columns and URL in there else []  # a pool of vectors has it
    computed = {field.name: field.read(item.index) for field in stage.computed}
    asked = [name for name in stage.columns if name not in brought and name not in computed]
    where = stage.reader.place_columns(there)
    known = stage.samples.read(item.index, list(dict.fromkeys(["position", *_SIDES, *brought, *where])))
    position = column(known, "position")
    if len(position) and position[-1] >= len(verdicts):
        raise AccountingError(
            f"{stage.manifest.shard(item.index)} must have a row for each sample of {item.url}, but has "
            f"{len(verdicts)}; run the job again"
        )
    wanted = column(verdicts, "kept") != stage.dropped
    listed = pa.array(wanted[position])
    known, found = known.filter(listed), {name: values.filter(listed) for name, values in computed.items()}
    position, rows = column(known, "position"), np.flatnonzero(wanted)
    place = pc.index_in(pa.array(rows), pa.array(position))  # null for samples that could not be read
    table = verdicts.filter(pa.array(wanted)).select(_SAID)
    found |= {name: known[name] for name in (*_SIDES, *brought)}
    if asked and len(known):
        check_unchanged(stage.samples, item.index, item.url, stage.reader)
        said = stage.reader.fields(item.url, known, asked)
        found |= {name: typed(json_values(said[name])) for name in asked if name in said}
    for name in (*_SIDES, *stage.columns):
        values_of = found.get(name, pa.nulls(len(known)))
        table = table.append_column(name, values_of.take(place))
    if URL in stage.columns:
        table = table.set_column(table.column_names.index(URL), URL, as_type(table[URL], pa.string()))
    return table.append_column(REASON, verdicts[REASON].filter(pa.array(wanted))) if stage.dropped else table
