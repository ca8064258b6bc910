"""Scans sampled shards once: histograms of each cut's values, words of each concept, samples to show.

The result of a shard has a bounded size: bins, words, and the few samples that fit into a gallery.
"""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from winnow.jobs.report.facts import CutFacts
from winnow.jobs.report.samples import shortened
from winnow.jobs.report.words import count_words
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.uid import uids_of
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.rejects import read_rejects

BINS = 1024
"""Bins of a histogram; the page's slider reads its threshold from them."""

GALLERY, BORDER, PAIRS, PER_CONCEPT, REJECTS = 8, 4, 8, 4, 5
"""Samples that a page shows: on each side of a cut; on each side nearest to its threshold; pairs of each kind; on each
side of a concept; rejects of each kind."""

_PAIR_CANDIDATES = 25 * PAIRS  # the better sample of a pair is often in a shard that is not read
_MESSAGE_CHARS = 300
_SEED = (1 << 61) + 1  # unlike any cut's seed: samples kept by `random` have only one side of the range of its own hash


@dataclass(frozen=True, order=True)
class Pick:
    """A candidate for a gallery, which shows the lowest ranks. index, row: its place. note: text under the picture.

    other: uid of the sample that it duplicates; "" if it is no duplicate.
    """

    rank: float
    index: int
    row: int
    note: str = field(default="", compare=False)
    other: str = field(default="", compare=False)


RejectRow = tuple[int, int, str, str, str]
"""(number of the shard, position in it, name of the shard, key, message)."""

Shelf = tuple[str, str]
"""A gallery of the page: (name of the cut, name of the gallery)."""


@dataclass(frozen=True)
class ConceptsToName:
    """Which concepts of a cut get a name and a gallery.

    rate: float64 (k,), the share of each concept's captions read for its name.
    pictured: bool (k,), which have a gallery.
    """

    rate: np.ndarray
    pictured: np.ndarray


@dataclass
class ScanTotals:
    """The result of scanning some shards. Parts of disjoint shards add up to the part of all of them.

    rows: readable samples. histograms: by cut, int64 (2, BINS), kept and dropped. broken: by cut, how often each rule
    was broken. picks: by gallery, the lowest ranks. words: by cut and concept, of count_words. rejects: the first of
    each kind.
    """

    rows: int = 0
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    broken: dict[str, Counter[str]] = field(default_factory=dict)
    picks: dict[Shelf, list[Pick]] = field(default_factory=dict)
    words: dict[str, dict[int, Counter[str]]] = field(default_factory=dict)
    rejects: dict[str, list[RejectRow]] = field(default_factory=dict)

    def add(self, other: "ScanTotals") -> None:
        """Add another part to this one."""
        self.rows += other.rows
        for name, counts in other.histograms.items():
            self.histograms[name] = self.histograms.get(name, 0) + counts
        for name, rules in other.broken.items():
            self.broken.setdefault(name, Counter()).update(rules)
        for shelf, picks in other.picks.items():
            self.picks[shelf] = heapq.nsmallest(room(shelf), self.picks.get(shelf, []) + picks)
        for name, concepts in other.words.items():
            mine = self.words.setdefault(name, {})
            for concept, counted in concepts.items():
                mine.setdefault(concept, Counter()).update(counted)
        for kind, examples in other.rejects.items():
            self.rejects[kind] = heapq.nsmallest(REJECTS, self.rejects.get(kind, []) + examples)


def room(shelf: Shelf) -> int:
    """The number of picks that are kept for a gallery."""
    name = shelf[1]
    if name.startswith("concept"):
        return PER_CONCEPT
    return {"pairs": _PAIR_CANDIDATES, "border pairs": _PAIR_CANDIDATES}.get(
        name, BORDER if name.startswith("just") else GALLERY
    )


