"""`winnow quickstart`: renders a pool, trains a filter network, filters the pool and checks the result.

One folder holds all results: `world/`, `filter/`, `store/`, and `quickstart.yaml`, the job as a file to change and run
again. Results of an earlier call are used again.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.table import Table

from winnow.jobs.filter_network import training
from winnow.jobs.filter_network.evaluate import Truth, filter_quality
from winnow.jobs.job_file import job
from winnow.jobs.quickstart import pocket, world
from winnow.jobs.run import JobResult, run_job
from winnow.pipeline import storage
from winnow.pipeline.artifact import DONE, read_table
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.executors.choose import open_executor

JOB = Path(__file__).parents[1] / "quickstart.yaml"


@dataclass(frozen=True)
class QuickstartCheck:
    """One check of the quickstart: what it expects, what it saw, and whether it holds."""

    promise: str
    seen: str
    holds: bool


def run_quickstart(
    folder: Path,
    executor: str,
    workers: int | None,
    say: Callable[[str], None],
    size: world.World = world.World(),  # noqa: B008  # frozen
    epochs: int = 6,
    changes: Sequence[str] = (),
) -> JobResult:
    """Run the whole quickstart in `folder`. Raises WinnowError if a step fails.

    size: sizes of the world. epochs: of the training. changes: to quickstart.yaml, as in `winnow run --set`.
    """
    started = time.monotonic()
    rendered, trained = folder / "world", folder / "filter"
    if not (rendered / "truth.parquet").exists():
        world.render_world(size, rendered)
        say(f"rendered a world of captioned pictures under {rendered} ({time.monotonic() - started:.0f} s)")
    now, trained_before = time.monotonic(), (trained / DONE).exists()
    shards = f"{rendered}/clean/{{00000..{size.clean_shards - 1:05d}}}.tar"
    checkpoint = training.run_training(shards, trained, pocket.recipe(epochs))
    if not trained_before:
        say(f"trained a filter network on its clean pairs ({time.monotonic() - now:.0f} s)")
    _leave_job_file(folder, checkpoint)
    placed = [
        f"store={folder / 'store'}",
        f"pool.shards={rendered}/pool/*.tar",
        f"embeddings.clip.model={pocket.POCKET_CONFIG}",
        f"embeddings.clip.pretrained={checkpoint}",
    ]
    running_on = open_executor(executor, workers, None)
    try:
        return run_job(job.load_job(str(JOB), [*placed, *changes]), running_on, say)
    finally:
        running_on.close()


def _leave_job_file(folder: Path, checkpoint: Path) -> None:
    """Copy the job and its model configuration into `folder`, unless it has the job, which may have been changed."""
    left = folder / JOB.name
    if not left.exists():
        shutil.copy(pocket.POCKET_CONFIG, folder)
        left.write_text(JOB.read_text().replace("../out/quickstart/", "").replace("epoch_6.pt", checkpoint.name))


def judged(result: JobResult, folder: Path) -> pa.Table:
    """The truth (what, source, concept …) and the verdict (reason, kept) of every sample of the pool."""
    truth = read_table(str(folder / "world" / "truth.parquet"))
    shards = range(len(job_shards(result)))
    manifest = pa.concat_tables([result.path.manifest.read(i, ["shard", "key", "kept", "reason"]) for i in shards])
    names = pa.array([storage.name_of(url) for url in manifest["shard"].to_pylist()])
    verdicts = manifest.drop_columns("shard").append_column("shard", names)
    joined = truth.join(verdicts, keys=["shard", "key"], join_type="full outer", use_threads=False)
    if joined.num_rows != truth.num_rows or joined["kept"].null_count or joined["what"].null_count:
        raise AccountingError(
            f"the manifest must name each of {truth.num_rows} planted samples once, but has {manifest.num_rows} rows"
        )
    return joined


def job_shards(result: JobResult) -> Sequence[storage.Identity]:
    """The input shards of a finished job."""
    return result.job.pool.identities()


def truth_table(verdicts: pa.Table, cuts: Sequence[str]) -> Table:
    """One row per kind of planted sample: how many each cut removed, and how many stay."""
    # fits 80 columns, the width in a log or a pipe
    table = Table(
        "planted", "pool", "rejected", *cuts, "kept", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column is table.columns[0] else "right"
    for what in sorted(set(verdicts["what"].to_pylist())):
        rows = verdicts.filter(pc.equal(verdicts["what"], what))
        reasons = [str(reason) for reason in rows["reason"].to_pylist()]
        rejected = sum(reason.startswith("reject:") for reason in reasons)
        removed = [reasons.count(cut) for cut in cuts]
        counts = [rows.num_rows, rejected, *removed, sum(rows["kept"].to_pylist())]
        table.add_row(what.replace("_", " "), *[f"{count:,}" if count else "·" for count in counts])
    return table


def checks(result: JobResult, verdicts: pa.Table) -> list[QuickstartCheck]:
    """The expectations in the header of quickstart.yaml, each with the measured value."""
    kind = np.asarray(verdicts["what"].to_pylist())
    used = np.isin(kind, ["clean", "mismatched"])
    known = Truth(verdicts["uid"].filter(pa.array(used)), kind[used], kind[used] == "clean")
    auc = cast(float, filter_quality(result.job.store, result.job.name, None, known)["auc"])
    asked = cast(int, dict(result.steps)["density"].report["asked"])
    kept = cast(int, result.counts["kept"])
    left, near = (copies_left(verdicts, what) for what in ("exact_duplicate", "near_duplicate"))
    single = sum(count <= 1 for count in near)
    dropped, reached = _dropped_by("similarity", verdicts, "mismatched")
    lost, clean = _dropped_by("similarity", verdicts, "clean")
    unreadable = verdicts.filter(pc.equal(verdicts["what"], "unreadable"))["reason"].to_pylist()
    rejected = sum(str(reason).startswith("reject:") for reason in unreadable)
    return [
        QuickstartCheck("wrong captions told from right ones by the network", f"ROC AUC {auc:.4f}", auc >= 0.95),
        QuickstartCheck("unreadable files rejected", f"{rejected} of {len(unreadable)}", rejected == len(unreadable)),
        QuickstartCheck("copies left of each exact duplicate", f"at most {max(left)}", max(left) <= 1),
        QuickstartCheck("near duplicates found", f"{single / len(near):.1%}", single >= 0.8 * len(near)),
        QuickstartCheck("wrong captions dropped by similarity", f"{dropped / reached:.1%}", dropped >= 0.95 * reached),
        QuickstartCheck("clean pairs lost by similarity", f"{lost / clean:.1%}", lost <= 0.10 * clean),
        QuickstartCheck("kept as many as asked", f"{kept:,} of {asked:,}", kept == asked),
    ]


def copies_left(verdicts: pa.Table, what: str) -> list[int]:
    """For each planted set of duplicates of a kind, including its source: how many passed the duplicates cut."""
    passed = {"similarity", "density", "None"}
    by_uid = {row["uid"]: row for row in verdicts.to_pylist()}
    sets: dict[str, list[str]] = {}
    for uid, row in by_uid.items():
        if row["what"] == what:
            sets.setdefault(row["source"], [row["source"]]).append(uid)
    return [sum(str(by_uid[uid]["reason"]) in passed for uid in uids) for uids in sets.values()]


def _dropped_by(cut: str, verdicts: pa.Table, what: str) -> tuple[int, int]:
    """How many samples of a kind a cut dropped, and how many reached it."""
    later = (cut, "density", "None")
    reasons = [str(reason) for reason in verdicts.filter(pc.equal(verdicts["what"], what))["reason"].to_pylist()]
    return reasons.count(cut), sum(reason in later for reason in reasons)
