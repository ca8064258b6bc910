"""The `winnow` command: run, plan, sweep, status, verify; prints results on stdout, progress and errors on stderr."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from jobs import comparison, funnel
from jobs import run as running
from jobs import sweep as sweeping
from jobs import verify as verifying
from jobs.checks.finished import Sample
from jobs.job import load, read
from pipeline import storage
from pipeline.artifact import DONE, is_artifact, write_json
from pipeline.errors import AccountingError, JobError, WinnowError
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
def sweep(
    job_file: JobFile,
    vary: Annotated[
        list[str],
        typer.Option("--vary", metavar="PATH=VALUES", help="such as policy.3.density.fraction=0.1,0.2,0.3; repeatable"),
    ],
    change: Changes = None,
    executor: Annotated[str, typer.Option(help="ray or local")] = "ray",
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster: auto, or ray://…")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core or GPU by default")] = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="leave all of it there too")] = None,
) -> None:
    """Compare policies: every combination of the varied values, over scores that are made once; no manifest."""
    found = sweeping.policies(read(job_file, change or []), [sweeping.Variation.parse(text) for text in vary])
    stderr = Console(stderr=True)
    running_on = open_executor(executor, workers or found[0].job.resources.workers, address)
    try:
        result = sweeping.sweep(found, running_on, lambda line: stderr.print(line, highlight=False, markup=False))
    finally:
        running_on.close()
    comparison.show(result, Console())
    if json_file is not None:
        write_json(json_file, result.record())


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
def verify(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job of it", metavar="JOB")],
    rows: Annotated[int, typer.Option("--sample", min=1, help="rows whose bytes and vectors are read again")] = 1000,
    every: Annotated[bool, typer.Option("--all", help="read all of them again")] = False,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 31) - 1, help="of the sample: another one, other rows")] = 0,
    executor: Annotated[str, typer.Option(help="ray or local")] = "ray",
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster: auto, or ray://…")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core by default")] = None,
) -> None:
    """Check a finished job again from its files alone: counts, uids, shards, sources, values; nothing is written."""
    stdout, broken = Console(), []
    running_on = open_executor(executor, workers, address)
    try:
        for line in verifying.verify(store, name, running_on, Sample(None if every else rows, seed)):
            broken += [] if line.holds else [line.check]
            stdout.print(str(line), highlight=False, markup=False, soft_wrap=True)
    finally:
        running_on.close()
    if broken:
        raise AccountingError(f"a finished job must be as it was left, but {name} fails {', '.join(broken)}; see above")


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
    """The console command; exit code 0 only when every sample of the pool is accounted for.

    SIGINT and SIGTERM end the workers first, and leave no file half written: exit code 130 and 143.
    """
    terminated: list[int] = []

    def terminate(number: int, _frame: FrameType | None) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        app()
    except WinnowError as error:
        Console(stderr=True).print(f"winnow: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of a KeyboardInterrupt
            Console(stderr=True).print("winnow: stopped; the same command resumes", style="red")
            sys.exit(128 + signal.SIGTERM if terminated else 130)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
