"""The command `winnow plan` with its options. Heavy imports wait until the command runs, so that --help is fast."""

from typing import Annotated

import typer


def plan(
    job_file: Annotated[str, typer.Argument(help="a job file (YAML)", metavar="JOB.yaml")],
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="change to the job, such as policy.3.density.fraction=0.3"),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="also show options with their default values")] = False,
    looked: Annotated[
        bool,
        typer.Option("--look/--no-look", help="read the first samples; --no-look works without access to the pool"),
    ] = True,
    plain: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
    priced: Annotated[
        bool, typer.Option("--price", help="measure a small run here and estimate hours, bytes and cost of the job")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="number of workers that the job will have")] = None,
    gpu_hour: Annotated[float, typer.Option(min=0, help="price of a GPU for an hour")] = 0.0,
    cpu_hour: Annotated[float, typer.Option(min=0, help="price of a core for an hour")] = 0.0,
    tb: Annotated[float, typer.Option(min=0, help="price of a TB that stays in the store")] = 0.0,
    tb_read: Annotated[float, typer.Option(min=0, help="price of a TB that is read")] = 0.0,
    samples_per_shard: Annotated[
        int | None, typer.Option(min=1, help="samples per shard of the pool; its files are then not counted")
    ] = None,
    measure_on: Annotated[
        list[str] | None, typer.Option(help="other shards of the same kind to measure on; repeatable")
    ] = None,
    sample_shards: Annotated[int, typer.Option(min=1, help="smallest number of shards to measure on")] = 4,
    sample_rows: Annotated[
        int | None, typer.Option(min=1, help="samples per shard to measure on; 256 images or 20,000 vectors by default")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed for the choice of these shards")] = 0,
    executor: Annotated[str, typer.Option(help="executor on this machine: ray or local")] = "ray",
    here: Annotated[int | None, typer.Option(min=1, help="workers on this machine; one per core by default")] = None,
) -> None:
    """Show the job with its defaults, which stages are done, and the first samples of the pool. Runs nothing."""
    from winnow.jobs.job_file.job import load_job
    from winnow.jobs.plan.plan import show_plan, show_price
    from winnow.jobs.plan.price import PriceOptions
    from winnow.jobs.plan.price_table import Prices

    job = load_job(job_file, change or [])
    if not priced:
        show_plan(job, full, looked, plain)
        return
    options = PriceOptions(sample_shards, sample_rows, seed, tuple(measure_on or ()), samples_per_shard, workers)
    show_price(job, options, Prices(gpu_hour, cpu_hour, tb, tb_read), executor, here, plain)
