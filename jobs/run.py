"""`winnow run`: runs all stages of a job and writes its record, `jobs/<name>.json`, when it is complete."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import cast

from winnow.jobs.job_file.job import Job
from winnow.jobs.plan.inputs import look_at_inputs
from winnow.pipeline import storage
from winnow.pipeline.adoption import Readiness, state_of
from winnow.pipeline.artifact import Artifact, json_if_whole, write_json
from winnow.pipeline.errors import AccountingError, JobError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.executors.watching import Watcher
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.plugins import origin_of
from winnow.pipeline.stage import Run, Stage, StepResult, artifact_of, execute
from winnow.pipeline.store.in_use import running
from winnow.stages.budget import Rejecting, check_rejects
from winnow.stages.policy import Path, lay_out
from winnow.stages.pools.pool import PoolStage

_VERSIONS = ("torch", "open_clip_torch", "faiss-gpu", "faiss-cpu", "ray", "pyarrow", "numpy")


@dataclass(frozen=True)
class JobResult:
    """The result of a finished job.

    counts: pool, kept, dropped by cut, rejected by kind. steps: every stage by label, in order.
    """

    job: Job
    path: Path
    counts: Mapping[str, object]
    steps: tuple[tuple[str, StepResult], ...]


def laid_out(job: Job) -> tuple[Path, tuple[storage.Identity, ...]]:
    """The stages of a job and its listed input shards; runs nothing."""
    identities = job.pool.identities()
    return stages_of(job, PoolStage(identities)), identities


def stages_of(job: Job, listing: PoolStage) -> Path:
    """The stages of a job over input shards that are already listed; a listing is hashed once for all of its jobs."""
    return lay_out(
        store=job.store,
        pool=job.pool,
        listing=listing,
        embeddings=job.embeddings,
        encoding=job.encoding,
        needs=job.needs,
        policy=job.policy,
        samples_per_shard=None if job.shards is None else job.shards.samples_per_shard,
        columns=job.columns,
    )


def run_job(
    job: Job, executor: Executor, say: Callable[[str], None], watchers: tuple[Watcher, ...] = (), looked: bool = True
) -> JobResult:
    """Run every stage that is not done, check the accounting, and commit jobs/<name>.json.

    say: is called with one line per stage. watchers: see every shard. looked: whether to read the first samples first,
    so that a job that cannot succeed ends before a worker starts. Raises WinnowError; finished work stays, and the
    same call resumes.
    """
    path, identities = laid_out(job)
    if looked:
        look_at_inputs(job, path, identities, again=False)
    shared = run_of(job, executor, identities, watchers)
    with running(job.store, job.name, uses(job, path)):
        return _run(job, path, shared, say)


def uses(job: Job, *paths: Path) -> Mapping[str, object]:
    """What a run of these stages uses, for its note in the store: its artifacts, and those that its options name."""
    made = sorted({artifact_of(stage, job.store).name for path in paths for _, stage in path.stages})
    return {"artifacts": made, "job": job.resolved}


def _run(job: Job, path: Path, shared: Run, say: Callable[[str], None]) -> JobResult:
    steps = [(label, step(label, stage, shared, say)) for label, stage in path.stages]
    counts = _counts(dict(steps)["manifest"].report)
    if path.shards is not None:
        _check_shards(dict(steps)["shards"].report, counts)
    record = _record(job, counts, steps)
    if former := keep_former(job.store, record):
        say(f"{'record':22} the earlier result of {job.name}, which had other options, is now called {former}")
    write_json(job_url(job.store, job.name), record)
    return JobResult(job, path, counts, tuple(steps))


def run_of(
    job: Job, executor: Executor, identities: tuple[storage.Identity, ...], watchers: tuple[Watcher, ...] = ()
) -> Run:
    """What the stages of a job share; JobError if the executor's workers cannot see the store."""
    for url in (job.store, job.resources.scratch):
        if not storage.is_shared(url) and not isinstance(executor, LocalExecutor):
            raise JobError(f"{url} is visible to one process only; use --executor local")
    return Run(job.store, executor, identities, job.needs, job.limits, watchers, job.resources.scratch, alone=job.alone)


