"""Extrapolates measured times to the whole pool, by shards, samples and clusters.

A pass over shards costs a · shards + b · samples; a and b are fitted to the calls of the small run. k-means, nearest
centroids and pairs grow differently, so they are timed separately.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from winnow.jobs.job_file.job import Job
from winnow.jobs.plan.miniature import Miniature
from winnow.jobs.plan.timing import Call
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.executors.batching import AIM_S
from winnow.stages.growth import Growth, KMeansFit, NearestOfK, Once, PairsInCells

_PER_SHARD = re.compile(r"\d{5,}\.\w+")


@dataclass(frozen=True)
class PoolEstimate:
    """Size of the pool. largest: samples of its largest shard. assumed: whether samples were given, not estimated."""

    shards: int
    samples: float
    bytes: float
    largest: float
    assumed: bool


@dataclass(frozen=True)
class MeasuredStage:
    """One stage of the small run. came: samples that it saw. files: files with one per shard. left: bytes of all files.

    cold: seconds of the same stage in the warm-up run, in which workers started and imported packages.
    growth: by label and step, the growth of passes that do not scale with shards and samples: (in the job, in the small
    run). width: length of a vector, if there is such a pass. embeds: whether it embeds images.
    """

    label: str
    seconds: float
    cold: float
    calls: tuple[Call, ...]
    came: float
    files: int
    odd_files: int
    left: int
    read: int
    width: int = 0
    growth: Mapping[tuple[str, str], tuple[Growth, Growth]] = field(default_factory=dict)
    embeds: bool = False


@dataclass(frozen=True)
class Rates:
    """What was timed separately. None: the job does not need it.

    alone, among: driver seconds for a shard that is a call by itself, and for one of many in a call. read: bytes per
    second. decode, models: samples per second of one worker. fit: seconds of the whole k-means of a stage, by label.
    assign: seconds per sample, by label: (with the job's clusters, with those of the small run). pair: seconds of one.
    """

    alone: float
    among: float
    read: float
    decode: float | None = None
    models: float | None = None
    fit: Mapping[str, float] = field(default_factory=dict)
    assign: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    pair: float | None = None

    def driver(self, seconds: float) -> float:
        """Driver seconds for a shard that takes a worker `seconds`. One call holds shards of about AIM_S in all."""
        return self.among + (self.alone - self.among) * min(1.0, seconds / AIM_S)


@dataclass(frozen=True)
class Estimate:
    """One stage over the whole pool. seconds: wall time. busy: seconds of all workers together.

    read: bytes read. left: bytes of its files. exchanged: bytes of rows that travel. peak: memory of a worker, bytes.
    """

    label: str
    seconds: float
    busy: float
    bottleneck: str
    read: float
    left: float
    files: float
    exchanged: float
    peak: float
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0


def extended(rows: Sequence[float], seconds: Sequence[float], shards: int, samples: float) -> tuple[float, float]:
    """(seconds per shard, seconds per sample) of a pass, both at least 0, fitted to its calls.

    rows, seconds: of each call. If all calls have about the same size, the two cannot be separated: all cost is per
    sample, or per shard if the shards of the pool have that size too. Least squares of the relative error, so that
    small calls count as much.
    """
    x, y = np.array(rows, float), np.maximum(np.array(seconds, float), 1e-9)
    per_row = float(y.sum() / max(x.sum(), 1.0))
    if len(x) < 2 or x.max() < 1.5 * max(x.min(), 1.0):
        same = abs(samples / shards - x.mean()) < 0.25 * max(x.mean(), 1.0)
        return (float(y.mean()), 0.0) if same else (0.0, per_row)
    weighted = np.stack([np.ones(len(x)), x], axis=1) / y[:, None]
    (a, b), *_ = np.linalg.lstsq(weighted, np.ones(len(x)), rcond=None)
    if a < 0:
        return 0.0, per_row
    if b < 0:
        return float(y.mean()), 0.0
    return float(a), float(b)


def estimate(
    measured: MeasuredStage, small: Miniature, job: Job, pool: PoolEstimate, rates: Rates, workers: int, here: int
) -> Estimate:
    """Extrapolate one stage to the whole pool, on `workers` workers like the `here` workers of the small run."""
    scale = pool.samples / max(1, small.rows)
    busy, kernels, alone, driver = _busy(measured, small, pool, rates)
    fixed = _start(measured, small, rates, here)
    at_once = max(1, min(workers, pool.shards))
    seconds = fixed + alone + max(busy / at_once, driver)
    per_shard = pool.shards / max(1, len(small.shards))
    read, left = measured.read * scale, measured.left * scale
    parts = {
        "start": fixed,
        "k-means, one machine": alone,
        "driver": driver if driver > busy / at_once else 0.0,
        "pairs": kernels.get("pairs", 0.0) / at_once,
        "nearest centroids": kernels.get("assign", 0.0) / at_once,
        "reading": read / rates.read / at_once,
    }
    parts["cores"] = max(0.0, busy / at_once - sum(kernels.values()) / at_once - parts["reading"])
    bottleneck = max(parts, key=lambda name: parts[name])
    gpus = cpus = 0.0
    if measured.embeds and rates.decode and rates.models:
        slow = {"decode": 1 / rates.decode, "models": 1 / rates.models, "reading": read / pool.samples / rates.read}
        if bottleneck not in ("start", "driver"):
            bottleneck = max(slow, key=lambda name: slow[name])
        gpus = job.resources.gpus * at_once * seconds / 3600
        cpus = max(job.resources.cpus, 1.0) * at_once * seconds / 3600
    return Estimate(
        measured.label,
        seconds,
        busy + alone,
        bottleneck,
        read,
        left,
        measured.files * per_shard + measured.odd_files,
        sum(call.sent for call in measured.calls) * scale,
        max((call.peak for call in measured.calls), default=0),
        gpus,
        cpus or (busy + alone) / 3600,
    )


def _start(measured: MeasuredStage, small: Miniature, rates: Rates, here: int) -> float:
    """Start-up seconds (workers, imports, models, files): the warm-up run minus the work that it did."""
    first = small.cold
    pool = PoolEstimate(len(first), float(sum(first)), 0.0, float(max(first)), assumed=False)
    bare = Rates(rates.alone, rates.among, rates.read, fit={measured.label: 0.0})
    busy, _, _, _ = _busy(measured, small, pool, bare)
    return max(0.0, measured.cold - busy / max(1, min(here, len(first))))


def _busy(
    measured: MeasuredStage, small: Miniature, pool: PoolEstimate, rates: Rates
) -> tuple[float, dict[str, float], float, float]:
    """Seconds of all workers, those of them in kernels by kind, seconds of one worker alone, and of the driver."""
    scale, rows = pool.samples / max(1, small.rows), {i: shard.rows for i, shard in enumerate(small.shards)}
    passes: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in measured.calls:
        passes[call.label, call.step].append(call)
    busy, alone, driver, kernels = 0.0, 0.0, 0.0, dict[str, float]()
    came = measured.came * scale
    for (label, step), calls in passes.items():
        asked, did = measured.growth.get((label, step), (None, None))
        took = sum(call.seconds for call in calls)
        known = [call for call in calls if call.index in rows]
        if known and (beside := [call for call in calls if call.index is None]):  # parts of a user's files
            busy += sum(call.seconds for call in beside)
            calls = [call for call in calls if call.index is not None]
            took = sum(call.seconds for call in calls)
        if isinstance(asked, KMeansFit):
            alone += rates.fit.get(measured.label, took)
        elif isinstance(asked, Once):
            busy += took
        elif isinstance(asked, PairsInCells) and isinstance(did, PairsInCells) and rates.pair is not None:
            kernels["pairs"] = rates.pair * asked.pairs(came)
            # the rest of a part besides its products: sorting, joining and returning rows
            busy += kernels["pairs"] + scale * max(0.0, took - rates.pair * did.pairs(measured.came))
        elif len(known) == len(calls):
            sizes = [rows[cast(int, call.index)] for call in known]
            a, b = extended(sizes, [call.seconds for call in known], pool.shards, pool.samples)
            whole = a * pool.shards + b * pool.samples
            busy += whole
            # steps of an exchange always go in large blocks
            driver += pool.shards * rates.driver(whole / pool.shards if step == "run" else 0.0)
            if isinstance(asked, NearestOfK):
                large, little = rates.assign.get(measured.label, (0.0, 0.0))
                kernels["assign"] = came * large
                busy += came * max(0.0, large - little)
        else:
            busy += took * scale
    return busy, kernels, alone, driver


def files_of(artifact: Artifact) -> tuple[int, int, int]:
    """(files with one per shard, other files, bytes of all) of an artifact in a local store."""
    folders = Path(artifact.folder), Path(artifact.meta_folder)
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    shards = sum(bool(_PER_SHARD.fullmatch(path.name)) for path in found)
    return shards, len(found) - shards, sum(path.stat().st_size for path in found)
