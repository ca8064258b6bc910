"""The `winnow` command line: every command with its options. Results go to stdout, progress and errors to stderr.

Each command imports what it needs when it is called, so that --help and completion are fast.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as version_of
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from winnow.jobs.filter_network.evaluate_command import app as evaluate_app
from winnow.jobs.plan.command import plan
from winnow.jobs.why.command import why
from winnow.pipeline.errors import AccountingError, JobError, WinnowError
from winnow.pipeline.terminal import escaped

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


Executor = Annotated[str, typer.Option(help="ray or local")]  # ray by default: all but report read whole shards
Address = Annotated[str | None, typer.Option(help="address of a running Ray cluster: auto, or ray://…")]
Workers = Annotated[int | None, typer.Option(min=1, help="number of workers; default: one per core or GPU")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print only errors on stderr")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout")]
JobFile = Annotated[str, typer.Argument(help="a job file (YAML)", metavar="JOB.yaml")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="change the job, such as policy.3.density.fraction=0.3"),
]


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2))


@contextmanager
def telling(quiet: bool, soft_wrap: bool | None = None) -> Iterator[Callable[[str], None]]:
    """Print one line per stage and the progress on stderr; with `quiet`, print neither."""
    from winnow.pipeline.progress import hushed

    stderr = Console(stderr=True, quiet=quiet)
    with hushed(quiet):
        yield lambda line: stderr.print(line, highlight=False, markup=False, soft_wrap=soft_wrap)


@app.command()
def run(
    job_file: JobFile,
    change: Changes = None,
    executor: Executor = "ray",
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
    from winnow.jobs.job_file.job import load
    from winnow.jobs.show import funnel
    from winnow.jobs.watch import recorded
    from winnow.pipeline.executors.choose import open_executor

    job = load(job_file, change or [])
    running_on = open_executor(executor, workers or job.resources.workers, address)
    with telling(quiet) as say:
        try:
            with recorded(job.store, job.name, executor) as watchers:
                result = running.run(job, running_on, say, watchers, looked)
        finally:
            running_on.close()
    if plain:
        from winnow.jobs.show.documents import run_document

        _print_json(run_document(result))
    else:
        funnel.show(result, Console())


app.command()(plan)


@app.command()
def sweep(
    job_file: JobFile,
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary", metavar="PATH=VALUES", help="values, as in policy.3.density.fraction=0.1,0.2; repeatable"
        ),
    ],
    change: Changes = None,
    executor: Executor = "ray",
    address: Address = None,
    workers: Workers = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="also write a JSON file")] = None,
    quiet: Quiet = False,
) -> None:
    """Compare policies: run every combination of the given values over one store; writes no manifest."""
    from winnow.jobs import sweep as sweeping
    from winnow.jobs.job_file.job import read
    from winnow.jobs.show import comparison
    from winnow.pipeline.artifact import write_json
    from winnow.pipeline.executors.choose import open_executor

    found = sweeping.policies(read(job_file, change or []), [sweeping.Variation.parse(text) for text in vary])
    running_on = open_executor(executor, workers or found[0].job.resources.workers, address)
    with telling(quiet) as say:
        try:
            result = sweeping.sweep(found, running_on, say)
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
    plain: AsJson = False,
) -> None:
    """Show the finished jobs and the artifacts of a store; with --watch, follow the newest run."""
    from winnow.jobs.show import documents, funnel

    if live:
        from winnow.jobs.watch import watch

        if plain:
            raise JobError("--watch and --json exclude each other; give one of them")
        watch(store, Console(), refreshes)
        return
    if plain:
        _print_json(documents.status_document(store))
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
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job of it", metavar="JOB")],
    rows: Annotated[int, typer.Option("--sample", min=1, help="rows whose bytes and vectors are read again")] = 1000,
    every: Annotated[bool, typer.Option("--all", help="read all of them again")] = False,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 31) - 1, help="of the sample: another one, other rows")] = 0,
    executor: Executor = "ray",
    address: Address = None,
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core by default")] = None,
    plain: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check the files of a finished job: counts, uids, shards, sources, values; writes nothing."""
    from winnow.jobs.show.documents import verify_document
    from winnow.jobs.verify import verify as verifying
    from winnow.pipeline.executors.choose import open_executor
    from winnow.stages.cuts.contract.finished import Sample

    stdout, lines = Console(quiet=plain), []
    running_on = open_executor(executor, workers, address)
    with telling(quiet):
        try:
            for line in verifying.verify(store, name, running_on, Sample(None if every else rows, seed)):
                lines.append(line)
                stdout.print(str(line), highlight=False, markup=False, soft_wrap=True)
        finally:
            running_on.close()
    if plain:
        _print_json(verify_document(store, name, lines))
    if broken := [line.check for line in lines if not line.holds]:
        seen = "" if plain else "; see above"
        raise AccountingError(f"a finished job must be as it was left, but {name} fails {', '.join(broken)}{seen}")


