"""`winnow verify`: runs every check on a finished job and collects the violations."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from winnow.jobs.run import run_of
from winnow.jobs.verify import files, ledger, orders, tars, uids, values
from winnow.jobs.verify.finished import Finished, read_finished
from winnow.pipeline.errors import WinnowError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.stage import Run
from winnow.stages.cuts.contract.findings import Findings, violated
from winnow.stages.cuts.contract.finished import Sample
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.kinds import OWN

_Look = Callable[[Finished, Run], Findings | None]

_CHECKS: dict[str, _Look] = {
    "pool": files.pool,
    "files": files.files,
    "ledger": ledger.ledger,
    "manifest": ledger.manifest,
    "uids": uids.uids,
    "shards": tars.shards,
    "members": tars.members,
    "similarity": values.similarity,
    "values": values.values,
    "cuts": orders.cuts,
}
"""What every job is asked, in the order of the path; its docstring is what it promises, and None that it has none."""


def checks_of(cuts: Iterable[type[Cut]]) -> dict[str, _Look]:
    """Every check of a job by name: those of all jobs, then those that winnow's own cuts and these bring."""
    names = dict.fromkeys(name for cut in (*OWN.values(), *cuts) for name in cut.checks())
    return {**_CHECKS, **{name: partial(_of_cuts, name) for name in names}}


def _of_cuts(name: str, job: Finished, run: Run) -> Findings | None:
    """A check that cuts bring: of each cut of the job that does, in order."""
    looks = [(cut, cut.options.checks().get(name)) for cut in job.cuts]
    found = sum((look(cut, run) for cut, look in looks if look is not None), Findings())
    return None if found == Findings() else found


@dataclass(frozen=True)
class Line:
    """What came of one check; findings: None where the job has nothing that it looks at."""

    check: str
    findings: Findings | None

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
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
        nothing = "nothing that it could check" if self.holds else "nothing readable"
        lines = [f"{mark} {self.check}: {seen or nothing}{verdict}"]
        return "\n       ".join([*lines, *told, *more, *self.findings.notes])


def verify(store: str, name: str, executor: Executor, sample: Sample) -> Iterator[Line]:
    """Every check of a finished job in turn, each when it is done; the first damage ends no check but its own part.

    store: URL of the store; it may have moved. name: of the job. sample: which rows are read where all would take
    long. Raises JobError for a job that is not there or never came to its end, WinnowError where what all checks need,
    the record and the list of shards, cannot be read.
    """
    job, shards = read_finished(store, name, sample)
    run = run_of(job.job, executor, shards)
    for check, look in checks_of(type(cut) for cut in job.job.policy).items():
        try:
            findings = look(job, run)
        except WinnowError as error:
            findings = violated(str(error))
        yield Line(check, findings)
