"""The `winnow` command: run, plan, status; prints results on stdout, progress and errors on stderr."""

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from jobs import funnel
from jobs import run as running
from jobs.job import load
from pipeline import storage
from pipeline.artifact import DONE, is_artifact
from pipeline.errors import JobError, WinnowError
from pipeline.executor_open import open_executor

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Filter web-scale image-text pools: embed once, decide exactly, train on what stays.",
)

JobFile = Annotated[str, typer.Argument(help="a job file (YAML)", metavar="JOB.yaml")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="change the job, such as policy.3.density.fraction=0.3"),
]


@app.command()
def run(
    job_file: JobFile,
    change: Changes = None,
    executor: Annotated[str, typer.Option(help="ray or local")] = "ray",
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster: auto, or ray://…")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core or GPU by default")] = None,
) -> None:
    """Run a job; what is done already is not done again, so the same command resumes."""
    job = load(job_file, change or [])
    stderr = Console(stderr=True)
    running_on = open_executor(executor, workers or job.resources.workers, address)
    try:
        result = running.run(job, running_on, lambda line: stderr.print(line, highlight=False, markup=False))
    finally:
        running_on.close()
    funnel.show(result, Console())


@app.command()
def plan(job_file: JobFile, change: Changes = None) -> None:
    """Show the resolved job, what is done, and what would run; nothing is run."""
    job = load(job_file, change or [])
    console = Console()
    console.print(yaml.safe_dump(dict(job.resolved), sort_keys=False), markup=False, highlight=False)
    table = Table("stage", "artifact", "state")
    for label, artifact, state in running.plan(job):
        table.add_row(label, artifact.name, state)
    console.print(table)


@app.command()
def status(store: Annotated[str, typer.Argument(help="URL of a store")]) -> None:
    """Show the finished jobs of a store, and its artifacts."""
    artifacts = [name for name in storage.folders(store) if is_artifact(name)]
    if not artifacts:
        raise JobError(f"a store must hold artifacts, but {store} has none; is it the store of a job that ran?")
    console = Console()
    console.print(funnel.status_table(store))
    table = Table("artifact", "state")
    for name in artifacts:
        done = storage.exists(storage.join(store, name, DONE))
        table.add_row(name, "done" if done else "unfinished")
    console.print(table)


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option(help="where everything lands")] = Path("out/quickstart"),
    executor: Annotated[str, typer.Option(help="ray or local")] = "ray",
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core by default")] = None,
) -> None:
    """Render a world, train a filter network on it, filter its noisy pool, compare with the planted truth."""
    from jobs import quickstart as whole

    stderr, stdout = Console(stderr=True), Console()
    result = whole.quickstart(folder, executor, workers, lambda line: stderr.print(line, highlight=False))
    funnel.show(result, stdout)
    verdicts = whole.judged(result, folder)
    stdout.print("\nwhat became of what was planted:", highlight=False)
    stdout.print(whole.truth_table(verdicts, [name for name, _ in result.path.cuts]))
    broken = 0
    for check in whole.checks(result, verdicts):
        broken += not check.holds
        stdout.print(f"{'ok  ' if check.holds else 'NOT '} {check.promise}: {check.seen}", highlight=False)
    if broken:
        raise typer.Exit(1)


def main() -> None:
    """The console command; exit code 0 only when every sample of the pool is accounted for."""
    try:
        app()
    except WinnowError as error:
        Console(stderr=True).print(f"winnow: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            Console(stderr=True).print("winnow: stopped; the same command resumes", style="red")
        raise
