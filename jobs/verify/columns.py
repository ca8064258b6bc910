"""Checks the values of computed columns: those of a sample of rows are computed anew."""

from winnow.jobs.verify.finished import Finished
from winnow.pipeline.stage import Run
from winnow.stages.columns.column import FinishedColumn
from winnow.stages.cuts.contract.findings import Findings
from winnow.stages.survivors import Survivors


def columns(job: Finished, run: Run) -> Findings | None:
    """Every value of a computed column is what its kind computes anew, for a sample of the pool."""
    if not job.columns:
        return None
    known = Survivors(job.places, None, job.job.pool.reader, job.encoded)
    checks = [
        column.verify(FinishedColumn(field, known, job.samples), run)
        for column, field in zip(job.job.columns.values(), job.columns, strict=True)
    ]
    return sum(checks, Findings())
