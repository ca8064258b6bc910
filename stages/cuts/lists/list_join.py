"""Finds the samples that a list names, by a shuffle: no worker and not the driver holds the whole list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline import storage
from winnow.pipeline.columns import column, split_table, tables_of
from winnow.pipeline.exchange.work import numbered
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.uid import UID_ARROW, uids_from_bytes, uids_to_bytes
from winnow.stages.cuts.lists.list_files import ListPart, ToParts, names_in
from winnow.stages.cuts.lists.list_names import ListNames
from winnow.stages.kernels.same_names import first_of_name
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.survivors import Survivors

LOOK = "subset: list"
"""The pass that looks at the files of a list and divides them."""

_PART_ROWS = 2_000_000  # of the pool and of the list, which one part of the exchange holds: 32 bytes each

_OF_LIST = pa.schema([("name", UID_ARROW), ("item", pa.int32())])
_OF_POOL = pa.schema([("name", UID_ARROW), ("item", pa.int32()), ("row", pa.int64())])
_ANSWER = pa.schema([("what", pa.int8()), ("number", pa.int64())])

_FOUND, _UNKNOWN = 0, 1  # to a shard: the number of a row that the list names, or that has no name
_NAMED, _REPEATED, _LACKING = 2, 3, 4  # to a part of the list: how many names, of them repeated, not in the pool

R_co = TypeVar("R_co", covariant=True)


class Settled(Protocol[R_co]):
    """What becomes of a shard once it is known which of its rows the list names; picklable."""

    def shard(self, item: ShardItem, listed: np.ndarray, known: np.ndarray) -> R_co:
        """listed: which rows the list names, bool (n,). known: which rows have a name at all, bool (n,)."""
        ...

    def part(self, named: int, repeated: int, lacking: int) -> R_co:
        """Of a part of the list: its entries, those that repeat an earlier one, and names that the pool lacks."""
        ...


@dataclass(frozen=True)
class ListJoin(Generic[R_co]):
    """The exchange. files: those of the list, for its identity. begin: number of shards. parts: of the exchange."""

    survivors: Survivors
    files: tuple[storage.Identity, ...]
    names: ListNames
    settled: Settled[R_co]
    begin: int
    parts: int

    def scatter(self, item: ShardItem | ListPart) -> Mapping[int, pa.Table]:
        """See Exchange.scatter: every name, with whose it is."""
        if isinstance(item, ListPart):
            names = names_in(item, self.names)
            table = pa.table([uids_to_bytes(names), _same(item.number, len(names))], schema=_OF_LIST)
            return self._by_part(table, names, np.ones(len(names), bool))
        names, known = self.names.of_pool(self.survivors, item)
        name = uids_to_bytes(names)
        if not known.all():
            name = pc.if_else(pa.array(known), name, pa.scalar(None, UID_ARROW))
        table = pa.table([name, _same(item.index, len(names)), pa.array(np.arange(len(names)))], schema=_OF_POOL)
        return self._by_part(table, names, known)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """See Exchange.decide."""
        listed = tables_of(tables, _OF_LIST)
        asked = tables_of(tables, _OF_POOL)
        unknown = asked.filter(asked["name"].is_null())
        asked = asked.filter(asked["name"].is_valid())
        m = len(listed)
        first = first_of_name(np.concatenate([uids_from_bytes(listed["name"]), uids_from_bytes(asked["name"])]))
        found = first[m:] < m
        repeated = first[:m] < np.arange(m)
        lacking = ~repeated
        lacking[first[m:][found]] = False
        answers = [
            _answer(column(asked, "item")[found], _FOUND, column(asked, "row")[found]),
            _answer(column(unknown, "item"), _UNKNOWN, column(unknown, "row")),
            _counts(column(listed, "item"), _NAMED),
            _counts(column(listed, "item")[repeated], _REPEATED),
            _counts(column(listed, "item")[lacking], _LACKING),
        ]
        every = pa.concat_tables(answers)
        whose, told = column(every, "item"), every.drop_columns("item")
        return split_table(told, whose)

    def settle(self, item: ShardItem | ListPart, tables: Sequence[pa.Table]) -> R_co:
        """See Exchange.settle."""
        told = pa.concat_tables([_ANSWER.empty_table(), *tables])
        what, number = column(told, "what"), column(told, "number")
        if isinstance(item, ListPart):
            named, repeated, lacking = (int(number[what == kind].sum()) for kind in (_NAMED, _REPEATED, _LACKING))
            return self.settled.part(named, repeated, lacking)
        n = len(self.survivors.mask(item.index))
        listed, known = np.zeros(n, bool), np.ones(n, bool)
        listed[number[what == _FOUND]] = True
        known[number[what == _UNKNOWN]] = False
        return self.settled.shard(item, listed, known)

    def _by_part(self, table: pa.Table, names: np.ndarray, known: np.ndarray) -> Mapping[int, pa.Table]:
        if self.parts == 1:
            return {0: table}
        hashes = np.where(known, hash64(names, 0), np.arange(len(names), dtype=np.uint64))
        part = (hashes % np.uint64(self.parts)).astype(np.int64)
        return split_table(table, part)


def joining(
    run: Run, survivors: Survivors, files: tuple[storage.Identity, ...], names: ListNames, settled: Settled[R_co]
) -> tuple[ListJoin[R_co], tuple[ListPart, ...]]:
    """The exchange for these files, and the parts of the list as items after the shards."""
    found = dict(run.each(ToParts(names), files, LOOK))
    parts = numbered([part for at in range(len(files)) for part in found[at]], len(run.items))
    rows = survivors.pool_count() + sum(part.rows for part in parts)
    return ListJoin(survivors, files, names, settled, len(run.items), max(1, -(-rows // _PART_ROWS))), parts


def _same(number: int, times: int) -> pa.Array:
    return pa.array(np.full(times, number, np.int32))


def _answer(item: np.ndarray, what: int, number: np.ndarray) -> pa.Table:
    return pa.table({"item": item, "what": pa.array(np.full(len(item), what, np.int8)), "number": number})


def _counts(items: np.ndarray, what: int) -> pa.Table:
    item, count = np.unique(items, return_counts=True)
    return _answer(item, what, count)
