"""Prints a sweep: what each policy keeps, what each cut drops, and how much the policies overlap."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from winnow.jobs.sweep import Sweep, as_option

WHOLE_MATRIX = 12
"""Most policies whose overlaps are printed as a matrix, which fits 80 columns; more are printed as pairs."""
PAIRS = 5


def show_sweep(result: Sweep, console: Console) -> None:
    """Print the three tables; the first one numbers the policies."""
    console.print(kept_table(result))
    console.print(dropped_table(result))
    few = len(result.outcomes) <= WHOLE_MATRIX
    console.print(overlap_matrix(result) if few else overlap_pairs(result))
    if not few:
        console.print("--json FILE has all pairs of policies", highlight=False)


def kept_table(result: Sweep) -> Table:
    """One row per policy: the values that vary, samples kept, thresholds, seconds of this run."""
    paths = list(result.outcomes[0].policy.values)
    cuts = _names(outcome.thresholds for outcome in result.outcomes)
    thresholds = [f"{name}\nthreshold" for name in cuts]
    table = _table("policy", *short_paths(paths), "kept", "share\nof pool", *thresholds, "seconds")
    for outcome in result.outcomes:
        values = [as_option(value) for value in outcome.policy.values.values()]
        share = f"{100 * outcome.kept / result.pool:.1f} %" if result.pool else "–"
        ends = [_number(outcome.thresholds.get(name)) for name in cuts]
        number, seconds = str(outcome.policy.number), f"{sum(outcome.seconds.values()):.1f}"
        table.add_row(number, *values, f"{outcome.kept:,}", share, *ends, seconds)
    return table


def dropped_table(result: Sweep) -> Table:
    """One row per policy: pool = rejected + dropped by each cut + kept."""
    cuts = _names(outcome.dropped for outcome in result.outcomes)
    table = _table("policy", "pool", "rejected", *cuts, "kept")
    for outcome in result.outcomes:
        lost = [sum(result.rejected.values()), *[outcome.dropped.get(name) for name in cuts]]
        number, cells = str(outcome.policy.number), ["–" if n is None else f"{-n:,}" for n in lost]
        table.add_row(number, f"{result.pool:,}", *cells, f"{outcome.kept:,}")
    return table


def overlap_matrix(result: Sweep) -> Table:
    """The Jaccard index |A ∩ B| / |A ∪ B| of the kept samples of every two policies."""
    numbers = [str(outcome.policy.number) for outcome in result.outcomes]
    table = _table("no.", *numbers)  # "policy" would make twelve policies wider than a terminal
    table.title = "Jaccard index of the kept samples of each two policies"
    for number, row in zip(numbers, result.jaccard, strict=True):
        table.add_row(number, *[f"{value:.2f}" for value in row])
    return table


def overlap_pairs(result: Sweep) -> Table:
    """The most and the least similar pairs of policies; ties in the order of the policies."""
    at, to = np.triu_indices(len(result.outcomes), 1)
    values = result.jaccard[at, to]
    order = np.argsort(-values, kind="stable")
    table = _table("pairs", "policy", "policy", "Jaccard")
    for name, chosen in (("most similar", order[:PAIRS]), ("least similar", np.argsort(values, kind="stable")[:PAIRS])):
        for place, pair in enumerate(chosen):
            numbers = (str(result.outcomes[end[pair]].policy.number) for end in (at, to))
            table.add_row("" if place else name, *numbers, f"{values[pair]:.4f}")
        table.add_section()
    return table


def short_paths(paths: Sequence[str]) -> list[str]:
    """`density.fraction` of `policy.3.density.fraction`, where that names only one of the paths."""
    ends = [path.split(".", 2)[-1] for path in paths]
    return [end if ends.count(end) == 1 else path for end, path in zip(ends, paths, strict=True)]


def _names(found: Iterable[Mapping[str, object]]) -> list[str]:
    """The cuts of all policies, each once."""
    return list(dict.fromkeys(name for names in found for name in names))


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value}" if isinstance(value, int) else f"{value:.4g}"


def _table(*names: str) -> Table:
    table = Table(*names, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.justify = "right"
    return table
