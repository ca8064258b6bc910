"""The JSON documents of `run`, `status` and `verify` with --json; docs/formats.md lists their fields."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from winnow.jobs.run import JobResult, job_url
from winnow.jobs.show import funnel
from winnow.jobs.verify.verify import CheckResult
from winnow.pipeline import storage
from winnow.pipeline.artifact import DONE, Artifact, artifacts_in, read_json
from winnow.pipeline.errors import JobError
from winnow.stages.results.manifest import UIDS


def run_document(result: JobResult) -> Mapping[str, object]:
    """The result of a run."""
    stages = [
        {
            "stage": label,
            "artifact": step.artifact.name,
            "seconds": round(step.seconds, 3),
            "reused": step.reused,
            "taken_over": 0 if step.reused else step.report.get("adopted", 0),
        }
        for label, step in result.steps
    ]
    return {
        "job": result.job.name,
        "store": result.job.store,
        "record": job_url(result.job.store, result.job.name),
        "counts": result.counts,
        "stages": stages,
        "manifest": result.path.manifest.folder,
        "uids": result.path.manifest.meta(UIDS),
        "shards": None if result.path.shards is None else result.path.shards.folder,
        "training_command": funnel.training_command(result) or None,
    }


def states(store: str) -> list[tuple[str, str]]:
    """Name and state of every artifact of a store; raises JobError if there is none."""
    names = artifacts_in(store)
    if not names:
        raise JobError(f"a store must have artifacts, but {store} has none; is it the `store` of a job that ran?")
    done = {name: storage.exists(Artifact.named(store, name).meta(DONE)) for name in names}
    return [(name, "done" if there else "unfinished") for name, there in done.items()]


def status_document(store: str) -> Mapping[str, object]:
    """The finished jobs of a store with their counts, and its artifacts."""
    artifacts = [{"artifact": name, "state": state} for name, state in states(store)]
    records = [cast(dict[str, Any], read_json(found.url)) for found in storage.listing(storage.join(store, "jobs"))]
    jobs = [{"job": one["name"], "counts": one["counts"], "seconds": one["seconds"]} for one in records]
    return {"store": store, "jobs": jobs, "artifacts": artifacts}


def verify_document(store: str, name: str, lines: Sequence[CheckResult]) -> Mapping[str, object]:
    """Every check; `holds` is null if the check does not apply to the job."""
    checks = [
        {
            "check": line.check,
            "holds": None if line.findings is None else line.holds,
            "looked": {} if line.findings is None else dict(line.findings.looked),
            "violations": 0 if line.findings is None else line.findings.wrong,
            "first": [] if line.findings is None else [sentence for _, _, sentence in line.findings.first],
            "notes": [] if line.findings is None else list(line.findings.notes),
        }
        for line in lines
    ]
    return {"store": store, "job": name, "holds": all(line.holds for line in lines), "checks": checks}
