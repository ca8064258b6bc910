"""Trains a small CLIP for each policy, amount of compute and seed, and evaluates it.

An evaluated training is not done again, and a stopped one resumes. Several run side by side.
"""

import dataclasses
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from winnow.jobs.filter_network.precision import settled_once
from winnow.jobs.filter_network.training import Recipe, claim, claim_model
from winnow.jobs.lab.datacomp.labelled import LabelledSet, Pictures, recalls, top1
from winnow.jobs.lab.datacomp.plan import Outcome, Regime, Trainings
from winnow.pipeline.artifact import json_if_whole, write_json
from winnow.pipeline.errors import TrainingError
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.lifeline import WATCHED

_JUDGING = threading.Lock()  # open_clip builds a model with the process's one random generator


@dataclass(frozen=True)
class FilteredPool:
    """The kept samples of an outcome. shards: tars as a pattern for open_clip's trainer. name: of their artifact."""

    outcome: Outcome
    shards: str
    name: str
    kept: int


@dataclass(frozen=True)
class Fit:
    """One training. samples: pairs that the comparison asks for."""

    kept: FilteredPool
    samples: int
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> str:
        """Name of its folder; another recipe or other shards give another name."""
        mark = fingerprint({"recipe": self.recipe, "shards": self.kept.name})
        return f"{self.kept.outcome.slug}-{self.samples}-seed{self.seed}-{mark}"

    @property
    def seen(self) -> int:
        """Pairs that the training sees, in whole batches."""
        return samples_seen(self.recipe)


@dataclass(frozen=True)
class FinishedTraining:
    """A finished training. top1: accuracy on the evaluation images. by_class: recall of each class."""

    fit: Fit
    top1: float
    by_class: tuple[float | None, ...]


def samples_seen(recipe: Recipe) -> int:
    """Pairs that a recipe with samples_per_epoch sees. open_clip's trainer rounds an epoch up to whole batches."""
    return recipe.epochs * math.ceil((recipe.samples_per_epoch or 0) / recipe.batch_size) * recipe.batch_size


def samples_of(regime: Regime, kept: int, whole: int, asked: Trainings) -> int:
    """Number of pairs for a training on `kept` of the `whole` usable samples of the pool."""
    return asked.samples if regime == "equal" else max(1, round(asked.samples * kept / whole))


def fit_of(kept: FilteredPool, samples: int, seed: int, asked: Trainings) -> Fit:
    """The training on an outcome, with its number of samples, warmup and seed."""
    recipe = asked.recipe
    # a training resumes from its last epoch; short trainings have fewer epochs, so each has at least one batch
    epochs = max(1, min(recipe.epochs, samples // recipe.batch_size))
    each = math.ceil(samples / epochs)
    steps = epochs * math.ceil(each / recipe.batch_size)
    changed = dataclasses.replace(
        recipe, seed=seed, epochs=epochs, samples_per_epoch=each, warmup_steps=max(1, round(asked.warmup * steps))
    )
    return Fit(kept, samples, seed, changed)


def fits(found: Sequence[FilteredPool], whole: int, asked: Trainings) -> list[Fit]:
    """Every training once, ordered by seed. On the whole pool, both regimes are one training."""
    wanted = [
        fit_of(kept, samples_of(regime, kept.kept, whole, asked), seed, asked)
        for seed in asked.seeds
        for kept in found
        for regime in asked.regimes
    ]
    return list({fit.folder: fit for fit in wanted}.values())


def train_all(
    wanted: Sequence[Fit],
    folder: Path,
    pictures: Pictures,
    evaluation: LabelledSet,
    asked: Trainings,
    say: Callable[[str], None],
) -> list[FinishedTraining]:
    """Train and evaluate whatever has no result yet; say: called with one line per training.

    If a training fails, raises its TrainingError after the others have ended. Raises ModelError if the folder has
    trainings of another model, or evaluated on other images.
    """
    running: set[subprocess.Popen[str]] = set()
    mark = fingerprint({"evaluation": evaluation, "images": len(pictures.images)})
    claim_model(folder, asked.recipe.model)
    claim(folder / f"evaluation-{mark}.json", {"pictures": pictures.digest}, "accuracies on one set of images")
    left = [fit for fit in wanted if _judged(fit, folder, mark) is None]
    say(f"{len(wanted)} trainings, {len(wanted) - len(left)} done before, {asked.side_by_side} at a time")
    precision = settled_once(asked.recipe, folder, say).precision if left else asked.recipe.precision

    def one(number: int, fit: Fit) -> None:
        path = folder / fit.folder
        checkpoint = _train(fit, dataclasses.replace(fit.recipe, precision=precision), path, running)
        with _JUDGING:
            by_class = recalls(fit.recipe.model, checkpoint, pictures, evaluation, fit.recipe.device)
        accuracy = top1(by_class, pictures.labels)
        write_json(str(path / f"accuracy-{mark}.json"), {"top1": accuracy, "by_class": by_class})
        if not asked.keep_checkpoints:
            checkpoint.unlink()
        say(f"{number} of {len(left)}: {fit.kept.outcome}, {fit.samples:,} pairs, seed {fit.seed}: {accuracy:.1%}")

    with ThreadPoolExecutor(asked.side_by_side) as threads:
        begun = [threads.submit(one, number, fit) for number, fit in enumerate(left, 1)]
        try:
            for future in begun:
                future.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise
    return [judged for fit in wanted if (judged := _judged(fit, folder, mark)) is not None]


def _train(fit: Fit, recipe: Recipe, path: Path, running: set[subprocess.Popen[str]]) -> Path:
    """Train in a process that can be ended; return the last checkpoint."""
    words = [fit.kept.shards, str(path), TypeAdapter(Recipe).dump_json(recipe).decode(), WATCHED]
    command = [sys.executable, "-m", "winnow.jobs.lab.datacomp.fit", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        running.add(process)
        try:
            said = process.stderr.read() if process.stderr is not None else ""  # communicate() would close stdin
            process.wait()
        finally:
            running.discard(process)
    if process.returncode != 0:
        raise TrainingError(said.strip() or f"a training ended with exit code {process.returncode}: {path}")
    return path / "checkpoints" / f"epoch_{recipe.epochs}.pt"


def _judged(fit: Fit, folder: Path, mark: str) -> FinishedTraining | None:
    found = json_if_whole(str(folder / fit.folder / f"accuracy-{mark}.json"))
    if found is None:
        return None
    by_class = TypeAdapter(tuple[float | None, ...]).validate_python(found["by_class"])
    return FinishedTraining(fit, TypeAdapter(float).validate_python(found["top1"]), by_class)
