"""The `winnow` command: run, plan, sweep, status, verify, cat, export; results on stdout, all else on stderr."""

import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs import cat as streaming
from jobs import comparison, funnel
from jobs import export as exporting
from jobs import run as running
from jobs import sweep as sweeping
from jobs import verify as verifying
from jobs.checks.finished import Sample
from jobs.evaluate_command import app as evaluate_app
from jobs.job import load, read
from jobs.plan import plan
from jobs.watch import recorded, watch
from jobs.why.command import why
from pipeline import storage
from pipeline.artifact import DONE, is_artifact, write_json
from pipeline.errors import AccountingError, JobError, WinnowError
from pipeline.executor_open import open_executor
from pipeline.terminal import escaped

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Filter web-scale image-text pools: embed once, decide exactly, train on what stays.",
)

app.add_typer(evaluate_app, name="evaluate")

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
        with recorded(job.store, job.name, executor) as watchers:
            result = running.run(
                job, running_on, lambda line: stderr.print(line, highlight=False, markup=False), watchers
            )
    finally:
        running_on.close()
    funnel.show(result, Console())


app.command()(plan)


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
def status(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    live: Annotated[bool, typer.Option("--watch", help="follow the newest run until it ends or Ctrl-C")] = False,
    refreshes: Annotated[int | None, typer.Option(min=1, help="with --watch: look so many times at most")] = None,
) -> None:
    """Show the finished jobs of a store, and its artifacts."""
    if live:
        watch(store, Console(), refreshes)
        return
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
def cat(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job of it", metavar="JOB")],
    shard: Annotated[int, typer.Argument(help="number of an input shard, from 0; 00017 is 17")],
    epoch: Annotated[int | None, typer.Option(help="only samples of this epoch of the cut `epochs`")] = None,
    gap: Annotated[int | None, typer.Option(help="bytes read over rather than asked for around them")] = None,
) -> None:
    """Write the kept samples of one input shard to stdout, a tar that webdataset reads through `pipe:`."""
    raise typer.Exit(streaming.cat(store, name, shard, epoch, gap))


app.command()(why)


@app.command("train-filter")
def train_filter(
    job_file: JobFile,
    change: Changes = None,
    workers: Annotated[int | None, typer.Option(min=1, help="to write pairs; one per core by default")] = None,
) -> None:
    """Train a filter network: clean pairs, fine-tuning, the average of both; the same command resumes."""
    from jobs import filter_job
    from jobs import train_filter as training

    stderr, running_on = Console(stderr=True), open_executor("local", workers, None)
    job = filter_job.load(job_file, change or [])
    made = training.train_filter(job, running_on, lambda line: stderr.print(line, highlight=False, markup=False))
    console = Console()
    console.print("in a job, under embeddings:", highlight=False)
    line = f"  clip: {{model: {made.encoder.model}, pretrained: {made.encoder.pretrained}}}"
    console.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command()
def export(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job of it", metavar="JOB")],
    executor: Annotated[str, typer.Option(help="local or ray")] = "local",
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster: auto, or ray://…")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core by default")] = None,
) -> None:
    """Name what a finished job keeps in parquet files: uid, key, caption, url; img2dataset and datasets read them."""
    running_on = open_executor(executor, workers, address)
    try:
        folder = exporting.export(store, name, running_on)
    finally:
        running_on.close()
    Console().print(folder, soft_wrap=True, highlight=False, markup=False)


@app.command()
def report(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job of it", metavar="JOB")],
    compare: Annotated[str | None, typer.Option(metavar="OTHER", help="another finished job, shown beside")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="in place of one in the store")] = None,
    executor: Annotated[str, typer.Option(help="local or ray")] = "local",
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster: auto, or ray://…")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core by default")] = None,
) -> None:
    """Make one HTML page of a finished job: funnel, histograms, concepts, samples; it opens from disk, offline."""
    from jobs import report as reporting  # the library of plots is 5 MB

    running_on = open_executor(executor, workers, address)
    try:
        made = reporting.report(store, name, running_on, compare, out)
    finally:
        running_on.close()
    read = f"{made.sampled_shards:,} of {made.shards:,} shards read"
    Console(stderr=True).print(f"{made.size_bytes / 1e6:.1f} MB in {made.seconds:.1f} s, {read}", highlight=False)
    Console().print(made.url, soft_wrap=True, highlight=False, markup=False)


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


@app.command()
def datacomp(
    comparison_file: Annotated[str, typer.Argument(help="a comparison (YAML)", metavar="COMPARISON.yaml")],
    change: Changes = None,
    executor: Annotated[str, typer.Option(help="ray or local, for the policies")] = "ray",
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster: auto, or ray://…")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core or GPU by default")] = None,
) -> None:
    """Train the same small CLIP on what each policy keeps of a pool, and compare; the same command resumes."""
    from jobs.datacomp.compare import compare
    from jobs.datacomp.plan import load as load_comparison
    from jobs.datacomp.table import table

    comparison = load_comparison(comparison_file, change or [])
    stderr = Console(stderr=True)
    running_on = open_executor(executor, workers, address)
    try:
        say = partial(stderr.print, highlight=False, markup=False, soft_wrap=True)
        rows = compare(comparison, running_on, say)
    finally:
        running_on.close()
    Console().print(table(rows))


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
        shown = escaped(f"winnow: {error}", keep="\n")
        Console(stderr=True).print(shown, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of a KeyboardInterrupt
            Console(stderr=True).print("winnow: stopped; the same command resumes", style="red")
            sys.exit(128 + signal.SIGTERM if terminated else 130)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
