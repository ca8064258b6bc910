"""Prints what `winnow plan` shows: the job, which stages are done and which would run, and the first samples.

A price comes from a small run of the job in a temporary folder; the store is not changed.
"""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from winnow.jobs import run as running
from winnow.jobs.console import print_json, working
from winnow.jobs.job_file.job import Job, changed
from winnow.jobs.job_file.yaml_text import dumps
from winnow.jobs.plan.inputs import Look, look_at_inputs
from winnow.jobs.plan.price import PriceOptions, price
from winnow.jobs.plan.price_table import Prices, record, show_price_table
from winnow.pipeline.adoption import Readiness
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import PoolError, StorageError
from winnow.pipeline.machine import cores
from winnow.pipeline.storage import Identity
from winnow.pipeline.terminal import escaped
from winnow.stages.policy import Path


def show_price(job: Job, options: PriceOptions, prices: Prices, executor: str, here: int | None, plain: bool) -> None:
    """Measure a small run on this machine and print what the job will take. here: its workers. plain: as JSON."""
    workers = here or workers_here(job.resources.workers, options.workers)
    with working(executor, workers, None, quiet=False) as (running_on, say):
        found = price(job, running_on, options, say)
    if plain:
        print_json(record(found, prices))
    else:
        show_price_table(found, prices, Console())


def show_plan(job: Job, full: bool, looked: bool, plain: bool) -> None:
    """Print the options that differ from the defaults (full: all options), the state of each stage, and the inputs.

    looked: whether to read from the pool; if not, a pool that cannot be listed is no error. plain: as JSON.
    Raises the errors of `look`, after printing what is known without it.
    """
    listed = _listed(job, looked)
    states: list[tuple[str, Artifact, Readiness]] = [] if listed is None else running.states_of(job, *listed)
    if plain:
        found = None if listed is None or not looked else look_at_inputs(job, *listed)
        print_json(_record(job, states, found))
        return
    console = Console()
    values = dict(job.resolved if full else changed(job))
    text = dumps(values, default_flow_style=None, width=1000, allow_unicode=True)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    table = Table("stage", "artifact", "state")
    for label, artifact, state in states:
        table.add_row(label, artifact.name, str(state))
    if states:
        console.print(table)
    if listed is not None and looked:
        for line in look_at_inputs(job, *listed).lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _listed(job: Job, looked: bool) -> tuple[Path, tuple[Identity, ...]] | None:
    """The stages and the shards; None if the pool cannot be listed and looked is False."""
    try:
        return running.laid_out(job)
    except (PoolError, StorageError) as error:
        if looked:
            raise
        Console(stderr=True).print(f"not listed: {escaped(str(error))}", markup=False, highlight=False, soft_wrap=True)
        return None


def _record(job: Job, states: Sequence[tuple[str, Artifact, Readiness]], found: Look | None) -> Mapping[str, object]:
    stages = [
        {
            "stage": label,
            "artifact": made.name,
            "state": "done" if state.done else "begun" if state.ready else "to do",
            "ready": state.ready,
            "taken_over": state.taken,
            "shards": state.shards,
        }
        for label, made, state in states
    ]
    return {"job": job.resolved, "changed": changed(job), "stages": stages, "look": found and found.record()}


def workers_here(*asked: int | None) -> int:
    """Workers of the small run: the smallest of `asked`, and at most one per core. asked: None is ignored."""
    return min([cores(), *filter(None, asked)])