@app.command()
def cat(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job of it", metavar="JOB")],
    shard: Annotated[int, typer.Argument(help="number of an input shard, from 0; 00017 is 17")],
    epoch: Annotated[int | None, typer.Option(help="only samples of this epoch, of a cut such as `epochs`")] = None,
    gap: Annotated[int | None, typer.Option(help="bytes read over rather than asked for around them")] = None,
) -> None:
    """Stream the kept samples of one input shard to stdout as a tar, for webdataset's `pipe:`."""
    from winnow.jobs import cat as streaming

    raise typer.Exit(streaming.cat(store, name, shard, epoch, gap))


app.command()(why)


@app.command("train-filter")
def train_filter(
    job_file: JobFile,
    change: Changes = None,
    workers: Annotated[int | None, typer.Option(min=1, help="to write pairs; one per core by default")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a filter network: train on clean pairs, fine-tune, average both; the same command resumes."""
    from winnow.jobs.filter_network import filter_job
    from winnow.jobs.filter_network import train_filter as training
    from winnow.pipeline.executors.choose import open_executor

    running_on = open_executor("local", workers, None)
    job = filter_job.load_filter_job(job_file, change or [])
    with telling(quiet) as say:
        made = training.train_filter(job, running_on, say)
    console = Console()
    console.print("in a job, under embeddings:", highlight=False)
    line = f"  clip: {{model: {made.encoder.model}, pretrained: {made.encoder.pretrained}}}"
    console.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command()
def export(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job of it", metavar="JOB")],
    executor: Executor = "ray",
    address: Address = None,
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core by default")] = None,
    columns: Annotated[
        str, typer.Option(metavar="NAMES", help="of the pool's json or parquet, such as url,similarity; '' for none")
    ] = "url",
    dropped: Annotated[bool, typer.Option("--dropped", help="what does not stay, with the reason")] = False,
    quiet: Quiet = False,
) -> None:
    """List the kept samples of a finished job in parquet files: uid, key, caption, url."""
    from winnow.jobs import export as exporting
    from winnow.pipeline.executors.choose import open_executor

    running_on = open_executor(executor, workers, address)
    with telling(quiet):
        try:
            names = [found.strip() for found in columns.split(",")] if columns.strip() else []
            stderr = Console(stderr=True)
            folder = exporting.export(
                store, name, running_on, names, dropped, lambda line: stderr.print(line, markup=False)
            )
        finally:
            running_on.close()
    Console().print(folder, soft_wrap=True, highlight=False, markup=False)


@app.command()
def report(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job of it", metavar="JOB")],
    compare: Annotated[str | None, typer.Option(metavar="OTHER", help="another finished job, shown beside")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="in place of one in the store")] = None,
    executor: Annotated[str, typer.Option(help="local or ray; it reads a sample, so local by default")] = "local",
    address: Address = None,
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core by default")] = None,
    quiet: Quiet = False,
) -> None:
    """Make an HTML page about a finished job: funnel, histograms, concepts, samples; it opens offline."""
    from winnow.jobs import report as reporting  # the library of plots is 5 MB
    from winnow.pipeline.executors.choose import open_executor

    running_on = open_executor(executor, workers, address)
    with telling(quiet) as say:
        try:
            made = reporting.report(store, name, running_on, compare, out)
        finally:
            running_on.close()
        read = f"{made.sampled_shards:,} of {made.shards:,} shards read"
        say(f"{made.size_bytes / 1e6:.1f} MB in {made.seconds:.1f} s, {read}")
    Console().print(made.url, soft_wrap=True, highlight=False, markup=False)


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option(help="where everything lands")] = Path("out/quickstart"),
    executor: Executor = "ray",
    workers: Annotated[int | None, typer.Option(min=1, help="how many; one per core by default")] = None,
    quiet: Quiet = False,
) -> None:
    """Try winnow without data: render a small pool, train a filter network, filter the pool, check the result."""
    from winnow.jobs.quickstart import quickstart as whole
    from winnow.jobs.show import funnel

    stdout = Console()
    with telling(quiet) as say:
        result = whole.quickstart(folder, executor, workers, say)
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


def main(command: typer.Typer = app, name: str = "winnow") -> None:
    """A console command; exit code 0 only when every sample of the pool is accounted for.

    name: what its help calls it. SIGINT and SIGTERM end the workers first, and leave no file half written: exit code
    130 and 143.
    """
    terminated: list[int] = []

    def terminate(number: int, _frame: FrameType | None) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        command(prog_name=name)  # also as `python -m winnow.jobs`: completion goes by the name
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
