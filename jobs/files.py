"""The command `winnow files`: prints the URLs of a stage's parquet files, for programs that read a list of files."""

from typing import Annotated

import typer

from winnow.pipeline.errors import JobError


def files(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job in the store", metavar="JOB")],
    stage: Annotated[str, typer.Argument(help="a stage of the job, such as samples or manifest")] = "samples",
) -> None:
    """Print the parquet files of one stage, one URL per line: those of a grown pool lie in several folders."""
    from winnow.jobs.finished_job import open

    job = open(store, name)
    if stage not in job.artifacts:
        raise JobError(f"a stage of {name} must be one of {', '.join(job.artifacts)}, got {stage!r}")
    for url in job.files(stage):
        print(url)
