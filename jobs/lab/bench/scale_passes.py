"""The passes that bench-scale measures: the driver's own code of runs, verify, report and sweep, with drawn answers."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from winnow.jobs.lab.bench.scale_replay import Replayed
from winnow.jobs.lab.bench.scale_store import NAME, RECIPE, SAMPLES_PER_SHARD, FilledStore, summary
from winnow.jobs.report.concepts import MOST_CONCEPTS
from winnow.jobs.report.facts import Facts, gather
from winnow.jobs.report.scan import BINS, GALLERY, Pick, ScanTotals, spread_over
from winnow.jobs.sweep import intersections, sum_of
from winnow.jobs.verify import files, uids
from winnow.jobs.verify.finished import Finished, read_finished
from winnow.jobs.verify.orders import CutLook, merge_looks
from winnow.pipeline.adoption import adopt
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.keep_top import Rows, Selection, merge
from winnow.pipeline.keep_top.scan import Partial, Pass
from winnow.pipeline.stage import Run, ShardItem, Summary, execute
from winnow.pipeline.sums import Sums, dense, merge_sums
from winnow.pipeline.totals import Totals
from winnow.pipeline.uid import UID
from winnow.stages.cuts.contract.findings import Findings, looked, over
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.cuts.contract.orders import PartStandings, Ranking, Standings
from winnow.stages.cuts.density import cluster_moments, sum_moments
from winnow.stages.cuts.semantic.buckets import Buckets
from winnow.stages.pools.pool import PoolStage
from winnow.stages.results.shards import OutputShard, kept_of, plan_shards

POLICIES = 20
KEPT = 0.4  # of each cluster
PROBES = 2

_TARGETS = 10_000_000
_VOTES_OF_A_TASK = 1 << 16
_ROW_BYTES = 1024  # 512 numbers of float16
_GIANT = 0.02  # of all rows lie in one cell
_READ_SHARDS, _READ_ROWS = 400, 2_000_000  # of report
_PIECE_BYTES = 640 << 20


@dataclass(frozen=True)
class Drawn:
    """The rows of a shard, drawn by its number: clusters uniform, distances about 0.45, as those of CLIP are."""

    rows: int
    clusters: int

    def of(self, item: ShardItem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """cluster int32, distance float32 and uid of its rows."""
        draw = np.random.default_rng(item.index)
        distance = np.clip(draw.normal(0.45, 0.1, self.rows), 0, 2).astype(np.float32)
        uids = draw.integers(0, 1 << 62, (self.rows, 2), np.uint64).reshape(-1).view(UID)
        return draw.integers(0, self.clusters, self.rows, np.int32), distance, uids


@dataclass(frozen=True)
class _DrawnSizes:
    drawn: Drawn

    def __call__(self, item: ShardItem) -> Sums:
        return Sums.of(self.drawn.of(item)[0])


@dataclass(frozen=True)
class _DrawnMoments:
    drawn: Drawn

    def __call__(self, item: ShardItem) -> Sums:
        cluster, distance, _ = self.drawn.of(item)
        return cluster_moments(cluster, distance)


@dataclass(frozen=True)
class _DrawnScan:
    drawn: Drawn
    step: Pass

    def __call__(self, item: ShardItem) -> Partial:
        cluster, distance, uids_ = self.drawn.of(item)
        return self.step.scan(Rows(distance, cluster, uids_, item.index))


@dataclass(frozen=True)
class _DrawnSummary:
    drawn: Drawn

    def __call__(self, item: ShardItem) -> Summary:
        return summary(self.drawn.rows)


@dataclass(frozen=True)
class _DrawnVotes:
    """The votes of some target vectors, item by item."""

    drawn: Drawn

    def __call__(self, item: int) -> Sums:
        return Sums.of(np.random.default_rng(item).integers(0, self.drawn.clusters, _VOTES_OF_A_TASK, np.int32))


@dataclass(frozen=True)
class _DrawnStandings:
    drawn: Drawn

    def __call__(self, item: ShardItem) -> CutLook:
        cluster, distance, uids_ = self.drawn.of(item)
        ranking = Ranking(distance, cluster, distance > 0.5)
        return looked(rows=len(cluster)), [PartStandings.of(ranking, uids_, item.index)]


@dataclass(frozen=True)
class _DrawnLedger:
    """What `ledger` finds in a shard of a job of four cuts."""

    drawn: Drawn

    def __call__(self, item: ShardItem) -> Findings:
        names = ("rules", "duplicates", "similarity", "density")
        sums = {f"{of} {name}": 3 for of in ("in", "dropped") for name in names}
        return looked(shards=1, samples=self.drawn.rows) + Findings(sums={"pool": self.drawn.rows, **sums})


@dataclass(frozen=True)
class _DrawnOverlap:
    drawn: Drawn

    def __call__(self, item: ShardItem) -> np.ndarray:
        draw = np.random.default_rng(item.index)
        return intersections(draw.random((POLICIES, self.drawn.rows)) < 0.3)


@dataclass(frozen=True)
class _DrawnReport:
    """What `report` finds in a shard: histograms and galleries of four cuts, and words of a thousand concepts."""

    drawn: Drawn

    def __call__(self, item: ShardItem) -> ScanTotals:
        draw, part = np.random.default_rng(item.index), ScanTotals(rows=self.drawn.rows)
        for cut in ("duplicates", "similarity", "density", "random"):
            part.histograms[cut] = draw.integers(0, 99, (2, BINS))
            part.picks[cut, "kept"] = [Pick(draw.random(), item.index, row, "cosine 0.3") for row in range(GALLERY)]
        concepts = min(MOST_CONCEPTS, self.drawn.clusters)
        words = draw.integers(0, 50_000, (concepts, 8)).tolist()
        part.words["density"] = {at: Counter(f"word{word}" for word in of) for at, of in enumerate(words)}
        return part


@dataclass(frozen=True)
class _DrawnCompare:
    """The exchange of `duplicates` as the driver sees it: as many parts, and buckets that go to every worker."""

    buckets: Buckets

    @property
    def parts(self) -> int:
        return self.buckets.parts

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        raise NotImplementedError

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        raise NotImplementedError

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        raise NotImplementedError


@dataclass(frozen=True)
class Passes:
    """The passes over one store. executor: the one of the run, which is told what an exchange is to answer."""

    drawn: Drawn
    store: FilledStore
    executor: Replayed

    def of(self) -> dict[str, Callable[[Run], object]]:
        """What the driver does, by the cuts and commands that make it do so."""
        drawn, k, shards = self.drawn, self.drawn.clusters, len(self.store.shards)
        selection = Selection(np.full(k, int(KEPT * shards * drawn.rows / k)))
        return {
            "list the shards: every pass": lambda run: run.items,
            "pool: run": lambda run: execute(PoolStage(run.shards), run),
            "shards taken over: samples": lambda run: adopt(run, Artifact(run.store, "samples", "1" * 16), RECIPE),
            "a stage's files, none there: run": lambda run: self._fill(run, Artifact(run.store, "none", "0" * 16)),
            "a stage's files, all there: run": lambda run: self._fill(run, self.store.samples),
            "a stage that is done: run, sweep": lambda run: self.store.samples.holds(_done(self.store.samples)),
            "sizes: clusters": lambda run: dense(run.reduce(_DrawnSizes(drawn), merge_sums, run.items, "sizes"), k),
            "moments: density": lambda run: sum_moments(
                run.reduce(_DrawnMoments(drawn), merge_sums, run.items, "moments"), k
            ),
            "count, byte 1: density, prototypes": partial(_count, selection, drawn=drawn),
            "count, byte 2: density, prototypes": partial(_count, selection, drawn=drawn),
            "votes: image_based, feature_mapping": lambda run: _votes(run, drawn),
            "buckets: duplicates": lambda run: self._buckets(),
            "one exchange: duplicates": self._exchange,
            "read the job: verify, report": lambda run: self._job(),
            "pool: verify": lambda run: files.pool(self._job(), run),
            "files: verify": lambda run: files.files(self._job(), run),
            "ledger: verify": lambda run: over(run, _DrawnLedger(drawn), run.items, "ledger"),
            "uids: verify": self._uids,
            "plan of the tars: run, verify": self._plan,
            "standings: verify": lambda run: _fold_standings(run, drawn),
            "facts: report": lambda run: self._facts(),
            "samples: report": lambda run: _fold_report(run, drawn),
            f"overlap of {POLICIES}: sweep": lambda run: _overlaps(run, drawn),
        }

    def _fill(self, run: Run, out: Artifact) -> Totals:
        return run.fill(_DrawnSummary(self.drawn), out, "fill")

    def _buckets(self) -> Buckets:
        """Uneven cells: one has a fiftieth of all rows, the others share what is left by a power law."""
        rows = len(self.store.shards) * self.drawn.rows * (1 + PROBES)
        weight = 1 / np.arange(1, self.drawn.clusters + 1) ** 0.5
        size = np.maximum(1, (1 - _GIANT) * rows * weight / weight.sum()).astype(np.int64)
        size[0] += int(_GIANT * rows)
        return Buckets.of(size, (64 << 20) // _ROW_BYTES, (256 << 20) // _ROW_BYTES)

    def _exchange(self, run: Run) -> Totals:
        told = {"rows": 900, "waiting": 100, "cut": 3, "links": 5_000}
        self.executor.settled = lambda index: told
        self.executor.a_piece = max(1, _PIECE_BYTES // (self.drawn.rows * (1 + PROBES) * _ROW_BYTES))
        return run.exchange(_DrawnCompare(self._buckets()), "exchange", Artifact(run.store, "exchanged", "0" * 16))

    def _job(self) -> Finished:
        return read_finished(self.store.url, NAME, RowSample(None))[0]

    def _uids(self, run: Run) -> Findings:
        found = looked(uids=1_000_000)
        self.executor.settled = lambda index: found
        self.executor.a_piece = max(1, _PIECE_BYTES // (self.drawn.rows * 64))
        return uids.uids(self._job(), run)

    def _plan(self, run: Run) -> list[OutputShard]:
        return plan_shards(run.items, kept_of(run, self.store.samples), SAMPLES_PER_SHARD)

    def _facts(self) -> Facts:
        return gather(self._job())


def _adopt(run: Run) -> int:
    return adopt(run, Artifact(run.store, "samples", "1" * 16), RECIPE)


def _done(artifact: Artifact) -> Mapping[str, object]:
    return artifact.done() or {}


def _count(selection: Selection, run: Run, drawn: Drawn) -> None:
    step = selection.next_pass()
    if step is not None:
        selection.absorb(run.reduce(_DrawnScan(drawn, step), merge, run.items, "keep_top"))


def _votes(run: Run, drawn: Drawn) -> np.ndarray:
    parts = run.each(_DrawnVotes(drawn), range(0, _TARGETS, _VOTES_OF_A_TASK), "votes")
    [votes] = dense((part for _, part in parts), drawn.clusters)
    return votes


def _fold_standings(run: Run, drawn: Drawn) -> Findings:
    found, standing = Findings(), Standings.empty()
    for findings, [part] in run.reduce(_DrawnStandings(drawn), merge_looks, run.items, "verify"):
        found += findings
        standing.take(part)
    return found


def _fold_report(run: Run, drawn: Drawn) -> ScanTotals:
    most = min(_READ_SHARDS, max(8, _READ_ROWS // drawn.rows))
    whole = ScanTotals()
    for _, part in run.each(_DrawnReport(drawn), [run.items[at] for at in spread_over(len(run.items), most)], "scan"):
        whole.add(part)
    return whole


def _overlaps(run: Run, drawn: Drawn) -> np.ndarray:
    both = np.zeros((POLICIES, POLICIES), np.int64)
    for part in run.reduce(_DrawnOverlap(drawn), sum_of, run.items, "sweep"):
        both += part
    return both
