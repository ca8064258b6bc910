"""The command `winnow plan`: the resolved job and what of it is done, or with --price what it will take; runs nothing.

A price runs a miniature of the job in a temporary folder; the store is not touched.
"""

import json
import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs import run as running
from jobs.job import Job, load
from jobs.price.price import Options, price
from jobs.price.show import Prices, record, show
from jobs.yaml_text import dumps
from pipeline.executor_open import open_executor


def plan(
    job_file: Annotated[str, typer.Argument(help="a job file (YAML)", metavar="JOB.yaml")],
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="change the job, such as policy.3.density.fraction=0.3"),
    ] = None,
    priced: Annotated[
        bool, typer.Option("--price", help="measure a miniature here and show what all will take")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="that the job will have, all of them")] = None,
    gpu_hour: Annotated[float, typer.Option(min=0, help="price of a GPU for an hour")] = 0.0,
    cpu_hour: Annotated[float, typer.Option(min=0, help="price of a core for an hour")] = 0.0,
    tb: Annotated[float, typer.Option(min=0, help="price of a TB that stays in the store")] = 0.0,
    tb_read: Annotated[float, typer.Option(min=0, help="price of a TB that is read")] = 0.0,
    samples_per_shard: Annotated[
        int | None, typer.Option(min=1, help="of the pool; its files are not looked at then")
    ] = None,
    measure_on: Annotated[
        list[str] | None, typer.Option(help="shards of the same kind to measure on; repeatable")
    ] = None,
    sample_shards: Annotated[int, typer.Option(min=1, help="shards to measure on, at least")] = 4,
    sample_rows: Annotated[int | None, typer.Option(min=1, help="samples of each; 256 images, 20,000 vectors")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the draw of those shards")] = 0,
    executor: Annotated[str, typer.Option(help="ray or local, on this machine")] = "ray",
    here: Annotated[int | None, typer.Option(min=1, help="workers on this machine; one per core by default")] = None,
    plain: Annotated[bool, typer.Option("--json", help="with --price: all of it as JSON")] = False,
) -> None:
    """Show the resolved job, what is done, and what would run; with --price, what it will take. Nothing is run."""
    job = load(job_file, change or [])
    if not priced:
        _show_plan(job)
        return
    stderr = Console(stderr=True)
    options = Options(sample_shards, sample_rows, seed, tuple(measure_on or ()), samples_per_shard, workers)
    running_on = open_executor(executor, here or workers_here(job.resources.workers, workers), None)
    try:
        found = price(job, running_on, options, lambda line: stderr.print(line, highlight=False, markup=False))
    finally:
        running_on.close()
    prices = Prices(gpu_hour, cpu_hour, tb, tb_read)
    if plain:
        print(json.dumps(record(found, prices), indent=2))
    else:
        show(found, prices, Console())


def _show_plan(job: Job) -> None:
    console = Console()
    console.print(dumps(dict(job.resolved)), markup=False, highlight=False)
    table = Table("stage", "artifact", "state")
    for label, artifact, state in running.plan(job):
        table.add_row(label, artifact.name, state)
    console.print(table)


def workers_here(*asked: int | None) -> int:
    """Workers of a miniature: as many as the job will have (None where nothing says), but one per core at most."""
    return min([os.cpu_count() or 1, *filter(None, asked)])
