"""Runs a whole comparison, from the noisy pool to the table of accuracies.

Results of an earlier call are used again, so the same command resumes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from winnow.jobs.filter_network.evaluate import Truth, filter_quality
from winnow.jobs.filter_network.training import run_training
from winnow.jobs.lab.datacomp import noise
from winnow.jobs.lab.datacomp.plan import FILTER, Comparison, Outcome, outcome_job, outcomes
from winnow.jobs.lab.datacomp.table import OutcomeRow, markdown, outcome_rows
from winnow.jobs.lab.datacomp.trainings import FilteredPool, fits, train_all
from winnow.jobs.run import JobResult, run_job
from winnow.pipeline import storage
from winnow.pipeline.artifact import read_table, write_json
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.fingerprint import fingerprint

RIGHT = ("clean", "near_duplicate", "exact_duplicate")
"""Kinds of sample whose caption is true of its picture."""


@dataclass(frozen=True)
class _PoolSource:
    """The pool. truth: parquet of uid and what, or None. clean: shards for the filter network, or None."""

    pool: Mapping[str, Any]
    truth: str | None
    clean: str | None


def run_comparison(comparison: Comparison, executor: Executor, say: Callable[[str], None]) -> list[OutcomeRow]:
    """Build the pool, train the filter network, run every policy, train on every outcome; return the table's rows.

    say: called with one line per step. Raises WinnowError; finished work stays, and the same call resumes.
    """
    folder = Path(comparison.folder)
    source = _source(comparison, folder, say)
    encoders = _encoders(comparison, source, folder, say)
    found, right = [], {}
    for outcome in outcomes(comparison):
        result = run_job(outcome_job(comparison, outcome, source.pool, encoders), executor, lambda _line: None)
        kept = _kept(outcome, result)
        say(f"{outcome!s:28} keeps {kept.kept:,}")
        found.append(kept)
        if source.truth is not None:
            right[outcome.slug] = _right(result, read_table(source.truth, ["uid", "what"]))
    [whole] = [kept for kept in found if not kept.outcome.policy]
    quality = _filter_quality(comparison, whole, source)
    if quality:
        say("filter network, AUC of right captions against " + ", ".join(f"{w} {v:.3f}" for w, v in quality.items()))
    pictures = comparison.evaluation.read()
    wanted = fits([kept for kept in found if kept.kept], whole.kept, comparison.train)
    judged = train_all(wanted, folder / "trainings", pictures, comparison.evaluation, comparison.train, say)
    made = outcome_rows(found, whole, judged, right, comparison.train)
    records = [dict(row.record()) for row in made]
    write_json(str(folder / "result.json"), {"pool": whole.kept, "filter_auc": quality, "rows": records})
    (folder / "result.md").write_text(markdown(made), encoding="utf-8")
    return made


def _source(comparison: Comparison, folder: Path, say: Callable[[str], None]) -> _PoolSource:
    """The pool of the comparison; if it names labelled images, a pool made from them."""
    if comparison.labelled is None:
        return _PoolSource(cast(Mapping[str, Any], comparison.pool), None, comparison.clean)
    labelled = comparison.labelled
    identities = storage.identify(labelled.urls())
    made = folder / f"pool-{fingerprint({'noise': comparison.noise, 'labelled': labelled, 'files': identities})}"
    started = time.monotonic()
    if not (made / noise.TRUTH_FILE).exists():
        noise.build(labelled.read(), comparison.noise, made)
        say(f"made a noisy pool of {labelled.images} in {made} ({time.monotonic() - started:.0f} s)")
    truth = str(made / noise.TRUTH_FILE)
    kinds = read_table(truth, ["what"])["what"]
    counts = {row["values"]: row["counts"] for row in kinds.value_counts().to_pylist()}
    say(f"pool: {len(kinds):,} samples: " + ", ".join(f"{what} {n:,}" for what, n in sorted(counts.items())))
    return _PoolSource({"shards": f"{made}/pool/*.tar"}, truth, _pattern(made / "clean"))


def _encoders(
    comparison: Comparison, source: _PoolSource, folder: Path, say: Callable[[str], None]
) -> Mapping[str, Any]:
    """The encoders of the jobs, with the filter network, which is trained if it does not exist yet."""
    if comparison.filter is None or source.clean is None:
        return comparison.embeddings
    made = folder / f"filter-{fingerprint({'recipe': comparison.filter, 'clean': source.clean})}"
    started = time.monotonic()
    checkpoint = run_training(source.clean, made, comparison.filter, say)
    say(f"filter network: {checkpoint} ({time.monotonic() - started:.0f} s)")
    return {FILTER: {"model": comparison.filter.model, "pretrained": str(checkpoint)}, **comparison.embeddings}


def _kept(outcome: Outcome, result: JobResult) -> FilteredPool:
    artifact = result.path.shards
    if artifact is None:
        raise AccountingError(f"an outcome must have shards to train on, but {outcome} has none")
    return FilteredPool(outcome, _pattern(Path(artifact.folder)), artifact.name, cast(int, result.counts["kept"]))


def _pattern(folder: Path) -> str:
    """The tars of a folder, numbered from 0, as a pattern for open_clip's trainer."""
    last = len(list(folder.glob("*.tar"))) - 1
    return f"{folder}/{{00000..{last:05d}}}.tar" if last > 0 else f"{folder}/00000.tar"


def _filter_quality(comparison: Comparison, whole: FilteredPool, source: _PoolSource) -> dict[str, float]:
    """ROC AUC of the filter network's cosine: right captions against each other kind. {} without a truth."""
    if source.truth is None:
        return {}
    known = Truth.read(source.truth, "what", RIGHT, ())
    found = filter_quality(f"{comparison.folder}/store", whole.outcome.slug, f"{FILTER}.similarity", known)
    return dict(cast(Mapping[str, float], found["auc_against"]))


def _right(result: JobResult, truth: pa.Table) -> float:
    """Share of the kept samples with a true caption. Raises AccountingError for a sample that the truth lacks."""
    shards = range(len(result.job.pool.identities()))
    manifest = pa.concat_tables([result.path.manifest.read(shard, ["uid", "kept"]) for shard in shards])
    uids = manifest.filter(manifest["kept"])["uid"].to_pylist()
    known = truth.filter(pc.is_in(truth["uid"], pa.array(uids, pa.string())))
    if known.num_rows != len(uids):
        raise AccountingError(f"the truth must have each of the {len(uids)} kept samples, but it has {known.num_rows}")
    return float(pc.mean(pc.is_in(known["what"], pa.array(RIGHT))).as_py() or 0.0)