def step(label: str, stage: Stage, shared: Run, say: Callable[[str], None]) -> StepResult:
    """Run one stage unless it is done, and say the result in one line; in another what its report has as `told`.

    Raises RejectsError after a stage that rejects more samples than the job's limits allow.
    """
    result = execute(stage, shared)
    if isinstance(stage, Rejecting):
        check_rejects(shared, *stage.rejecting(result.artifact))
    for watcher in shared.watchers:
        watcher.made(label, result.artifact.name, result.seconds, result.reused)
    how = "done before" if result.reused else f"{result.seconds:.1f} s"
    if (adopted := result.report.get("adopted")) and not result.reused:
        how += f", {adopted} of {len(shared.shards)} shards taken over"
    say(f"{label:22} {result.artifact.name:34} {how}")
    for note in cast(list[str], result.report.get("notes", [])):
        say(f"{'':22} {note}")
    if named := cast(Mapping[str, int], result.report.get("named", {})):
        counts = "; ".join(f"{count:,} by {source}" for source, count in sorted(named.items()))
        say(f"{'uids':22} {counts}")
    if told := result.report.get("told"):
        say(f"{label:22} {told}")
    return result


def job_url(store: str, name: str) -> str:
    """The URL of the record of a job."""
    return storage.join(store, "jobs", f"{name}.json")


def keep_former(store: str, record: Mapping[str, object]) -> str | None:
    """If `record` is about to replace a record with other options, save the old record under another name.

    Returns that name, `<name>.<8 digits>`, with digits from the fingerprint of the old resolved job. Returns None if
    there is no old record, or if its options or artifacts are the same, so that nothing would be lost.
    """
    name = str(record["name"])
    former = json_if_whole(job_url(store, name))
    if former is None or former.get("job") == record["job"] or former.get("artifacts") == record["artifacts"]:
        return None
    kept = f"{name}.{fingerprint(former.get('job'), 8)}"
    write_json(job_url(store, kept), {**former, "name": kept})
    return kept


def states_of(job: Job, path: Path, identities: tuple[storage.Identity, ...]) -> list[tuple[str, Artifact, Readiness]]:
    """(label, artifact, state) of every stage of a job, in order; runs and writes nothing."""
    found = [(label, artifact_of(stage, job.store), stage) for label, stage in path.stages]
    return [(label, made, state_of(made, identities, getattr(stage, "recipe", None))) for label, made, stage in found]


def _counts(report: Mapping[str, object]) -> Mapping[str, object]:
    return {name: report[name] for name in ("pool", "kept", "dropped", "rejected")}


def _check_shards(report: Mapping[str, object], counts: Mapping[str, object]) -> None:
    if report["samples"] != counts["kept"]:
        raise AccountingError(
            f"the shards must hold every kept sample, but they have {report['samples']} of {counts['kept']}"
        )


def _record(job: Job, counts: Mapping[str, object], steps: list[tuple[str, StepResult]]) -> Mapping[str, object]:
    return {
        "name": job.name,
        "artifacts": {label: result.artifact.name for label, result in steps},
        "counts": counts,
        "seconds": {label: cast(float, result.report["seconds"]) for label, result in steps},
        "seconds_now": {label: round(result.seconds, 3) for label, result in steps},
        "versions": _versions(job),
        "job": job.resolved,
    }


def _versions(job: Job) -> Mapping[str, str]:
    """The versions of winnow, of the libraries that results depend on, and of the plugins that the job names."""
    cuts = [one for cut in job.policy for one in (cut, *cut.nested())]
    parts = (job.pool.reader, *job.embeddings.values(), *job.columns.values(), *cuts)
    used = [origin_of(type(part)) for part in parts]
    found = {origin.name: origin.version for origin in used if origin is not None}
    for name in ("winnow", *_VERSIONS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
