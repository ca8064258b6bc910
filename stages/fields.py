"""The stage `field`: one field of the pool, such as punsafe or url, as a typed column beside the samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, cast

import pyarrow as pa

from winnow.pipeline.adoption import adopt, keep_own
from winnow.pipeline.artifact import Artifact, read_schema, shard_name, write_table
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run, ShardItem, Summary, artifact_of
from winnow.stages.pool_field import FIELD, KINDS, VALUE, Field
from winnow.stages.pools.field_types import NOTHING, common, exact, mixed_shards, widened
from winnow.stages.pools.fields import Values
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.unchanged import check_unchanged


@dataclass(frozen=True)
class FieldStage:
    """Reads one field, and in the same pass those of the other stages of the job that are not made yet.

    source: what the job names, such as json:punsafe. recipe_of_rows: fingerprint of what decides the rows without the
    input shards. others: (source, artifact) of every field of the job.
    """

    samples: Artifact
    source: str
    reader: Reader = field(metadata={"fingerprint": False})  # the samples have it in their fingerprint
    recipe_of_rows: str = field(metadata={"fingerprint": False})
    others: tuple[tuple[str, Artifact], ...] = field(default=(), metadata={"fingerprint": False})
    name: ClassVar[str] = FIELD
    version: ClassVar[int] = 1

    @property
    def recipe(self) -> str:
        """A fingerprint without the shards: artifacts of one recipe have the same values for the same shard."""
        return fingerprint([self.name, self.version, self.source, self.recipe_of_rows])

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard with the column `value`, of one type in all. Raises DataError if types mix."""
        adopted = adopt(run, out, self.recipe)
        more = tuple((source, made) for source, made in self.others if made != out and made.done() is None)
        types = _Types(run)
        totals = run.fill(_ReadFields(self, (*more, (self.source, out))), out, f"{self.name} {self.source}", [types])
        kind = types.common(self.source)
        if not types.agree:
            label = f"{self.name} {self.source}: one type"
            widened_here = run.each(_Widen(out, kind, self.source), run.items, label)
            keep_own(out, {index for index, again in widened_here if again})
        rows, nulls = totals.number("rows"), totals.number("null")
        return {"rows": rows, "null": nulls, "type": str(kind), "adopted": adopted, "notes": self._notes(rows, nulls)}

    def _notes(self, rows: int, nulls: int) -> list[str]:
        if not nulls:
            return []
        how_many = "none" if nulls == rows else f"{rows - nulls:,}"
        return [f"{how_many} of {rows:,} samples ha{'s' if how_many in ('none', '1') else 've'} {self.source}"]


def field_stages(
    sources: Mapping[str, str], samples: Artifact, reader: Reader, recipe_of_rows: str, store: str
) -> tuple[list[FieldStage], tuple[Field, ...]]:
    """The stage of each field of a job, and the fields by their names. sources: what the job names, by name."""
    alone = [FieldStage(samples, source, reader, recipe_of_rows) for source in sources.values()]
    made = [artifact_of(stage, store) for stage in alone]
    others = tuple(zip(sources.values(), made, strict=True))
    return [replace(stage, others=others) for stage in alone], tuple(map(Field, sources, made))


class _Types:
    """The types that the shards report, each with the first shard and sample of it; see Told."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._first: dict[pa.DataType, tuple[int, str]] = {}

    def __call__(self, index: int, summary: Summary) -> None:
        kind, found = KINDS[cast(str, summary["type"])], (index, cast(str, summary["first"]))
        self._first[kind] = min(found, self._first.get(kind, found))

    @property
    def agree(self) -> bool:
        return len(self._first) == 1

    def common(self, source: str) -> pa.DataType:
        kind = common(set(self._first))
        if kind is None:
            shards = self._run.shards
            found = [(f"{shards[index].url}, {who}", kind) for kind, (index, who) in self._first.items()]
            raise mixed_shards(source, sorted(found, key=lambda one: one[0]))
        return kind


@dataclass(frozen=True)
class _ReadFields:
    """Reads some fields of a shard. The stage's own is last: if its file exists, the files of the others do too."""

    stage: FieldStage
    wanted: tuple[tuple[str, Artifact], ...]

    def __call__(self, item: ShardItem) -> Summary:
        samples, reader = self.stage.samples, self.stage.reader
        there = samples.columns(item.index)
        places = samples.read(item.index, list(dict.fromkeys(["position", "key", *reader.place_columns(there)])))
        *others, own = self.wanted
        # a file of another stage that lies in an older artifact is there, and is not to be written over
        wanted = [*(one for one in others if one[1].place(item.index)[0] == one[1].name), own]
        names = [reader.field_name(source) for source, _ in wanted]
        found: Mapping[str, Values] = {}
        if len(places):  # a shard without readable samples may not be readable at all
            check_unchanged(samples, item.index, item.url, reader)
            found = reader.fields(item.url, places, names)
        summary: Summary = {}
        for name, (source, made) in zip(names, wanted, strict=True):
            who = partial(_who, places)
            nothing = pa.chunked_array([pa.nulls(len(places))])
            values = exact(found[name], f"{item.url}: {source}", who) if name in found else nothing
            values = values if values.null_count < len(values) else nothing
            first = "" if values.type == NOTHING else who(values.is_valid().index(True).as_py())
            summary = {"rows": len(values), "null": values.null_count, "type": str(values.type), "first": first}
            made.write(item.index, pa.table({VALUE: values}), summary)
        return summary


def _who(places: pa.Table, row: int) -> str:
    return f"sample {places['position'][row]} ({places['key'][row]})"


@dataclass(frozen=True)
class _Widen:
    """Commits a shard's file again, in `out` itself, if its type is not that of all shards; says whether it did."""

    out: Artifact
    kind: pa.DataType
    source: str

    def __call__(self, item: ShardItem) -> bool:
        again: bool = read_schema(self.out.shard(item.index)).field(VALUE).type != self.kind
        if again:
            values, summary = self.out.read(item.index)[VALUE], self.out.summary(item.index)
            wide = widened(values, self.kind, f"{item.url}: {self.source}", "row {}".format)
            # not where it lies: that may be another artifact, whose shards are all of the type that it has
            own = self.out.file(shard_name(item.index))
            write_table(own, pa.table({VALUE: wide}), {**summary, "type": str(self.kind)})
        return again