def ranges(run: Run, items: Sequence[ShardItem], cuts: Sequence[CutFacts]) -> dict[str, tuple[float, float]]:
    """(smallest, largest value) of each cut in these shards; a cut without values or samples has none."""
    found: dict[str, tuple[float, float]] = {}
    for _, part in run.each(_ValueRanges(tuple(cuts)), items, "report: ranges"):
        for name, (low, high) in part.items():
            before = found.get(name, (low, high))
            found[name] = min(before[0], low), max(before[1], high)
    return found


def scan(run: Run, items: Sequence[ShardItem], pictured: frozenset[int], task: "Scan") -> ScanTotals:
    """Scan these shards. pictured: numbers of the shards that galleries may take samples from."""
    whole = ScanTotals()
    for index, part in run.each(task, items, "report: samples"):
        if items[index].index not in pictured:
            part.picks.clear()
        whole.add(part)
    return whole


@dataclass(frozen=True)
class _ValueRanges:
    cuts: tuple[CutFacts, ...]

    def __call__(self, item: ShardItem) -> dict[str, tuple[float, float]]:
        found = {}
        for cut in self.cuts:
            if cut.column is not None:
                values = _seen(cut, item.index, cut.finished.artifact.read(item.index, [cut.column]))[1]
                if len(values):
                    found[cut.name] = float(values.min()), float(values.max())
        return found


