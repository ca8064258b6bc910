"""Chooses the clusters of a cut that the report shows, and names them by words of their captions."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from winnow.jobs.report.facts import CutFacts, kept_share
from winnow.jobs.report.scan import ConceptsToName, spread_over
from winnow.jobs.report.words import distinctive

MOST_CONCEPTS = 1000
"""Concepts in the table and the scatter plot: the largest ones."""

_PICTURED = 40
_CAPTIONS = 60_000  # captions read to name all of them
_PER_CONCEPT = 400


@dataclass(frozen=True)
class Concept:
    """One row of the cut's table of concepts, with its name.

    words: the most typical first, () if there are none. pictured: whether it has a gallery.
    """

    cluster: int
    words: tuple[str, ...]
    size: int
    d_intra: float
    d_inter: float
    complexity: float
    share: float
    quota: int
    kept_share: float
    pictured: bool

    @property
    def name(self) -> str:
        """Its words, or its number if it has no words."""
        return ", ".join(self.words) or f"concept {self.cluster}"

    @property
    def divided(self) -> bool:
        """Whether some of its samples are kept and some dropped."""
        return 0 < self.quota < self.size


def _largest(cut: CutFacts) -> np.ndarray:
    """int64 (m,): the clusters with members, the largest first, at most MOST."""
    size = np.asarray(_table(cut, "size"))
    order = np.argsort(-size, kind="stable")[:MOST_CONCEPTS]
    found: np.ndarray = order[size[order] > 0]
    return found


def _table(cut: CutFacts, name: str) -> np.ndarray:
    if cut.concepts is None:
        raise ValueError(f"{cut.name} has no table of concepts; ask cuts that have one")
    return np.asarray(cut.concepts[name])


def _pictured(cut: CutFacts) -> np.ndarray:
    """bool (k,): which clusters have a gallery, spread evenly from the least to the most complex."""
    shown = _largest(cut)
    by_complexity = shown[np.argsort(_table(cut, "complexity")[shown], kind="stable")]
    found = np.zeros(len(_table(cut, "size")), bool)
    found[by_complexity[spread_over(len(shown), _PICTURED)]] = True
    return found


def named_of(cut: CutFacts, read: float) -> ConceptsToName:
    """Which concepts get a name and a gallery. read: share of the shards that is read."""
    shown = _largest(cut)
    rate = np.zeros(len(_table(cut, "size")))
    wanted = min(_PER_CONCEPT, _CAPTIONS / max(1, len(shown)))
    rate[shown] = np.minimum(1, wanted / np.maximum(1, _table(cut, "size")[shown] * read))
    return ConceptsToName(rate, _pictured(cut))


def concepts_of(cut: CutFacts, counts: Mapping[int, Counter[str]]) -> list[Concept]:
    """The concepts that a page shows, the most complex first. counts: from count_words, by cluster."""
    words, pictured, kept = distinctive(counts), _pictured(cut), np.zeros(0)
    if cut.concepts is not None:
        kept = kept_share(cut.concepts)
    columns = {name: _table(cut, name) for name in ("size", "d_intra", "d_inter", "complexity", "share", "quota")}
    found = [
        Concept(
            cluster=j,
            words=tuple(words.get(j, ())),
            **{name: values[j].item() for name, values in columns.items()},
            kept_share=float(kept[j]),
            pictured=bool(pictured[j]),
        )
        for j in _largest(cut).tolist()
    ]
    return sorted(found, key=lambda concept: (-concept.complexity, concept.cluster))
