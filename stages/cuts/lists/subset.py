"""The cut `subset`: keeps or excludes the samples that a list names, such as a published subset or take-downs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import JobError
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary
from winnow.stages.cuts.contract.explained import Asked, Explained
from winnow.stages.cuts.contract.findings import Findings, looked, met, unequal
from winnow.stages.cuts.contract.finished import Check, CutRows, FinishedCut
from winnow.stages.cuts.contract.orders import Ranking
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.keeping import funnel, write_kept
from winnow.stages.cuts.lists.list_files import ListPart, look_at
from winnow.stages.cuts.lists.list_join import LOOK, joining
from winnow.stages.cuts.lists.list_names import FIELDS, ListNames, What
from winnow.stages.growth import Growth, Once
from winnow.stages.survivors import Survivors

_UNKNOWN = -1  # for comparison: the pool does not say the sample's url or hash


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Listed(Cut):
    """Keep the samples that a list names, or with keep: false all others.

    Exactly one of uids, urls, sha256 and md5: files of the list (a URL, a pattern, several), each .npy of uids (dtype
    u8,u8, as DataComp's subset files), parquet, or UTF-8 text with one name a line. column: of parquet; by default uid,
    url, sha256 or md5. uids may be the values of the column that pool.uid names. A url or hash is what the pool says of
    the sample: a column of its parquet, or a field of the json in its tars.
    """

    uids: storage.Files | None = None
    urls: storage.Files | None = None
    sha256: storage.Files | None = None
    md5: storage.Files | None = None
    column: str | None = None
    keep: bool = True
    kind: ClassVar[str] = "subset"

    def __post_init__(self) -> None:
        given = [what for what in FIELDS if getattr(self, what) is not None]
        if len(given) != 1:
            raise JobError(f"subset must have one of {', '.join(FIELDS)}, got {' and '.join(given) or 'none'}")

    @property
    def _what(self) -> What:
        return cast(What, next(what for what in FIELDS if getattr(self, what) is not None))

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """One stage. It lists the files, because a changed list must make another artifact."""
        what = self._what
        source = cast(str | tuple[str, ...], getattr(self, what))
        files = storage.identify(storage.expand((source,) if isinstance(source, str) else source, lists=False))
        if not files:
            raise JobError(f"subset.{what} must name at least one file, got {source}")
        return [SubsetStage(survivors, tuple(files), self.names(survivors), self.keep)]

    def names(self, survivors: Survivors) -> ListNames:
        """What the list names samples by."""
        named = getattr(survivors.reader, "uid", "auto") != "auto"
        return ListNames(self._what, self.column or FIELDS[self._what], named)

    def shown(self) -> Shown:
        """See Cut.shown."""
        return Shown(f"{'Keeps' if self.keep else 'Drops'} the samples that a list names.")

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain: whether the list names the sample."""
        listed = asked.values["listed"]
        on = "on the list" if listed else "not on the list"
        unknown = f"the pool does not say its {FIELDS[self._what]}, so it is on no list"
        note = {"note": unknown} if listed is None else {}
        return Explained(facts=note, decided=None if asked.kept else on)

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again: the verdict follows from `listed`, which the check `list` computes anew."""
        listed = cut.artifact.read(item.index, ["listed"])["listed"].fill_null(False).combine_chunks()
        return {"kept": pa.array(np.asarray(listed) == self.keep)}

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterable[Ranking]:
        """See Cut.rankings: each sample is decided by itself."""
        return ()

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """See Cut.checks."""
        return {"list": check_list}


def check_list(cut: FinishedCut, run: Run) -> Findings:
    """Check that `listed` is what another reading of the list gives, for every sample."""
    made_of = cast(Mapping[str, Any], (cut.artifact.done() or {})["config"])
    files = tuple(storage.Identity(file["url"], file["size"], file["stamp"]) for file in made_of["files"])
    if storage.present(file.url for file in files) != {file.url: file for file in files}:
        return Findings(notes=(f"{cut.name}: its list is not what it was, so which samples it names is not checked",))
    names = cast(Listed, cut.options).names(cut.before)
    join, parts = joining(run, cut.before, files, names, _Compare(cut))
    items: list[ShardItem | ListPart] = [*run.items, *parts]
    return met(run, join, items, cut.name)


@plain_dataclass(frozen=True)
class _Compare:
    """Compares what the list names with the stored column."""

    cut: FinishedCut

    def shard(self, item: ShardItem, listed: np.ndarray, known: np.ndarray) -> Findings:
        table, rows = self.cut.artifact.read(item.index, ["listed"]), np.flatnonzero(self.cut.before.mask(item.index))
        stored = np.where(np.asarray(table["listed"].is_valid()), column(table, "listed", null=False), _UNKNOWN)[rows]
        made = np.where(known, listed, _UNKNOWN)[rows]
        found = unequal(item, f"{self.cut.name}.listed", rows, made, stored, self.cut.pool.who)
        return looked(samples=len(rows)) + found

    def part(self, named: int, repeated: int, lacking: int) -> Findings:
        return looked(names=named)


@plain_dataclass(frozen=True)
class _Decide:
    """Commits `kept` and `listed` of one shard."""

    survivors: Survivors
    keep: bool
    out: Artifact

    def shard(self, item: ShardItem, listed: np.ndarray, known: np.ndarray) -> Summary:
        before = self.survivors.mask(item.index)
        columns = {"listed": pa.array(listed, mask=~(before & known))}
        counts = {"listed": int((before & listed).sum()), "unknown": int((before & ~known).sum())}
        return write_kept(self.out, item, before, before & (listed == self.keep), columns, **counts)

    def part(self, named: int, repeated: int, lacking: int) -> Summary:
        return {"rows": 0, "names": named - repeated, "repeated": repeated, "lacking": lacking}


@plain_dataclass(frozen=True)
class SubsetStage:
    """One exchange: the names of the pool and those of the list meet by their hash."""

    survivors: Survivors
    files: tuple[storage.Identity, ...]
    names: ListNames
    keep: bool
    name: ClassVar[str] = "subset"
    version: ClassVar[int] = 1

    def look(self, widths: Mapping[str, int]) -> str:
        """See Looking.look."""
        more = f" and {len(self.files) - 1:,} more files" if len(self.files) > 1 else ""
        return look_at(self.files[0], self.names) + more

    def growth(self, label: str, step: str) -> Growth | None:
        """See Growing.growth: the first pass reads the list, whatever the pool."""
        return Once() if label == LOOK else None

    def width(self, out: Artifact) -> int:
        """See Growing.width."""
        return 0

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard: `kept`, and `listed`, null if the pool does not say the sample's url or hash.

        Raises JobError if the pool says it of no sample, DataError for a list that cannot be read.
        """
        settled = _Decide(self.survivors, self.keep, out)
        join, parts = joining(run, self.survivors, self.files, self.names, settled)
        totals = run.exchange(join, self.name, out, beside=parts)
        field, came, unknown = FIELDS[self.names.what], totals.number("in"), totals.number("unknown")
        if came and came == unknown:
            raise JobError(
                f"subset.{self.names.what} must know the {field} of samples, but the pool says it of none of {came:,}: "
                f"neither a column nor a field of their json is called {field}; list their uids instead"
            )
        counts = {name: totals.number(name) if parts else 0 for name in ("names", "repeated", "lacking")}
        told = f"{counts['names']:,} {self.names.what} listed, {counts['lacking']:,} of them not in the pool"
        if unknown:
            told += f"; {unknown:,} samples have no {field}, so they are on no list"
        return funnel(totals, listed=totals.number("listed"), unknown=unknown, **counts, told=told)
