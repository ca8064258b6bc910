"""The column `captions`: a number of each caption: words, characters, repetition, special characters, or its copies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import JobError
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary
from winnow.stages.columns.caption_counts import count_chars, count_words, numbers
from winnow.stages.columns.column import COLUMN, Beside, Column, FinishedColumn, column_report
from winnow.stages.cuts.contract.findings import Findings, looked, met, unequal
from winnow.stages.cuts.contract.finished import Contents
from winnow.stages.kernels.text_counts import answers_of, scatter_counts, sizes_of, told_of
from winnow.stages.pool_field import VALUE
from winnow.stages.survivors import Survivors

_SPECIAL = r"[^\pL\pM\pN\s\pZ]"
_SHARES = ("repetition", "special")
_PART_ROWS = 2_000_000  # captions of shards that meet in one part of the exchange: 40 bytes each


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Captions(Column):
    """A number of each caption.

    captions: which number. words: separated by white space. chars: Unicode characters. repetition: of the caption's
    m − n + 1 sequences of n words, whatever their case, the share that is the same as an earlier one; 0 if there is
    none. special: the share of characters that are no letter, mark, digit or white space; 0 for an empty caption.
    count: how many samples of the pool that can be read have exactly this caption.
    n: the words of a sequence, for repetition.
    """

    captions: Literal["words", "chars", "repetition", "special", "count"]
    n: int = Field(default=1, ge=1)
    kind: ClassVar[str] = "captions"

    def __post_init__(self) -> None:
        if self.n != 1 and self.captions != "repetition":
            raise JobError(f"n must be given for captions: repetition alone, got n: {self.n} for {self.captions}")

    @property
    def types(self) -> Mapping[str, pa.DataType]:  # type: ignore[override]  # it depends on the number
        """See Column.types."""
        return {VALUE: pa.float64() if self.captions in _SHARES else pa.int64()}

    def values(self, known: Survivors, item: ShardItem, rows: np.ndarray) -> Mapping[str, pa.Array]:
        """See Column.values; not for `count`, which is of the whole pool."""
        texts = known.table(item.index, ["caption"])["caption"].combine_chunks().take(pa.array(rows))
        made = {"words": count_words, "chars": count_chars, "special": special}.get(self.captions)
        return {VALUE: pa.array(repetition(texts, self.n) if made is None else made(texts))}

    def stage(self, beside: Beside) -> Stage:
        """See Column.stage: `count` needs an exchange of all shards."""
        return CountStage(beside.known.samples) if self.captions == "count" else super().stage(beside)

    def contents(self) -> Contents:
        """See Column.contents; the files of `count` depend on all shards, so none are taken over."""
        return Contents() if self.captions == "count" else super().contents()

    def verify(self, made: FinishedColumn, run: Run) -> Findings:
        """See Column.verify; counts are those of a new count of the whole pool."""
        if self.captions != "count":
            return super().verify(made, run)
        again = _CountAgain(made.known.samples, parts_of(made.known.samples), made)
        return met(run, again, run.items, made.field.label)


def special(captions: pa.Array) -> np.ndarray:
    """The share of characters that are no letter, mark, digit or white space: float64 (n,); 0 for an empty caption."""
    chars = count_chars(captions)
    found = numbers(pc.count_substring_regex(captions, _SPECIAL))
    shares: np.ndarray = np.divide(found, chars, out=np.zeros(len(chars)), where=chars > 0)
    return shares


def repetition(captions: pa.Array, n: int) -> np.ndarray:
    """The share of sequences of n words that are the same as an earlier one: float64 (m,); 0 without any sequence."""
    found = np.zeros(len(captions))
    for row, text in enumerate(captions.to_pylist()):
        words = text.casefold().split()
        whole = len(words) - n + 1
        if whole > 1:
            grams = words if n == 1 else [tuple(words[start : start + n]) for start in range(whole)]
            found[row] = (whole - len(set(grams))) / whole
    return found


def parts_of(samples: Artifact) -> int:
    """Parts of the exchange, so many that each is small."""
    rows = cast(int, (samples.done() or {}).get("kept", 0))
    return max(1, -(-rows // _PART_ROWS))


@plain_dataclass(frozen=True)
class CountStage:
    """Counts how many samples of the pool have the same caption."""

    samples: Artifact
    name: ClassVar[str] = COLUMN
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard, `value`: int64. What a worker holds follows a part of the exchange, not the pool."""
        totals = run.exchange(_Count(self.samples, parts_of(self.samples), out), f"{self.name} captions", out)
        return column_report(Captions("count"), totals.number("rows"), 0)


@plain_dataclass(frozen=True)
class _Counting:
    """The exchange without its end: counts of captions meet, and each shard hears the counts in the pool."""

    samples: Artifact
    parts: int

    def _texts(self, item: ShardItem) -> pa.DictionaryArray:
        return self.samples.read(item.index, ["caption"])["caption"].combine_chunks().dictionary_encode()

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        """For each part: the counts of the captions of a shard."""
        return scatter_counts(self._texts(item), item.index, self.parts)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """For each shard: the count in the pool of its captions."""
        del part
        table, text, size = sizes_of(tables)
        return answers_of(table, {"count": pa.array(size[text])})

    def counts(self, item: ShardItem, tables: Sequence[pa.Table]) -> np.ndarray:
        """The count of the caption of every row of a shard: int64 (n,)."""
        return numbers(told_of(self._texts(item), tables, "count"))


@plain_dataclass(frozen=True)
class _Count(_Counting):
    out: Artifact

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        counts = self.counts(item, tables)
        summary: Summary = {"rows": len(counts)}
        self.out.write(item.index, pa.table({VALUE: counts}), summary)
        return summary


@plain_dataclass(frozen=True)
class _CountAgain(_Counting):
    made: FinishedColumn

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Findings:
        made = self.made
        counts, stored = self.counts(item, tables), column(made.field.made.read(item.index), VALUE)
        found = unequal(item, made.field.label, np.arange(len(counts)), counts, stored, made.pool.who)
        return looked(column_values=len(counts)) + found
