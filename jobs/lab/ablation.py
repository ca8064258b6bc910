"""Measures what each ingredient of a filter network's recipe contributes, and what wrong captions cost.

The code of `winnow train-filter` trains every filter, and a winnow job scores a pool with known truth with it. Each
filter is evaluated twice: by the ROC AUC of right against wrong pairs of the pool, and by retrieval on held-out pairs.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs.filter_network import filter_job
from winnow.jobs.filter_network.evaluate import Truth, filter_quality, retrieval
from winnow.jobs.filter_network.precision import AUTO, settled_once
from winnow.jobs.filter_network.train_filter import Filter, run_filter_job
from winnow.jobs.filter_network.training import claim
from winnow.jobs.job_file.changes import put
from winnow.jobs.job_file.job import parse, read
from winnow.jobs.lab.poison import poisoned
from winnow.jobs.run import run_job
from winnow.pipeline import storage
from winnow.pipeline.artifact import json_if_whole, write_json
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.terminal import escape_unshown

TAKEN_AWAY: dict[str, Mapping[str, object]] = {
    "one caption a picture": {"clean.layers": 1, "finetune": None},
    "no augmentation": {"training.augmentation": {}, "finetune": None},
}
"""Changes to the job that leave one ingredient out. Everything else stays, also the number of steps."""

ADDED: dict[str, Mapping[str, object]] = {
    "captions and augmentation": {"finetune": None},
    "then fine-tuned": {"ensemble": 1.0},
    "averaged with before": {},
}
"""The recipe of the job itself, step by step. Each step uses the trainings of the steps before."""


@dataclass(frozen=True)
class EvaluationData:
    """How every filter is evaluated. held_out: captioned tars that no filter was trained on. captions: as in Pairs."""

    pool: str
    truth: Truth
    held_out: str
    captions: str

    @property
    def asked(self) -> Mapping[str, object]:
        """Everything that the numbers depend on, as plain values."""
        good = int(self.truth.good.sum())
        truth = {"good": good, "bad": len(self.truth.good) - good}
        return {"pool": self.pool, "truth": truth, "held_out": self.held_out, "captions": self.captions}

    def numbers(self, made: Filter, store: str, name: str) -> dict[str, object]:
        """Run a job with the filter; return the ROC AUC on the pool, and the recalls on the held-out pairs."""
        from winnow.stages.encoders.zero_shot import Judge  # torch takes three seconds to import

        encoder = {"model": made.encoder.model, "pretrained": made.encoder.pretrained}
        job = parse({"name": name, "store": store, "pool": {"shards": self.pool}, "embeddings": {"clip": encoder}})
        run_job(job, LocalExecutor(1), lambda _: None)
        quality = filter_quality(store, name, "clip.similarity", self.truth)
        recalls = retrieval(Judge(made.encoder, "cpu"), storage.expand([self.held_out]), self.captions)
        return {**quality, **recalls}


def ablate(
    values: Mapping[str, Any],
    judged: EvaluationData,
    seeds: Sequence[int],
    wrong: Sequence[float],
    side_by_side: int,
    say: Callable[[str], None],
) -> list[dict[str, object]]:
    """One row for each filter and seed, in the order of the tables. Results of an earlier call are used again.

    values: of a filter's job, with finetune. wrong: shares of wrong captions to train with, each without fine-tuning.
    side_by_side: filters at a time. Raises ModelError if the folder has rows of another job or another evaluation.
    """
    folder = Path(storage.rooted(values["folder"]))
    claim(folder / "asked.json", {"job": values, **judged.asked}, "rows of one ablation")
    values = _in_one_precision(values, folder, say)
    lines = [line for seed in seeds for line in _lines(values, folder, wrong, seed)]
    with ThreadPoolExecutor(side_by_side) as pool:
        calls = [pool.submit(_line, line, judged, str(folder / "store"), say) for line in lines]
        try:
            rows = [row for call in calls for row in call.result()]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # running filters end first, and no other starts
            raise
    names = list(dict.fromkeys([*ADDED, *TAKEN_AWAY, *(_poison_name(share) for share in wrong)]))
    return sorted(rows, key=lambda row: (names.index(str(row["filter"])), row["seed"]))


@dataclass(frozen=True)
class _Line:
    """Filters that build on each other, in order and in one folder: (name, values of the filter's job)."""

    seed: int
    folder: Path
    steps: tuple[tuple[str, Mapping[str, Any]], ...]


def _lines(values: Mapping[str, Any], folder: Path, wrong: Sequence[float], seed: int) -> Iterator[_Line]:
    def line(slug: str, steps: Mapping[str, Mapping[str, object]]) -> _Line:
        here = folder / f"{slug}-{seed}"
        changed = [(name, _changed(values, {**changes, "folder": str(here)}, seed)) for name, changes in steps.items()]
        return _Line(seed, here, tuple(changed))

    yield line("recipe", ADDED)
    for number, (name, changes) in enumerate(TAKEN_AWAY.items()):
        yield line(f"without-{number}", {name: changes})
    for share in wrong:
        tars = folder / f"poisoned-{share:g}-{seed}"
        captions = str(values["clean"].get("captions", "txt"))
        shards = poisoned(_urls(values["clean"]["shards"]), captions, share, seed, tars)
        changes = {"clean.shards": shards, "clean.captions": "json:captions", "finetune": None}
        yield line(f"wrong-{share:g}", {_poison_name(share): changes})


def _in_one_precision(values: Mapping[str, Any], folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    after: dict[str, Any] = copy.deepcopy(dict(values))
    job = filter_job.parse_filter_job(values)
    recipes = {"training": job.training, "finetune.training": None if job.finetune is None else job.finetune.training}
    for path, recipe in recipes.items():
        if recipe is not None and recipe.precision == AUTO:
            put(after, f"{path}.precision", settled_once(recipe, folder, say).precision, "ablation")
    return after


def _urls(shards: str | Sequence[str]) -> list[str]:
    return storage.expand(map(storage.rooted_pattern, [shards] if isinstance(shards, str) else shards))


def _poison_name(share: float) -> str:
    return f"{share:.0%} wrong captions"


def _changed(values: Mapping[str, Any], changes: Mapping[str, object], seed: int) -> dict[str, Any]:
    after: dict[str, Any] = copy.deepcopy(dict(values))
    for path, value in {"training.seed": seed, **changes}.items():
        put(after, path, value, "ablation")
    return after


def _line(line: _Line, judged: EvaluationData, store: str, say: Callable[[str], None]) -> list[dict[str, object]]:
    rows = []
    for number, (name, values) in enumerate(line.steps):
        result = line.folder / f"judged-{number}.json"
        row = json_if_whole(str(result))
        if row is None:
            made = run_filter_job(filter_job.parse_filter_job(values), LocalExecutor(1), lambda _: None)
            job = f"{line.folder.name}-{number}"
            row = {"filter": name, "seed": line.seed, **judged.numbers(made, store, job)}
            write_json(str(result), row)
        say(f"{name}, seed {line.seed}: AUC {row['auc']:.4f}")
        rows.append(row)
    return rows


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table of each filter's numbers: mean and standard deviation over seeds."""
    shown = {
        "ROC AUC": "auc",
        "image → text R@1": "image_to_text_recall@1",
        "R@5": "image_to_text_recall@5",
        "text → image R@1": "text_to_image_recall@1",
        "R@5 ": "text_to_image_recall@5",
    }
    table = Table("filter", "seeds", *shown)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in dict.fromkeys(row["filter"] for row in rows):
        mine = [row for row in rows if row["filter"] == name]
        table.add_row(name, str(len(mine)), *[_spread([float(row[key]) for row in mine]) for key in shown.values()])
    return table


def _spread(numbers: Sequence[float]) -> str:
    return f"{mean(numbers):.4f}" + (f" ± {stdev(numbers):.4f}" if len(numbers) > 1 else "")


def main(
    job_file: Annotated[str, typer.Argument(help="job file of a filter (YAML) with finetune", metavar="JOB.yaml")],
    pool: Annotated[str, typer.Option(help="tars with right and wrong pairs")],
    truth: Annotated[str, typer.Option(help="parquet with the uid and the kind of each pair")],
    held_out: Annotated[str, typer.Option(help="captioned tars that no filter is trained on")],
    change: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE")] = None,
    good: Annotated[str, typer.Option(help="kind of right pairs")] = "clean",
    bad: Annotated[str, typer.Option(help="kind of wrong pairs")] = "mismatched",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    wrong: Annotated[
        list[float] | None, typer.Option(help="shares of wrong captions; default: 0.05, 0.25, 0.5")
    ] = None,
    side_by_side: Annotated[int, typer.Option(min=1, help="number of trainings at a time")] = 2,
) -> None:
    """Train and evaluate every filter for every seed, and print the tables. The same command resumes."""
    values = read(job_file, change or [])
    filter_job.parse_filter_job(values)  # refuses a wrong job before any training
    judged = EvaluationData(
        pool, Truth.read(truth, "what", [good], [bad]), held_out, values["clean"].get("captions", "txt")
    )
    stderr = Console(stderr=True)
    shares = (0.05, 0.25, 0.5) if wrong is None else wrong
    rows = ablate(values, judged, range(seeds), shares, side_by_side, lambda line: stderr.print(line, highlight=False))
    out = str(Path(storage.home(values["folder"])) / "ablation.json")
    write_json(out, {"rows": rows, "job": values})
    Console(width=140).print(table_of(rows))
    stderr.print(f"rows and job: {out}", highlight=False)


if __name__ == "__main__":
    escape_unshown()
    typer.run(main)
