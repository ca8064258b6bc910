"""The groups of a cap: the size of each, and a number for those that have too many samples.

The sizes meet in an exchange, by a hash of the group, so memory follows neither groups nor samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import scattered
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.stages.clusters.clusters import Members
from winnow.stages.cuts.fields.domains import registered_domains
from winnow.stages.kernels.text_counts import answers_of, scatter_counts, sizes_of, told_of
from winnow.stages.pool_field import Field
from winnow.stages.survivors import Survivors

GIANT = 2_000_000
"""Samples of a group from which on its samples do not meet on one worker."""

_PART_ROWS = 2_000_000  # groups of shards that meet in one part: 40 bytes each


@dataclass(frozen=True)
class GroupStage:
    """Counts the survivors of each group."""

    survivors: Survivors
    grouping: "FieldGroups | ClusterGroups"
    most: int
    name: ClassVar[str] = "groups"
    version: ClassVar[int] = 1

    def parts(self) -> int:
        """Parts of the exchange, so many that each is small."""
        return max(1, -(-self.survivors.count() // _PART_ROWS))

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard, a row for each row of the samples; all columns are null for rows that are out.

        group: text, null for a sample without one. size: of its group. number: of a group with more than `most`, null
        for others. giant: another number, of a group of at least GIANT samples. The report's `numbers` and `giants` are
        above all of these; `ungrouped` counts samples without a group.
        """
        ends = _Ends()
        totals = run.exchange(_Count(self, self.parts(), out), self.name, out, [ends])
        lack, rows = totals.number("ungrouped"), totals.number("in")
        notes = [f"{lack:,} of {rows:,} samples have no group, for they have no {self.grouping.name}"] if lack else []
        return {"rows": rows, "ungrouped": lack, "numbers": ends.numbers, "giants": ends.giants, "notes": notes}


class _Ends:
    """One more than the highest number and the highest giant of all shards; see Told."""

    numbers = 0
    giants = 0

    def __call__(self, index: int, summary: Summary) -> None:
        del index
        highest = cast(Mapping[str, int], summary["highest"])
        self.numbers = max(self.numbers, highest["number"] + 1)
        self.giants = max(self.giants, highest["giant"] + 1)


@dataclass(frozen=True)
class FieldGroups:
    """Samples of one value of a field are a group. domain: the field is a link, the group its registered domain."""

    field: Field
    domain: bool

    @property
    def name(self) -> str:
        """What a sample without a group lacks."""
        return self.field.name

    def of(self, index: int, mask: np.ndarray) -> pa.Array:
        """The group of every row of a shard that is in as text, null for the others and for a row without one."""
        values = self.field.read(index).cast(pa.string())
        within = pc.if_else(pa.array(mask), values, pa.scalar(None, pa.string()))  # most links may be out already
        return registered_domains(within) if self.domain else within.combine_chunks()


@dataclass(frozen=True)
class ClusterGroups:
    """Samples of one cluster are a group."""

    clusters: Artifact
    name: ClassVar[str] = "cluster"

    def of(self, index: int, mask: np.ndarray) -> pa.Array:
        """The number of every row's cluster as text, null for a row that was out."""
        members = Members.read(self.clusters, index)
        return scattered(members.cluster, members.rows, len(mask)).cast(pa.string())


@dataclass(frozen=True)
class Counting:
    """The exchange without its end: counts of groups meet, and each shard hears the sizes in the pool."""

    stage: GroupStage
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        """For each part: the counts of the groups of a shard."""
        return scatter_counts(self._groups(item, self.stage.survivors.mask(item.index)), item.index, self.parts)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """For each shard: size, number and giant of its groups."""
        table, group, size = sizes_of(tables)
        found = {"size": pa.array(size[group])}
        for name, chosen in (("number", size > self.stage.most), ("giant", size >= max(GIANT, self.stage.most + 1))):
            number = np.cumsum(chosen) - 1  # numbers of all parts interleave, so they are dense
            found[name] = pa.array((number * self.parts + part)[group], mask=~chosen[group])
        return answers_of(table, found)

    def columns(self, item: ShardItem, tables: Sequence[pa.Table]) -> tuple[np.ndarray, dict[str, pa.Array]]:
        """Which rows are in, bool (n,); and group, size, number and giant of every row, null for those that are out."""
        mask = self.stage.survivors.mask(item.index)
        groups = self._groups(item, mask)
        told = {name: told_of(groups, tables, name) for name in ("size", "number", "giant")}
        return mask, {"group": groups.cast(pa.string()), **told}

    def _groups(self, item: ShardItem, mask: np.ndarray) -> pa.DictionaryArray:
        return self.stage.grouping.of(item.index, mask).dictionary_encode()


@dataclass(frozen=True)
class _Count(Counting):
    out: Artifact

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        mask, columns = self.columns(item, tables)
        highest = {name: pc.max(columns[name]).as_py() for name in ("number", "giant")}
        summary = {
            "rows": len(mask),
            "in": int(mask.sum()),
            "ungrouped": int((mask & np.asarray(columns["group"].is_null())).sum()),
            "highest": {name: -1 if found is None else found for name, found in highest.items()},
        }
        self.out.write(item.index, pa.table(columns), summary)
        return summary