def _seen(cut: CutFacts, index: int, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a finite value, int64 (m,), and the values, float64 (m,). A user's own scores may be infinite."""
    values = table[cut.column]
    rows = np.flatnonzero(np.asarray(values.is_valid()))
    found = np.asarray(values.drop_null().to_numpy(), np.float64)
    finite = np.isfinite(found)
    return rows[finite], found[finite]


@dataclass(frozen=True)
class Scan:
    """The scan of one shard, as a task. ranges: of `ranges`. named: by cut. rejecting: artifacts that list rejects."""

    samples: Artifact
    rejecting: tuple[Artifact, ...]
    cuts: tuple[CutFacts, ...]
    ranges: Mapping[str, tuple[float, float]]
    named: Mapping[str, ConceptsToName]

    def __call__(self, item: ShardItem) -> ScanTotals:
        """Scan one shard."""
        uids = uids_of(self.samples.read(item.index, ["uid"])["uid"])
        hashes = hash64(uids, _SEED)
        part = ScanTotals(rows=len(uids))
        for cut in self.cuts:
            self._cut(cut, item.index, hashes, part)
        for artifact in self.rejecting:
            table = read_rejects(artifact, item.index).select(["position", "kind", "key", "message"])
            for row in table.to_pylist():
                examples = part.rejects.setdefault(row["kind"], [])
                if len(examples) < REJECTS:
                    key, message = shortened(row["key"], _MESSAGE_CHARS), shortened(row["message"], _MESSAGE_CHARS)
                    examples.append((item.index, row["position"], storage.name_of(item.url), key, message))
        return part

    def _cut(self, cut: CutFacts, index: int, hashes: np.ndarray, part: ScanTotals) -> None:
        table = cut.finished.artifact.read(index)
        before, after = cut.finished.before.mask(index), column(table, "kept")
        gone = np.flatnonzero(before & ~after)
        stays = np.flatnonzero(after)
        rank = (hashes >> np.uint64(11)).astype(np.float64)  # 53 bits: exact
        notes = _Notes(cut, table)
        if cut.column is not None:
            rows, values = _seen(cut, index, table)
            if cut.name in self.ranges:
                part.histograms[cut.name] = histogram(values, after[rows], *self.ranges[cut.name])
            if cut.slides and cut.threshold is not None:
                away = np.full(len(after), np.inf)
                away[rows] = np.abs(values.astype(np.float64) - cut.threshold)
                part.picks[cut.name, "just kept"] = _lowest(away, stays, index, BORDER, notes)
                part.picks[cut.name, "just dropped"] = _lowest(away, gone, index, BORDER, notes)
        if cut.shown.broken is not None:
            part.broken[cut.name] = Counter(notes.texts(cut.shown.broken, gone))
        if cut.shown.pairs is not None:
            uids = table[cut.shown.pairs.column].take(pa.array(gone)).to_pylist()
            others = {row: uid or "" for row, uid in zip(gone.tolist(), uids, strict=True)}
            alike = np.full(len(after), np.inf)
            if cut.column is not None:
                alike = column(table, cut.column, null=np.inf).astype(np.float64)
            for shelf, order in (("pairs", rank), ("border pairs", np.where(alike < 1, alike, np.inf))):
                part.picks[cut.name, shelf] = _lowest(order, gone, index, _PAIR_CANDIDATES, notes, others)
        else:
            part.picks[cut.name, "kept"] = _lowest(rank, stays, index, GALLERY, notes)
            part.picks[cut.name, "dropped"] = _lowest(rank, gone, index, GALLERY, notes)
        if cut.name in self.named:
            self._concepts(cut, index, table, rank, notes, part)

    def _concepts(
        self, cut: CutFacts, index: int, table: pa.Table, rank: np.ndarray, notes: "_Notes", part: ScanTotals
    ) -> None:
        named = self.named[cut.name]
        cluster, after = column(table, "cluster", null=-1), column(table, "kept")
        inside = np.flatnonzero(cluster >= 0)
        read = inside[rank[inside] < named.rate[cluster[inside]] * 2.0**53]
        captions = self.samples.read(index, ["caption"])["caption"].take(pa.array(read)).to_pylist()
        by_concept: dict[int, list[str]] = {}
        for concept, caption in zip(cluster[read].tolist(), captions, strict=True):
            by_concept.setdefault(concept, []).append(caption)
        part.words[cut.name] = {concept: count_words(found) for concept, found in by_concept.items()}
        for concept in np.flatnonzero(named.pictured).tolist():
            members = inside[cluster[inside] == concept]
            for side, rows in (("kept", members[after[members]]), ("dropped", members[~after[members]])):
                shelf = f"concept {concept} {side}"
                part.picks[cut.name, shelf] = _lowest(rank, rows, index, PER_CONCEPT, notes)


def histogram(values: np.ndarray, after: np.ndarray, low: float, high: float) -> np.ndarray:
    """Histogram with BINS equal bins from low to high, both included: int64 (2, BINS), kept and dropped samples.

    values: (m,). after: bool (m,), which samples are kept. If low equals high, all are in the first bin. Cost O(m).
    """
    width = (high - low) / BINS or 1.0
    at = np.clip(((values.astype(np.float64) - low) / width).astype(np.int64), 0, BINS - 1)
    return np.stack([np.bincount(at[after], minlength=BINS), np.bincount(at[~after], minlength=BINS)])


def _lowest(
    rank: np.ndarray,
    rows: np.ndarray,
    index: int,
    most: int,
    notes: "_Notes",
    others: Mapping[int, str] | None = None,
) -> list[Pick]:
    """The at most `most` picks of lowest rank among some rows of a shard. rank: (n,); infinite ranks are left out."""
    rows = rows[np.isfinite(rank[rows])]
    if len(rows) > most:
        rows = rows[np.argpartition(rank[rows], most - 1)[:most]]
    return [
        Pick(float(rank[row]), index, row, notes.of(row), (others or {}).get(row, "")) for row in sorted(rows.tolist())
    ]


@dataclass(frozen=True)
class _Notes:
    """The text under a sample's picture: its value, or the rule that it breaks."""

    cut: CutFacts
    table: pa.Table

    def texts(self, name: str, rows: np.ndarray) -> list[str]:
        return [str(text) for text in self.table[name].take(pa.array(rows)).to_pylist()]

    def of(self, row: int) -> str:
        if self.cut.shown.broken is not None:
            broken = self.table[self.cut.shown.broken][row].as_py()
            return f"breaks {broken}" if broken else ""
        if self.cut.column is None:
            return ""
        value = self.table[self.cut.column][row].as_py()
        if value is None:
            return ""
        return f"{self.cut.column} {value}" if isinstance(value, int) else f"{self.cut.column} {value:.3g}"


def spread_over(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to count − 1, evenly spaced and always the same."""
    take = min(count, most)
    return [number * count // take for number in range(take)]
