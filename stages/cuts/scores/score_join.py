"""Joins a user's column to the samples by a shuffle: memory follows one part of the exchange, not the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, split_table, tables_of
from winnow.pipeline.stage import ShardItem, Summary
from winnow.pipeline.uid import UID_ARROW, uids_from_bytes, uids_to_bytes, uids_to_hex
from winnow.stages.cuts.scores.score_files import ScorePart, read_part
from winnow.stages.kernels.same_names import first_of_name
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.pools.sample_names import Names
from winnow.stages.survivors import Survivors

_OF_FILE = pa.schema([("name", UID_ARROW), ("item", pa.int32()), ("row", pa.int64()), ("bits", pa.int64())])
_OF_POOL = pa.schema([("name", UID_ARROW), ("item", pa.int32()), ("row", pa.int64())])
_ANSWER = pa.schema([("row", pa.int64()), ("bits", pa.int64())])


@dataclass(frozen=True)
class ScoreJoin:
    """The exchange that brings the rows of samples and of files with one name together.

    files: for their identity. kind: type of the values. parts: of the exchange. Each shard receives the values of its
    rows; each part of a file the rows whose name an earlier row has.
    """

    survivors: Survivors
    files: tuple[storage.Identity, ...]
    column: str
    names: Names
    kind: str
    out: Artifact
    parts: int

    def scatter(self, item: ShardItem | ScorePart) -> Mapping[int, pa.Table]:
        """See Exchange.scatter: the names of all survivors, and those of scores with their values."""
        if isinstance(item, ScorePart):
            names, values, _ = read_part(item, self.column, self.names, self._kind)
            columns = [pa.array(np.arange(len(names))), pa.array(values.view(self._bits).astype(np.int64))]
            return self._by_part(names, item.number, columns, _OF_FILE)
        rows = np.flatnonzero(self.survivors.mask(item.index))
        names = self.names.of_pool(self.survivors, item)[rows]
        return self._by_part(names, item.index, [pa.array(rows)], _OF_POOL)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """See Exchange.decide."""
        scores = tables_of(tables, _OF_FILE)
        asked = tables_of(tables, _OF_POOL)
        m, bits = len(scores), column(scores, "bits")
        first = first_of_name(np.concatenate([uids_from_bytes(scores["name"]), uids_from_bytes(asked["name"])]))
        found, again = first[m:] < m, first[:m] != np.arange(m)
        whose = np.concatenate([column(asked, "item")[found], column(scores, "item")[again]])
        row = np.concatenate([column(asked, "row")[found], column(scores, "row")[again]])
        value = np.concatenate([bits[first[m:][found]], bits[again]])
        answer = pa.table([row, value], schema=_ANSWER)
        return split_table(answer, whose)

    def settle(self, item: ShardItem | ScorePart, tables: Sequence[pa.Table]) -> Summary:
        """See Exchange.settle: commits `value` of a shard. Tells what lacks a value, and which names are repeated."""
        told = pa.concat_tables([_ANSWER.empty_table(), *tables])
        if isinstance(item, ScorePart):
            return self._repeated(item, column(told, "row")) if len(told) else {"rows": 0, "missing": 0}
        mask = self.survivors.mask(item.index)
        values, there = np.zeros(len(mask), self._kind), np.zeros(len(mask), bool)
        rows = column(told, "row")
        values[rows], there[rows] = column(told, "bits").astype(self._bits).view(self._kind), True
        lost = np.flatnonzero(mask & ~there)
        summary = {"rows": len(mask), "missing": len(lost)}
        self.out.write(item.index, pa.table({"value": pa.array(values, mask=~there)}), summary)
        return {**summary, "first": self._name(item, int(lost[0]))} if len(lost) else summary

    def _repeated(self, part: ScorePart, at: np.ndarray) -> Summary:
        """How many names of a part are repeated, and the smallest of them with its row in the file."""
        names, _, rows = read_part(part, self.column, self.names, self._kind)
        smallest = at[np.lexsort((rows[at], names["f1"][at], names["f0"][at]))[0]]
        first = [uids_to_hex(names[smallest : smallest + 1])[0], int(rows[smallest])]
        return {"rows": 0, "missing": 0, "repeated": len(at), "smallest": first}

    def _name(self, item: ShardItem, row: int) -> str:
        if self.names.key is None:
            return uids_to_hex(self.survivors.uids(item.index)[row : row + 1])[0]
        return f"key {self.survivors.table(item.index, ['key'])['key'][row].as_py()}"

    def _by_part(
        self, names: np.ndarray, item: int, columns: Sequence[pa.Array], schema: pa.Schema
    ) -> Mapping[int, pa.Table]:
        whose = pa.array(np.full(len(names), item, np.int32))
        table = pa.table([uids_to_bytes(names), whose, *columns], schema=schema)
        if self.parts == 1:
            return {0: table}
        part = (hash64(names, 0) % np.uint64(self.parts)).astype(np.int64)
        return split_table(table, part)

    @property
    def _kind(self) -> np.dtype:
        return np.dtype(self.kind)

    @property
    def _bits(self) -> np.dtype:
        """The integers that hold the bits of a value."""
        return np.dtype(f"i{self._kind.itemsize}")


@dataclass
class Told:
    """What the shards and the parts of the files tell: samples without a value, and names that are repeated.

    missing: (shard, samples without a value, the first). repeated: how many rows of files have the name of an earlier
    one; smallest: such a name, the number of its part, and its row.
    """

    missing: list[tuple[int, int, str]] = field(default_factory=list)
    repeated: int = 0
    smallest: tuple[str, int, int] | None = None

    def __call__(self, index: int, summary: Mapping[str, object]) -> None:
        """See totals.Told."""
        match summary:
            case {"missing": int(count), "first": str(first)}:
                self.missing.append((index, count, first))
            case {"repeated": int(count), "smallest": [str(name), int(row)]}:
                self.repeated += count
                found = (name, index, row)
                self.smallest = found if self.smallest is None else min(self.smallest, found)
