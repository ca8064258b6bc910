"""Prints the result of a job: the funnel, where the files are, and the training command."""

import shlex
from collections.abc import Mapping
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from winnow.jobs.run import JobResult
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_json
from winnow.stages.results.manifest import UIDS


def show_funnel(result: JobResult, console: Console) -> None:
    """Print the funnel, the places of the results, and the training command."""
    console.print(funnel_table(result.counts))
    lines = [f"manifest  {result.path.manifest.folder}", f"uids      {result.path.manifest.meta(UIDS)}"]
    if result.path.shards is not None:
        lines.append(f"shards    {result.path.shards.folder}")
        # an artifact that resumed from an earlier run has no such count
        if count := cast(int, dict(result.steps)["shards"].report.get("renamed", 0)):
            lines.append(f"renamed   {count:,} members of samples, so that open_clip's loader reads the judged pairs")
    if command := training_command(result):
        lines += ["\ntrain on them:", command]
    for line in lines:  # neither wrapped nor marked up, because people copy them
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def funnel_table(counts: Mapping[str, object]) -> Table:
    """One row per kind of reject and per cut, in order, with the number of samples that remain after it."""
    pool = left = cast(int, counts["pool"])
    table = Table("step", "samples", "share of pool", "remaining")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("pool", f"{pool:,}", "100.0 %", f"{pool:,}")
    rejected = cast(Mapping[str, int], counts["rejected"])
    dropped = cast(Mapping[str, int], counts["dropped"])
    for name, count in [*((f"rejected: {k}", n) for k, n in rejected.items()), *dropped.items()]:
        left -= count
        table.add_row(name, f"-{count:,}" if count else "0", _share(count, pool), f"{left:,}")
    table.add_section()
    kept = cast(int, counts["kept"])
    table.add_row("kept", f"{kept:,}", _share(kept, pool), f"{kept:,}", style="bold")
    return table


def training_command(result: JobResult) -> str:
    """The open_clip_train command for the shards, or for the kept samples in place if no shards were exported.

    The model is that of the job's first CLIP encoder. "" if nothing is kept or the pool has no images.
    """
    samples = cast(int, result.counts["kept"])
    if not samples or not result.job.pool.reader.has_images:
        return ""
    count, data = _in_place(result) if result.path.shards is None else _exported(result, result.path.shards)
    model = next((name for e in result.job.embeddings.values() if (name := e.trained_as)), "ViT-B-32")
    words = ["python", "-m", "open_clip_train.main", "--dataset-type", "webdataset"]
    words += ["--train-data", data, "--train-num-samples", str(samples)]
    batch, workers = loading(samples, count)
    return shlex.join([*words, "--model", model, "--batch-size", str(batch), "--workers", str(workers)])


def loading(samples: int, shards: int) -> tuple[int, int]:
    """Batch size (at most 256) and loader workers (at most 8) for shards of equal size, except the last.

    A worker that has less than one batch yields none and starts again, so training would wait forever. Therefore a
    batch is at most the share of the worker with the fewest samples.
    """
    workers = max(1, min(8, shards // 2, samples // 256)) if samples >= shards else 1
    share = samples if workers == 1 else samples // shards * (shards // workers - 1)
    return min(256, 1 << (share.bit_length() - 1)), workers


def _exported(result: JobResult, shards: Artifact) -> tuple[int, str]:
    """The number of training shards, and their URL for webdataset."""
    count = cast(int, dict(result.steps)["shards"].report["shards"])
    names = f"{_numbers(count)}.tar"
    if shards.folder.startswith("s3://"):  # webdataset opens gs:// by itself, but not this
        return count, f"pipe:aws s3 cp {storage.join(shlex.quote(shards.folder), names)} -"
    return count, storage.join(shards.folder, names)


def _in_place(result: JobResult) -> tuple[int, str]:
    """The number of input shards, and the URL by which `winnow cat` streams their kept samples."""
    count = cast(int, dict(result.steps)["pool"].report["shards"])
    return count, f"pipe:winnow cat {shlex.quote(result.job.store)} {result.job.name} {_numbers(count)}"


def _numbers(count: int) -> str:
    return f"{{00000..{count - 1:05d}}}" if count > 1 else "00000"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def status_table(store: str) -> Table:
    """One row per finished job of a store."""
    table = Table("job", "pool", "kept", "dropped", "rejected", "seconds")
    for found in storage.listing(storage.join(store, "jobs")):
        record = cast(dict[str, Any], read_json(found.url))
        counts = record["counts"]
        dropped, rejected = (sum(counts[name].values()) for name in ("dropped", "rejected"))
        numbers = [counts["pool"], counts["kept"], dropped, rejected, round(sum(record["seconds"].values()))]
        table.add_row(record["name"], *[f"{number:,}" for number in numbers])
    return table
