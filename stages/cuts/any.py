"""The cut `any`: a union; keeps the samples that at least one of its cuts keeps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import AccountingError, JobError
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.stages.cuts.contract.explained import Asked, Explained
from winnow.stages.cuts.contract.finished import CutRows, FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.orders import Ranking
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Cut, names_of
from winnow.stages.cuts.keeping import funnel, write_kept
from winnow.stages.survivors import Survivors

_KEPT = "kept"


@dataclass(frozen=True)
class AnyOf(Cut):
    """Keep the samples that at least one of the cuts keeps. Each cut sees every sample that reached the union.

    cuts: two or more, without unions and cuts that draw epochs.
    """

    cuts: tuple[Cut, ...]
    kind: ClassVar[str] = "any"
    nests: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len(self.cuts) < 2:
            raise JobError(
                f"any must have at least two cuts, got {len(self.cuts)}; a single cut stands in the policy by itself"
            )
        for cut in self.cuts:
            if cut.nests:
                raise JobError(f"any must not have {cut.kind} among its cuts; list the cuts of both in one {self.kind}")
            if cut.draws_epochs:
                raise JobError(
                    f"any must not have {cut.kind} among its cuts, because it draws other samples for each epoch; make "
                    f"{cut.kind} the last cut of the policy"
                )

    def nested(self) -> tuple[Cut, ...]:
        """See Cut.nested."""
        return self.cuts

    def smaller(self, rows: int, samples: float) -> Self:
        """See Cut.smaller: each of its cuts for itself."""
        return replace(self, cuts=tuple(cut.smaller(rows, samples) for cut in self.cuts))

    def encoders(self) -> tuple[str, ...]:
        """See Cut.encoders: those of all its cuts."""
        return tuple(dict.fromkeys(name for cut in self.cuts for name in cut.encoders()))

    def check(self, given: Given) -> None:
        """See Cut.check: each of its cuts for itself."""
        for cut in self.cuts:
            cut.check(given)

    def steps(self, survivors: Survivors, store: str) -> list[tuple[str, Stage]]:
        """The stages of each of its cuts, named as in a policy, then the union."""
        steps: list[tuple[str, Stage]] = []
        branches: list[tuple[str, Artifact]] = []
        for name, cut in zip(names_of(self.cuts), self.cuts, strict=True):
            *before, (_, last) = cut.steps(survivors, store)
            steps += [*((f"{name}.{label}", stage) for label, stage in before), (name, last)]
            branches.append((name, artifact_of(last, store)))
        union = UnionStage(survivors, tuple(branches))
        return [*steps, (union.name, union)]

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """See Cut.stages."""
        return [stage for _, stage in self.steps(survivors, store)]

    def shown(self) -> Shown:
        """See Cut.shown."""
        return Shown(f"Keeps the samples that at least one of these keeps: {', '.join(names_of(self.cuts))}.")

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain: the cuts that keep the sample."""
        names = names_of(self.cuts)
        by = [name for name in names if asked.values[f"{name}.{_KEPT}"]]
        if not by:
            return Explained(decided="none of its cuts keeps the sample")
        return Explained(facts={"kept_by": by, "note": f"{len(by)} of its {len(names)} cuts: {', '.join(by)}"})

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again: from the files of its cuts, which are checked as cuts of their own."""
        branches = [(name, cut.prepared[name]) for name in names_of(self.cuts)]
        kept, columns = united(branches, cut.before.mask(item.index), item)
        return {_KEPT: pa.array(kept.any(axis=0)), **columns}

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterable[Ranking]:
        """See Cut.rankings: a union has no order; its cuts have theirs."""
        return ()


def united(
    branches: Sequence[tuple[str, Artifact]], before: np.ndarray, item: ShardItem
) -> tuple[np.ndarray, dict[str, pa.Array]]:
    """Which rows each branch keeps, bool (branches, n), and `<branch>.kept` and `<branch>.<column>` of each.

    before: bool (n,), the rows that reached the union; `<branch>.kept` is null in all others.
    """
    kept = np.zeros((len(branches), len(before)), bool)
    columns: dict[str, pa.Array] = {}
    for number, (name, made) in enumerate(branches):
        table = made.read(item.index)
        if len(table) != len(before):
            raise AccountingError(f"{made.name}: shard {item.url} must have {len(before)} rows, but has {len(table)}")
        kept[number] = column(table, _KEPT)
        columns[f"{name}.{_KEPT}"] = pc.if_else(pa.array(before), pa.array(kept[number]), pa.scalar(None, pa.bool_()))
        columns |= {f"{name}.{other}": table[other] for other in table.column_names if other != _KEPT}
    return kept, columns


@dataclass(frozen=True)
class UnionStage:
    """One pass over the files of the branches, by their names; no sample and no vector is read."""

    survivors: Survivors
    branches: tuple[tuple[str, Artifact], ...]
    name: ClassVar[str] = "any"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard: `kept`, and of each branch `<branch>.kept` and its own columns.

        The report has the number that each branch keeps, and of those that several keep.
        """
        totals = run.fill(_Unite(self, out), out, self.name)
        by, several = totals.by_name("by"), totals.number("several")
        told = ", ".join(f"{name} keeps {by.get(name, 0):,}" for name, _ in self.branches)
        return funnel(totals, by=dict(by), several=several, told=f"{told}; more than one keeps {several:,}")


@dataclass(frozen=True)
class _Unite:
    stage: UnionStage
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        before = self.stage.survivors.mask(item.index)
        kept, columns = united(self.stage.branches, before, item)
        counts = kept.sum(axis=1).tolist()
        by = {name: count for (name, _), count in zip(self.stage.branches, counts, strict=True)}
        several = int((kept.sum(axis=0) > 1).sum())
        return write_kept(self.out, item, before, np.asarray(kept.any(axis=0)), columns, by=by, several=several)
