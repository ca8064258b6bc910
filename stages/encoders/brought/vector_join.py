"""Brings vectors from files to the samples of a pool by a shuffle: no worker holds more than one part of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.columns import column, matrix, split_rows, split_table, tables_of
from winnow.pipeline.errors import PoolError
from winnow.pipeline.exchange.work import numbered
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.uid import UID_ARROW, uids_from_bytes, uids_to_bytes
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.encoders.brought.vector_parts import ToParts, VectorFiles, VectorPart, names_of, vectors_of
from winnow.stages.kernels.same_names import first_of_name
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.pools.precomputed.widths import WIDTHS, Widths
from winnow.stages.pools.sample_names import Names
from winnow.stages.survivors import Survivors

FILES = "files of vectors"
"""The pass that looks at the files and divides them."""

_PART_BYTES = 128 << 20  # of rows that meet in one part of the exchange; a worker needs a few times as much
_NAME_BYTES = 64  # of a row beside its vectors

_VECTOR, _REPEATED, _UNUSED = 0, 1, 2  # to a shard: a vector; to a part of a file: how many rows are so, and one

_OF_POOL = pa.schema([("name", UID_ARROW), ("item", pa.int32()), ("row", pa.int64())])
_PLACE = [*_OF_POOL]
_FAULT = [pa.field("kind", pa.string()), pa.field("message", pa.string())]
_WHAT = [pa.field("what", pa.int8()), pa.field("row", pa.int64()), pa.field("count", pa.int64())]

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class FoundVectors:
    """The vectors of some rows of a shard. rows: int64 (m,), ascending. faults: by row, (kind, message).

    vectors: tower → float16 (m, d), zero for a row with a fault.
    """

    rows: np.ndarray
    faults: Mapping[int, tuple[str, str]]
    vectors: Mapping[str, np.ndarray]


@runtime_checkable
class Settled(Protocol[R_co]):
    """What becomes of a shard once its vectors are there; picklable."""

    def shard(self, item: ShardItem, found: FoundVectors) -> R_co:
        """found: of the rows that the files have."""
        ...

    def part(self, part: VectorPart, repeated: int, first: int, unused: int) -> R_co:
        """Of a part of a file: rows whose name an earlier row has, the first of them, and rows without a sample."""
        ...


@dataclass(frozen=True)
class VectorJoin(Generic[R_co]):
    """The exchange. width: of the vectors. parts: of the exchange. among: join only the names that it draws, of `whole`
    samples; None for all.
    """

    survivors: Survivors
    files: VectorFiles
    names: Names
    settled: Settled[R_co]
    width: int
    parts: int
    among: RowSample | None = None
    whole: int = 0

    def scatter(self, item: ShardItem | VectorPart) -> Mapping[int, pa.Table]:
        """See Exchange.scatter: the names of samples, and those of files with their vectors."""
        if isinstance(item, VectorPart):
            names = names_of(item, self.names)
            rows = self._drawn(names)
            more, number = vectors_of(item, self.files, rows, self.width), item.number
        else:
            names = self.names.of_pool(self.survivors, item)
            rows, more, number = self._drawn(names), None, item.index
        names = names[rows]
        place = pa.table([uids_to_bytes(names), np.full(len(rows), number, np.int32), rows], schema=_OF_POOL)
        table = place if more is None else pa.table([*place.columns, *more.columns], schema=self._of_file)
        if self.parts == 1:
            return {0: table}
        part = (hash64(names, 0) % np.uint64(self.parts)).astype(np.int64)
        return split_table(table, part)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """See Exchange.decide."""
        brought = tables_of(tables, self._of_file)
        asked = tables_of(tables, _OF_POOL)
        m = len(brought)
        first = first_of_name(np.concatenate([uids_from_bytes(brought["name"]), uids_from_bytes(asked["name"])]))
        again, hit = first[:m] != np.arange(m), first[m:] < m
        unused = ~again
        unused[first[m:][hit]] = False
        answers = dict(self._counts(brought, again, _REPEATED))
        for item, table in self._counts(brought, unused, _UNUSED).items():
            answers[item] = pa.concat_tables([answers[item], table]) if item in answers else table
        source, row = first[m:][hit], column(asked, "row")[hit]
        vectors = brought.select(self._vector_names)
        for item, at in split_rows(column(asked, "item")[hit]):
            found = vectors.take(pa.array(source[at]))
            head = [np.full(len(at), _VECTOR, np.int8), row[at], np.ones(len(at), np.int64)]
            answers[item] = pa.table([*head, *found.columns], schema=self._answer)
        return answers

    def settle(self, item: ShardItem | VectorPart, tables: Sequence[pa.Table]) -> R_co:
        """See Exchange.settle."""
        told = pa.concat_tables([self._answer.empty_table(), *tables])
        what, row, count = column(told, "what"), column(told, "row"), column(told, "count")
        if isinstance(item, VectorPart):
            again = what == _REPEATED
            first = int(row[again].min(initial=item.stop))
            return self.settled.part(item, int(count[again].sum()), first, int(count[what == _UNUSED].sum()))
        told = told.take(pa.array(np.argsort(row, kind="stable"))).combine_chunks()
        rows = column(told, "row")
        bad = np.flatnonzero(np.asarray(told["kind"].is_valid(), bool))
        faults = {int(rows[at]): (told["kind"][at].as_py(), told["message"][at].as_py()) for at in bad.tolist()}
        return self.settled.shard(item, FoundVectors(rows, faults, {t: matrix(told[t]) for t in self.files.towers}))

    def _drawn(self, names: np.ndarray) -> np.ndarray:
        if self.among is None:
            return np.arange(len(names))
        return np.flatnonzero(self.among.mask(names, self.whole))

    def _counts(self, brought: pa.Table, which: np.ndarray, what: int) -> dict[int, pa.Table]:
        """By item: how many of its rows are so, and the first of them."""
        items, rows = column(brought, "item")[which], column(brought, "row")[which]
        found = {}
        for item, at in split_rows(items):
            nothing = [pa.nulls(1, pa.string()), pa.nulls(1, pa.string())]
            zeros = [pa.array([[0.0] * self.width], kind.type) for kind in self._vectors]
            head = [np.array([what], np.int8), np.array([rows[at].min()]), np.array([len(at)])]
            found[item] = pa.table([*head, *nothing, *zeros], schema=self._answer)
        return found

    @property
    def _vectors(self) -> list[pa.Field]:
        return [pa.field(tower, pa.list_(pa.float16(), self.width)) for tower in self.files.towers]

    @property
    def _vector_names(self) -> list[str]:
        return [kind.name for kind in (*_FAULT, *self._vectors)]

    @property
    def _of_file(self) -> pa.Schema:
        return pa.schema([*_PLACE, *_FAULT, *self._vectors])

    @property
    def _answer(self) -> pa.Schema:
        return pa.schema([*_WHAT, *_FAULT, *self._vectors])


@dataclass(frozen=True)
class Divided:
    """The parts of all files as items after the shards, the width of their vectors, and their number."""

    parts: tuple[VectorPart, ...]
    width: int
    rows: int

    def exchange_parts(self, samples: int, towers: int) -> int:
        """How many parts an exchange with so many samples needs."""
        size = self.rows * (2 * self.width * towers + _NAME_BYTES) + samples * _NAME_BYTES
        return max(1, -(-size // _PART_BYTES))


def divided(run: Run, files: VectorFiles, names: Names, called: str) -> Divided:
    """One pass over the files. Raises PoolError if their vectors have two widths, or if there are none."""
    found = dict(run.each(ToParts(files, names, called), files.shards, f"vectors.{called}: {FILES}"))
    widths = Widths()
    for at, parts in found.items():
        for part in parts:
            widths(at, {WIDTHS: {called: part.width}} if part.width else {})
    width = widths.one(files.shards).get(called, 0)
    if not width:
        raise PoolError(
            f"embeddings.{called}.from must have vectors, but there are none in {len(files.shards):,} files, such as "
            f"{storage.name_of(files.shards[0].url)}"
        )
    items = numbered([part for at in range(len(files.shards)) for part in found[at]], len(run.items))
    return Divided(items, width, sum(part.stop - part.first for part in items))
