"""The `winnow` command line: every command with its options. Results go to stdout, progress and errors to stderr.

Each command imports what it needs when it is called, so that --help and completion are fast.
"""

from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from winnow.jobs.console import print_json, start, telling, working
from winnow.jobs.files import files
from winnow.jobs.filter_network.evaluate_command import app as evaluate_app
from winnow.jobs.garbage.command import gc
from winnow.jobs.plan.command import plan
from winnow.jobs.why.command import why
from winnow.pipeline.errors import AccountingError, JobError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Filter image-text datasets for CLIP training. Start with `winnow run JOB.yaml`.",
)

app.add_typer(evaluate_app, name="evaluate")


def _version(asked: bool) -> None:
    if asked:
        print(f"winnow {version_of('winnow')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    del version


ExecutorOption = Annotated[str, typer.Option(help="executor: ray or local")]  # report alone has local by default
Address = Annotated[str | None, typer.Option(help="address of a running Ray cluster: auto, or ray://…")]
Workers = Annotated[int | None, typer.Option(min=1, help="number of workers; one per core or GPU by default")]
OnePerCore = Annotated[int | None, typer.Option(min=1, help="number of workers; one per core by default")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print only errors on stderr")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout")]
Store = Annotated[str, typer.Argument(help="URL of a store")]
FinishedJobName = Annotated[str, typer.Argument(help="name of a finished job in the store", metavar="JOB")]
JobFile = Annotated[str, typer.Argument(help="a job file (YAML)", metavar="JOB.yaml")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="change to the job, such as policy.3.density.fraction=0.3"),
]


