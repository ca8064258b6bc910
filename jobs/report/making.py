"""Makes the report: reads the job's files, scans a sample of its shards, and writes the HTML page.

Deterministic: shards are spread evenly over the pool, samples are drawn by a hash of their uid.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from winnow.jobs.report import page
from winnow.jobs.report.concepts import Concept, concepts_of, named_of
from winnow.jobs.report.facts import CutFacts, Facts, gather
from winnow.jobs.report.overlap import Overlap, overlap
from winnow.jobs.report.pairs import pairs_of, partners
from winnow.jobs.report.samples import ShardRow, read_shown
from winnow.jobs.report.scan import Scan, ScanTotals, ranges, scan, spread_over
from winnow.jobs.run import run_of
from winnow.jobs.verify.finished import Finished, read_finished
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run, ShardItem
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.results.manifest import UIDS

INDEX = "index.html"

_VERSION = 1
_ROWS = 2_000_000  # rows read for histograms and words: some seconds
_SHARDS = 400
_PICTURED_SHARDS = 24  # shards with pictures on the page: each costs opening its input shard


@dataclass(frozen=True)
class WrittenPage:
    """A finished page. url: of the page. sampled_shards: how many of the `shards` were read."""

    url: str
    size_bytes: int
    seconds: float
    shards: int
    sampled_shards: int


def make_report(
    store: str, name: str, executor: Executor, compare: str | None = None, out: str | None = None
) -> WrittenPage:
    """Make the page of a finished job.

    store: URL of the store; it may have been moved. If the pool is gone, the page has no pictures. compare: another
    finished job of the store, shown beside this one. out: URL of the page; None: `report-…/index.html` in the store.
    Raises JobError for a job that is missing or never finished, WinnowError if its files cannot be read.
    """
    started = time.monotonic()
    finished, identities = read_finished(store, name, RowSample(None))
    run = run_of(finished.job, executor, identities)
    facts = gather(finished)
    view = page.View(
        facts=facts,
        pool_bytes=sum(identity.size for identity in identities),
        shards=len(identities),
        looked=_looked(finished, facts, run),
        compared=None if compare is None else _compared(finished, store, compare),
    )
    html = page.render_page(view)
    folder = _artifact(finished, compare)
    url = out or folder.file(INDEX)
    storage.write_bytes(url, html)
    made = WrittenPage(url, len(html), time.monotonic() - started, len(identities), view.looked.sampled_shards)
    if out is None:
        made_of = {"job": name, "compare": compare, "manifest": finished.manifest.name}
        folder.finish({"bytes": made.size_bytes, "seconds": round(made.seconds, 3), **made_of})
    return made


def _artifact(finished: Finished, compare: str | None) -> Artifact:
    """The artifact of the page, named by the job and its artifacts; a later page of the same inputs replaces it."""
    made_of = {label: artifact.name for label, artifact in finished.artifacts.items()}
    mark = fingerprint(["report", _VERSION, finished.job.name, made_of, compare])
    return Artifact(finished.job.store, "report", mark)


def _compared(finished: Finished, store: str, compare: str) -> page.Compared:
    if compare == finished.job.name:
        raise JobError(f"a job must be compared with another job of the store, got {compare!r} itself; name another")
    other, _ = read_finished(store, compare, RowSample(None))
    found: Overlap = overlap(finished.manifest.meta(UIDS), other.manifest.meta(UIDS))
    return page.Compared(gather(other), found)


def _looked(finished: Finished, facts: Facts, run: Run) -> page.Looked:
    """Read sampled shards for the histograms, words and galleries."""
    per_shard = max(1, facts.counts["pool"] // max(1, len(run.items)))
    items = [run.items[i] for i in spread_over(len(run.items), min(_SHARDS, max(8, _ROWS // per_shard)))]
    pictured = frozenset(items[i].index for i in spread_over(len(items), _PICTURED_SHARDS))
    named = {cut.name: named_of(cut, len(items) / len(run.items)) for cut in facts.cuts if cut.concepts is not None}
    rejecting = tuple(finished.artifacts[label] for label in ("samples", "distinct") if label in finished.artifacts)
    bounds = ranges(run, items, facts.cuts)
    part = scan(run, items, pictured, Scan(finished.places, rejecting, facts.cuts, bounds, named))
    pairs = {cut.name: list(_pairs(run, items, cut, part)) for cut in facts.cuts if cut.shown.pairs is not None}
    reader = finished.job.pool.reader
    samples = read_shown(run, finished.places, reader, _places(part, pairs))
    concepts: Mapping[str, list[Concept]] = {
        cut.name: concepts_of(cut, part.words.get(cut.name, {})) for cut in facts.cuts if cut.concepts is not None
    }
    return page.Looked(
        part=part,
        ranges=bounds,
        pairs=pairs,
        samples=samples,
        concepts=concepts,
        sampled_shards=len(items),
        pictured_shards=len(pictured),
        has_pictures=reader.has_images,
    )


def _pairs(run: Run, items: list[ShardItem], cut: CutFacts, part: ScanTotals) -> Iterator[page.Pair]:
    shelves = {shelf: part.picks.get((cut.name, shelf), []) for shelf in ("border pairs", "pairs")}
    places = partners(run, items, cut, [pick for picks in shelves.values() for pick in picks])
    shown: set[ShardRow] = set()
    for shelf, picks in shelves.items():
        for pick, place in pairs_of([p for p in picks if (p.index, p.row) not in shown], places):
            shown.add((pick.index, pick.row))
            yield page.Pair(shelf == "border pairs", (pick.index, pick.row), place, pick.note)


def _places(part: ScanTotals, pairs: Mapping[str, list[page.Pair]]) -> Iterator[ShardRow]:
    for (_, shelf), picks in part.picks.items():
        if "pairs" not in shelf:
            yield from ((pick.index, pick.row) for pick in picks)
    for found in pairs.values():
        for pair in found:
            yield from (pair.dropped, pair.kept)
