"""`winnow verify`: runs every check on a finished job and collects the violations."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from winnow.jobs.run import run_of
from winnow.jobs.verify import columns, files, ledger, orders, tars, uids, values
from winnow.jobs.verify.finished import Finished, read_finished
from winnow.pipeline.errors import WinnowError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.stage import Run
from winnow.stages.cuts.contract.findings import Findings, violated
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.kinds import OWN

_JobCheck = Callable[[Finished, Run], Findings | None]

_CHECKS: dict[str, _JobCheck] = {
    "pool": files.pool,
    "files": files.files,
    "ledger": ledger.ledger,
    "manifest": ledger.manifest,
    "uids": uids.uids,
    "shards": tars.shards,
    "members": tars.members,
    "brought": values.brought,
    "columns": columns.columns,
    "similarity": values.similarity,
    "values": values.values,
    "cuts": orders.cuts,
}
"""The checks of every job, in the order of the path. A check's docstring says what must hold.

A check returns None if the job has nothing to check.
"""


def checks_of(cuts: Iterable[type[Cut]]) -> dict[str, _JobCheck]:
    """Every check of a job by name: first those of all jobs, then those that winnow's own cuts and `cuts` define."""
    names = dict.fromkeys(name for cut in (*OWN.values(), *cuts) for name in cut.checks())
    return {**_CHECKS, **{name: partial(_of_cuts, name) for name in names}}


def _of_cuts(name: str, job: Finished, run: Run) -> Findings | None:
    """Run a check that cuts define on each cut of the job that defines it, in order."""
    looks = [(cut, cut.options.checks().get(name)) for cut in job.judged]
    found = sum((look(cut, run) for cut, look in looks if look is not None), Findings())
    return None if found == Findings() else found


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. findings: None if the check does not apply to the job."""

    check: str
    findings: Findings | None

    @property
    def holds(self) -> bool:
        """Whether the check found no violation."""
        return self.findings is None or not self.findings.wrong

    def __str__(self) -> str:
        if self.findings is None:
            return f"–    {self.check}: this job has none"
        seen = ", ".join(f"{count:,} {what}" for what, count in self.findings.looked.items())
        wrong = self.findings.wrong
        verdict = "" if self.holds else f"; {wrong:,} violation{'' if wrong == 1 else 's'}"
        told = [sentence for _, _, sentence in self.findings.first]
        more = [f"and {wrong - len(told):,} more"] if wrong > len(told) else []
        mark = "NOT " if not self.holds else "ok  " if seen else "–   "
        nothing = "nothing to check" if self.holds else "nothing readable"
        lines = [f"{mark} {self.check}: {seen or nothing}{verdict}"]
        return "\n       ".join([*lines, *told, *more, *self.findings.notes])


def verify_job(store: str, name: str, executor: Executor, sample: RowSample) -> Iterator[CheckResult]:
    """Run every check of a finished job, and yield each result as it is ready. Damage never stops the other checks.

    store: URL of the store; it may have been moved. name: of the job. sample: which rows the slow checks read.
    Raises JobError for a job that is missing or never finished, and WinnowError if the record or the list of shards,
    which all checks need, cannot be read.
    """
    job, shards = read_finished(store, name, sample)
    run = run_of(job.job, executor, shards)
    for check, look in checks_of(type(cut.options) for cut in job.judged).items():
        try:
            findings = look(job, run)
        except WinnowError as error:
            findings = violated(str(error))
        yield CheckResult(check, findings)
