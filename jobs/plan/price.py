"""`winnow plan --price`: runs a small version of the job here and estimates the time and cost of the whole.

It reads the pool's listing and a few of its shards. With `measure_on` and `samples_per_shard` it reads neither, so a
job can be priced without access to its pool.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from winnow.jobs.job_file.job import Job
from winnow.jobs.plan import price_kernels as kernels
from winnow.jobs.plan.miniature import Miniature, Shrunk, drawn, miniature_of, shrink
from winnow.jobs.plan.price_model import Estimate, MeasuredStage, PoolEstimate, Rates, estimate, files_of
from winnow.jobs.plan.timing import Call, Timing, bytes_read
from winnow.jobs.run import laid_out, run_of, stages_of
from winnow.pipeline import storage
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.machine import cores, memory_bytes
from winnow.pipeline.stage import Stage, StepResult, execute
from winnow.pipeline.totals import samples_of
from winnow.stages.growth import Embedding, Growing, Growth, KMeansFit, NearestOfK, PairsInCells, ReadsPool
from winnow.stages.kernels.kmeans import fit_bytes
from winnow.stages.pools.pool import PoolStage

IMAGES, VECTORS = 256, 20_000
"""Samples of each shard in the small run, for a pool of images and for a pool of vectors."""

COLD = 64
"""Samples of each shard in the warm-up run, in which workers start and import their packages."""

_SHARE = 0.8
_NOTED_BYTES = 1e12  # of an exchange: more is worth a line


@dataclass(frozen=True)
class PriceOptions:
    """How to measure.

    shards, rows: of the small run; rows None: IMAGES or VECTORS. seed: of the draw of shards. measure_on: shards to
    measure on instead of the pool's. samples_per_shard: of the pool, if its listing is not available. workers: number
    that the job will have; None: as in the job file, else as on this machine.
    """

    shards: int = 4
    rows: int | None = None
    seed: int = 0
    measure_on: tuple[str, ...] = ()
    samples_per_shard: int | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Price:
    """The estimate for a job. here: workers of the small run. warnings: settings that will not fit."""

    job: Job
    pool: PoolEstimate
    miniature: Miniature
    stages: tuple[Estimate, ...]
    rates: Rates
    workers: int
    here: int
    warnings: tuple[str, ...]


def price(job: Job, executor: Executor, options: PriceOptions, say: Callable[[str], None]) -> Price:
    """Measure a small run and extrapolate to the job. executor: on this machine. say: called with what is being done.

    Cost: the small run, which embeds its images, and some seconds for the rest; disk space for its samples.
    Raises JobError if the number of samples in the pool cannot be known, or if a small version cannot be made.
    """
    urls = job.pool.urls()
    sources = storage.expand(options.measure_on, job.pool.reader.suffix) if options.measure_on else urls
    if options.measure_on and options.samples_per_shard is None:
        raise JobError(
            "--measure-on must come with --samples-per-shard, because other shards do not tell the size of this pool"
        )
    rows = options.rows or (IMAGES if job.pool.reader.has_images else VECTORS)
    with storage.scratch_folder() as folder:
        count = max(options.shards, executor.workers)
        say(f"measuring on {min(count, len(sources))} of {len(sources):,} shards, at most {rows:,} samples of each")
        chosen = drawn(sources, count, options.seed)
        shards = shrink(job, chosen, rows, folder / "pool")
        pool = pool_of(job, urls, shards, options)
        timing = Timing(executor, folder / "times")
        few = shrink(job, [shard.url for shard in shards], min(rows, COLD), folder / "cold")  # the pool is read once
        say("a few samples first, until every worker runs")
        first = _run(job, miniature_of(job, few, pool.samples, folder / "cold"), timing, {}, say)
        small = miniature_of(job, shards, pool.samples, folder / "pool")
        small = replace(small, cold=tuple(shard.rows for shard in few))
        say("then the miniature")
        measured = _run(job, small, timing, {one.label: one.seconds for one in first}, say)
        say("  what grows with clusters, and the parts of a stage by themselves")
        bare = Rates(*kernels.driver_seconds(executor, str(folder)), kernels.read_rate(shards[0]))
        rates = _rates(job, small, pool, measured, executor, bare)
    workers = options.workers or job.resources.workers or executor.workers
    stages = tuple(estimate(one, small, job, pool, rates, workers, executor.workers) for one in measured)
    warned = tuple(warnings(job, small, pool, measured, stages, rates, workers))
    return Price(job, pool, small, stages, rates, workers, executor.workers, warned)


def pool_of(job: Job, urls: Sequence[str], shards: Sequence[Shrunk], options: PriceOptions) -> PoolEstimate:
    """Shards, samples and bytes of the pool. Without samples_per_shard, samples follow from the listed bytes."""
    each = sum(shard.whole_bytes for shard in shards) / max(1.0, sum(shard.whole_rows for shard in shards))
    if options.samples_per_shard is not None:
        samples = float(options.samples_per_shard * len(urls))
        return PoolEstimate(len(urls), samples, samples * each, options.samples_per_shard, assumed=True)
    sizes = [found.size for found in job.pool.identities()]
    return PoolEstimate(len(urls), sum(sizes) / each, sum(sizes), max(sizes) / each, assumed=False)


def _run(
    job: Job, small: Miniature, timing: Timing, cold: Mapping[str, float], say: Callable[[str], None]
) -> list[MeasuredStage]:
    """Run every stage of the small run in order, and measure each."""
    path, identities = laid_out(small.job)
    as_asked = dict(stages_of(replace(small.job, policy=job.policy), PoolStage(identities)).stages)
    run = run_of(small.job, timing, identities)
    found = []
    for label, stage in path.stages:
        say(f"  {label}")
        timing.take()
        before = bytes_read()
        result = execute(stage, run)
        calls = timing.take()
        local = len({call.worker.partition(":")[0] for call in calls}) <= 1
        read = bytes_read() - before if local else sum(call.read for call in calls)
        per_shard, odd, left = files_of(result.artifact)
        if small.job.pool.reader.mapped and isinstance(stage, ReadsPool):
            read += left if stage.reads_pool == "kept" else sum(shard.bytes for shard in small.shards)
        came = _came(result, small)
        seconds = result.seconds, cold.get(label, 0.0)
        growth = growth_of(as_asked.get(label), stage, calls)
        width = stage.width(result.artifact) if growth and isinstance(stage, Growing) else 0
        embeds = isinstance(stage, Embedding) and stage.embeds
        found.append(
            MeasuredStage(label, *seconds, tuple(calls), came, per_shard, odd, left, read, width, growth, embeds)
        )
    return found


def growth_of(asked: Stage | None, did: Stage, calls: Sequence[Call]) -> dict[tuple[str, str], tuple[Growth, Growth]]:
    """By pass and step, the growth of passes that do not scale with samples: (in the job, in the small run)."""
    found: dict[tuple[str, str], tuple[Growth, Growth]] = {}
    if isinstance(asked, Growing) and isinstance(did, Growing):
        for label, step in {(call.label, call.step) for call in calls}:
            large, little = asked.growth(label, step), did.growth(label, step)
            if large is not None and little is not None:
                found[label, step] = large, little
    return found


def _came(result: StepResult, small: Miniature) -> float:
    """Number of samples that a stage saw; all samples if its report does not say."""
    seen = samples_of(result.report)
    return float(small.rows if seen is None else seen)


def _rates(
    job: Job, small: Miniature, pool: PoolEstimate, measured: Sequence[MeasuredStage], executor: Executor, rates: Rates
) -> Rates:
    """The rates, with those added that this job needs."""
    reader = job.pool.reader
    if job.models:
        decode, models = kernels.alone(executor, job, reader, list(small.shards))
        rates = replace(rates, decode=decode, models=models)
    fits, assigns, paired = {}, {}, 0
    for one in measured:
        for asked, did in one.growth.values():
            if isinstance(asked, KMeansFit):
                n = fitted(asked, one, small, pool)
                fits[one.label] = kernels.fit_seconds(executor, n, asked.k, one.width, asked.iterations)
            elif isinstance(asked, NearestOfK) and isinstance(did, NearestOfK):
                slow = kernels.assign_seconds(executor, asked.k, one.width, asked.probes)
                fast = slow if did == asked else kernels.assign_seconds(executor, did.k, one.width, did.probes)
                assigns[one.label] = slow, fast
            elif isinstance(asked, PairsInCells):
                paired = max(paired, one.width)
    return replace(rates, fit=fits, assign=assigns, pair=kernels.pair_seconds(executor, paired) if paired else None)


def fitted(how: KMeansFit, one: MeasuredStage, small: Miniature, pool: PoolEstimate) -> int:
    """Samples that the k-means of a stage sees."""
    return int(max(how.k, min(one.came * pool.samples / max(1, small.rows), how.k * how.sample_per_cluster)))


def warnings(
    job: Job,
    small: Miniature,
    pool: PoolEstimate,
    measured: Sequence[MeasuredStage],
    stages: Sequence[Estimate],
    rates: Rates,
    workers: int,
) -> list[str]:
    """What will not fit on machines like this one, and what to set instead, as sentences."""
    found, memory, here = [], memory_bytes(), cores()
    for one in measured:
        for how in (asked for asked, _ in one.growth.values() if isinstance(asked, KMeansFit)):
            n = fitted(how, one, small, pool)
            needed = fit_bytes(n, one.width) + 32 * n
            if needed > _SHARE * memory:
                found.append(
                    f"{one.label}: k-means of {n:,} samples takes {needed / 1e9:.3g} GB on one machine, which has "
                    f"{memory / 1e9:.3g} here; ask for fewer clusters or a smaller sample_per_cluster"
                )
    beside = max(1, min(workers, here))
    for stage in stages:
        row_bytes = sum(shard.bytes for shard in small.shards) / max(1, small.rows)
        peak = stage.peak + max(0.0, pool.largest - max(shard.rows for shard in small.shards)) * row_bytes
        if beside * peak > _SHARE * memory:
            found.append(
                f"{stage.label}: {beside} workers beside one another would hold about {beside * peak / 1e9:.3g} GB "
                f"with shards of {pool.largest:,.0f} samples, of {memory / 1e9:.3g}; take fewer workers a machine, or "
                f"smaller shards"
            )
    left = sum((stage.left for stage in stages), 0.0)
    moved = max((stage.exchanged for stage in stages), default=0.0)
    scratch = job.resources.scratch or job.store
    if moved > _NOTED_BYTES:
        found.append(
            f"{scratch} holds {moved / 1e12:.3g} TB more while an exchange runs; resources.scratch names another place"
        )
    for url, room in {job.store: left, scratch: moved + (left if scratch == job.store else 0.0)}.items():
        path = storage.local_path(url)
        if path is not None:
            while not path.exists():
                path = path.parent
            if room > (free := shutil.disk_usage(path).free):
                found.append(f"{url} needs {room / 1e9:,.3g} GB, but its disk has {free / 1e9:,.3g} GB free")
    if job.resources.gpus and any(one.embeds for one in measured):
        found.append(f"a GPU hour is that of a worker like the one measured here, with {job.resources.gpus:g} GPUs")
    return found
