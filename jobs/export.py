"""Names what a finished job keeps in parquet files for other programs: uid, key, caption, url; copies no image."""

from typing import cast

from jobs.checks.finished import Sample, read_finished
from jobs.run import opened
from pipeline.errors import AccountingError
from pipeline.executor import Executor
from pipeline.stage import execute
from stages.exported import Export


def export(store: str, name: str, executor: Executor) -> str:
    """URL of the folder with the export of job `name` of a store, which is made unless it is there.

    Raises JobError where there is no such job, AccountingError where it is not as many samples
    as the job keeps.
    """
    job, shards = read_finished(store, name, Sample(None))
    result = execute(Export(job.embeddings, job.manifest), opened(job.job, executor, shards))
    kept, count = job.counts["kept"], cast(int, result.report["kept"])
    if kept != count:
        raise AccountingError(f"an export must name every kept sample, but {name} keeps {kept}, and {count} are named")
    return result.artifact.folder
