"""The table of a comparison, for a terminal, as markdown and as JSON: kept, seen, accuracy and spread."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from winnow.jobs.lab.datacomp.plan import Regime, Trainings
from winnow.jobs.lab.datacomp.trainings import FilteredPool, FinishedTraining, fit_of, samples_of

HEAD = ("policy", "share of pool", "kept", "right", "compute", "pairs seen", "top-1", "±", "vs no cut")


@dataclass(frozen=True)
class OutcomeRow:
    """One outcome under one regime.

    right: share of the kept samples with a true caption, None without a truth. top1: one accuracy per seed. gain: mean
    difference to the training on the whole pool with the same seed, None for the whole pool itself.
    """

    kept: FilteredPool
    regime: Regime
    right: float | None
    share: float
    seen: int
    top1: tuple[float, ...]
    by_class: tuple[float | None, ...]
    gain: float | None

    @property
    def mean(self) -> float:
        """Of top1."""
        return statistics.fmean(self.top1)

    @property
    def spread(self) -> float:
        """Standard deviation of top1 over seeds (n − 1); 0 for one seed."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else 0.0

    def record(self) -> Mapping[str, object]:
        """The row as plain JSON."""
        return {
            "policy": self.kept.outcome.name,
            "fraction": self.kept.outcome.fraction,
            "cuts": [dict(cut) for cut in self.kept.outcome.policy],
            "kept": self.kept.kept,
            "share": self.share,
            "right": self.right,
            "regime": self.regime,
            "samples_seen": self.seen,
            "top1": list(self.top1),
            "mean": self.mean,
            "spread": self.spread,
            "gain": self.gain,
            "by_class": list(self.by_class),
        }


def outcome_rows(
    found: Sequence[FilteredPool],
    whole: FilteredPool,
    judged: Sequence[FinishedTraining],
    right: Mapping[str, float],
    asked: Trainings,
) -> list[OutcomeRow]:
    """One row for each outcome and regime, and one for the whole pool. Seeds without a result are left out.

    right: share of true captions, by slug of the outcome.
    """
    by_folder = {one.fit.folder: one for one in judged}
    of_whole = _seeds(whole, "equal", whole.kept, asked, by_folder)
    made: list[OutcomeRow] = []
    for regime in asked.regimes:
        for kept in found:
            if kept is whole and any(row.kept is whole for row in made):
                continue
            seeds = _seeds(kept, regime, whole.kept, asked, by_folder)
            if not seeds:
                continue
            gains = [one.top1 - of_whole[seed].top1 for seed, one in seeds.items() if seed in of_whole]
            made.append(
                OutcomeRow(
                    kept,
                    regime,
                    right.get(kept.outcome.slug),
                    kept.kept / whole.kept,
                    next(iter(seeds.values())).fit.seen,
                    tuple(one.top1 for one in seeds.values()),
                    _mean_by_class(list(seeds.values())),
                    None if kept is whole or not gains else statistics.fmean(gains),
                )
            )
    return made


def _seeds(
    kept: FilteredPool, regime: Regime, whole: int, asked: Trainings, by_folder: Mapping[str, FinishedTraining]
) -> dict[int, FinishedTraining]:
    samples = samples_of(regime, kept.kept, whole, asked)
    folders = {seed: fit_of(kept, samples, seed, asked).folder for seed in asked.seeds}
    return {seed: by_folder[folder] for seed, folder in folders.items() if folder in by_folder}


def _mean_by_class(judged: Sequence[FinishedTraining]) -> tuple[float | None, ...]:
    columns = zip(*[one.by_class for one in judged], strict=True)
    return tuple(None if None in column else statistics.fmean(column) for column in columns)


def cells(row: OutcomeRow) -> tuple[str, ...]:
    """The cells of a row, in the order of HEAD."""
    whole = row.gain is None and row.share == 1
    return (
        str(row.kept.outcome),
        f"{row.share:.1%}",
        f"{row.kept.kept:,}",
        "–" if row.right is None else f"{row.right:.1%}",
        "whole" if whole else row.regime,
        f"{row.seen:,}",
        f"{100 * row.mean:.1f}",
        f"{100 * row.spread:.1f}",
        "–" if row.gain is None else f"{100 * row.gain:+.1f}",
    )


def table(found: Sequence[OutcomeRow]) -> Table:
    """The table for a terminal, with a section for each regime."""
    shown = Table(*HEAD, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in shown.columns[1:]:
        column.justify = "right"
    before = None
    for row in found:
        if before not in (None, row.regime):
            shown.add_section()
        shown.add_row(*cells(row))
        before = row.regime
    return shown


def markdown(found: Sequence[OutcomeRow]) -> str:
    """The table as markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in found)]) + "\n"