@app.command()
def run(
    job_file: JobFile,
    change: Changes = None,
    executor: ExecutorOption = "ray",
    address: Address = None,
    workers: Workers = None,
    looked: Annotated[
        bool, typer.Option("--look/--no-look", help="read the first samples before any worker starts")
    ] = True,
    plain: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a job. Finished stages are used again, so the same command resumes."""
    from winnow.jobs import run as running
    from winnow.jobs.job_file.job import load_job
    from winnow.jobs.show import funnel
    from winnow.jobs.watch import recorded

    job = load_job(job_file, change or [])
    with (
        working(executor, workers or job.resources.workers, address, quiet) as (running_on, say),
        recorded(job.store, job.name, executor) as watchers,
    ):
        result = running.run_job(job, running_on, say, watchers, looked)
    if plain:
        from winnow.jobs.show.documents import run_document

        print_json(run_document(result))
    else:
        funnel.show_funnel(result, Console())


app.command()(plan)


@app.command()
def sweep(
    job_file: JobFile,
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary", metavar="PATH=VALUES", help="values to try, as in policy.3.density.fraction=0.1,0.2; repeatable"
        ),
    ],
    change: Changes = None,
    executor: ExecutorOption = "ray",
    address: Address = None,
    workers: Workers = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="JSON file to write too")] = None,
    quiet: Quiet = False,
) -> None:
    """Compare policies: run every combination of the given values over one store. Writes no manifest."""
    from winnow.jobs import sweep as sweeping
    from winnow.jobs.job_file.job import read
    from winnow.jobs.show import comparison
    from winnow.pipeline.artifact import write_json

    found = sweeping.policies(read(job_file, change or []), [sweeping.Variation.parse(text) for text in vary])
    with working(executor, workers or found[0].job.resources.workers, address, quiet) as (running_on, say):
        result = sweeping.run_sweep(found, running_on, say)
    comparison.show_sweep(result, Console())
    if json_file is not None:
        write_json(json_file, result.record())


@app.command()
def status(
    store: Store,
    live: Annotated[bool, typer.Option("--watch", help="follow the newest run until it ends or Ctrl-C")] = False,
    refreshes: Annotated[int | None, typer.Option(min=1, help="with --watch: largest number of refreshes")] = None,
    plain: AsJson = False,
) -> None:
    """Show the finished jobs and the artifacts of a store. With --watch, follow the newest run."""
    from winnow.jobs.show import documents, funnel

    if live:
        from winnow.jobs.watch import watch

        if plain:
            raise JobError("--watch and --json exclude each other; give one of them")
        watch(store, Console(), refreshes)
        return
    if plain:
        print_json(documents.status_document(store))
        return
    from rich.table import Table

    table = Table("artifact", "state")
    for name, state in documents.states(store):
        table.add_row(name, state)
    console = Console()
    console.print(funnel.status_table(store))
    console.print(table)


@app.command()
def verify(
    store: Store,
    name: FinishedJobName,
    rows: Annotated[int, typer.Option("--sample", min=1, help="rows to read again: bytes, vectors")] = 1000,
    every: Annotated[bool, typer.Option("--all", help="read the bytes and vectors of all rows again")] = False,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 31) - 1, help="seed for the choice of these rows")] = 0,
    executor: ExecutorOption = "ray",
    address: Address = None,
    workers: OnePerCore = None,
    plain: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check the files of a finished job: counts, uids, shards, sources, values. Writes nothing."""
    from winnow.jobs.show.documents import verify_document
    from winnow.jobs.verify import verify as verifying
    from winnow.stages.cuts.contract.finished import RowSample

    stdout, lines = Console(quiet=plain), []
    with working(executor, workers, address, quiet) as (running_on, _):
        for line in verifying.verify_job(store, name, running_on, RowSample(None if every else rows, seed)):
            lines.append(line)
            stdout.print(str(line), highlight=False, markup=False, soft_wrap=True)
    if plain:
        print_json(verify_document(store, name, lines))
    if broken := [line.check for line in lines if not line.holds]:
        seen = "" if plain else "; see above"
        raise AccountingError(f"a finished job must be as it was left, but {name} fails {', '.join(broken)}{seen}")


@app.command()
def cat(
    store: Store,
    name: FinishedJobName,
    shard: Annotated[int, typer.Argument(help="number of an input shard, from 0; 00017 is 17")],
    epoch: Annotated[int | None, typer.Option(help="only the samples that `epochs` drew for this epoch")] = None,
    gap: Annotated[int | None, typer.Option(help="largest gap in bytes that one request reads over")] = None,
) -> None:
    """Stream the kept samples of one input shard to stdout as a tar, for webdataset's `pipe:`."""
    from winnow.jobs import cat as streaming

    raise typer.Exit(streaming.stream_kept(store, name, shard, epoch, gap))


app.command()(why)
app.command()(files)
app.command()(gc)


@app.command("train-filter")
def train_filter(
    job_file: JobFile,
    change: Changes = None,
    workers: Annotated[int | None, typer.Option(min=1, help="workers for the pairs; one per core by default")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a filter network: train on clean pairs, fine-tune, average both. The same command resumes."""
    from winnow.jobs.filter_network import filter_job
    from winnow.jobs.filter_network import train_filter as training

    job = filter_job.load_filter_job(job_file, change or [])
    with working("local", workers, None, quiet) as (running_on, say):
        made = training.run_filter_job(job, running_on, say)
    console = Console()
    console.print("in a job, under embeddings:", highlight=False)
    line = f"  clip: {{model: {made.encoder.model}, pretrained: {made.encoder.pretrained}}}"
    console.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command()
def export(
    store: Store,
    name: FinishedJobName,
    executor: ExecutorOption = "ray",
    address: Address = None,
    workers: OnePerCore = None,
    columns: Annotated[
        str, typer.Option(metavar="NAMES", help="fields of the pool, such as url,similarity; '' for none")
    ] = "url",
    dropped: Annotated[bool, typer.Option("--dropped", help="list all other samples, with the reason")] = False,
    quiet: Quiet = False,
) -> None:
    """List the kept samples of a finished job in parquet files: uid, key, caption, url."""
    from winnow.jobs import export as exporting

    names = [found.strip() for found in columns.split(",")] if columns.strip() else []
    warn = partial(Console(stderr=True).print, markup=False)
    with working(executor, workers, address, quiet) as (running_on, _):
        folder = exporting.export_job(store, name, running_on, names, dropped, warn)
    Console().print(folder, soft_wrap=True, highlight=False, markup=False)


@app.command()
def report(
    store: Store,
    name: FinishedJobName,
    compare: Annotated[str | None, typer.Option(metavar="OTHER", help="compare with another finished job")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="write the page here, not into the store")] = None,
    executor: Annotated[str, typer.Option(help="executor: ray or local")] = "local",
    address: Address = None,
    workers: OnePerCore = None,
    quiet: Quiet = False,
) -> None:
    """Make an HTML page about a finished job: funnel, histograms, concepts, samples. The page opens offline."""
    from winnow.jobs import report as reporting  # imports a plot library of 5 MB

    with working(executor, workers, address, quiet) as (running_on, say):
        made = reporting.make_report(store, name, running_on, compare, out)
        read = f"{made.sampled_shards:,} of {made.shards:,} shards read"
        say(f"{made.size_bytes / 1e6:.1f} MB in {made.seconds:.1f} s, {read}")
    Console().print(made.url, soft_wrap=True, highlight=False, markup=False)


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option(help="folder for all files")] = Path("out/quickstart"),
    executor: ExecutorOption = "ray",
    workers: OnePerCore = None,
    quiet: Quiet = False,
) -> None:
    """Try winnow without data: render a small pool, train a filter network, filter the pool, check the result."""
    from winnow.jobs.quickstart import quickstart as whole
    from winnow.jobs.show import funnel

    stdout = Console()
    with telling(quiet) as say:
        result = whole.run_quickstart(folder, executor, workers, say)
    funnel.show_funnel(result, stdout)
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
    """Start the command `winnow`."""
    start(app)
