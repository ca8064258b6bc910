"""Compares policies by training: `python -m winnow.jobs.lab.datacomp COMPARISON.yaml`, a small CLIP for each policy."""

from typing import Annotated

import typer
from rich.console import Console

from winnow.jobs.cli import Address, Changes, Quiet, Workers
from winnow.jobs.console import start, working
from winnow.pipeline.terminal import escape_unshown

NAME = "python -m winnow.jobs.lab.datacomp"
app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def datacomp(
    comparison_file: Annotated[str, typer.Argument(help="file of a comparison (YAML)", metavar="COMPARISON.yaml")],
    change: Changes = None,
    executor: Annotated[str, typer.Option(help="executor of the policies: ray or local")] = "ray",
    address: Address = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Train the same small CLIP on what each policy keeps of a pool, and compare. The same command resumes."""
    from winnow.jobs.lab.datacomp.compare import run_comparison
    from winnow.jobs.lab.datacomp.plan import load_comparison
    from winnow.jobs.lab.datacomp.table import table

    comparison = load_comparison(comparison_file, change or [])
    with working(executor, workers, address, quiet, soft_wrap=True) as (running_on, say):
        rows = run_comparison(comparison, running_on, say)
    Console().print(table(rows))


if __name__ == "__main__":
    escape_unshown()
    start(app, NAME)
