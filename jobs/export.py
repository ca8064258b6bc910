"""`winnow export`: lists the kept or dropped samples of a finished job in parquet files for other programs."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from winnow.jobs.run import run_of
from winnow.jobs.verify.finished import read_finished
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.stage import artifact_of, execute
from winnow.pipeline.store.in_use import running
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.results.exported import URL, Export


def export_job(
    store: str,
    name: str,
    executor: Executor,
    columns: Sequence[str] = (URL,),
    dropped: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> str:
    """Make the export of job `name` of a store, unless it exists; return the URL of its folder.

    columns: besides uid, key, caption and sizes: json fields in tars, columns of parquet or of the job. dropped: list
    the dropped and rejected samples with their reason instead of the kept ones. say: is called for a column that no
    sample has. Raises JobError for an unknown job and for columns that every export has; AccountingError if the
    number of samples differs from the job's count.
    """
    job, shards = read_finished(store, name, RowSample(None))
    computed = tuple(field for field in job.columns if field.name in columns)
    stage = Export(job.places, job.manifest, job.job.pool.reader, tuple(columns), dropped, computed)
    with running(job.job.store, name, {"artifacts": [artifact_of(stage, job.job.store).name]}):
        result = execute(stage, run_of(job.job, executor, shards))
    kept = job.counts["kept"]
    wanted, count = job.counts["pool"] - kept if dropped else kept, cast(int, result.report["named"])
    if wanted != count:
        what = "leaves out" if dropped else "keeps"
        raise AccountingError(f"an export must list every sample that {name} {what}, {wanted}, but it lists {count}")
    for column, filled in cast(Mapping[str, int], result.report["filled"]).items():
        if count and not filled:
            say(f"none of {count:,} samples has {column}: it is null in the export")
    return result.artifact.folder
