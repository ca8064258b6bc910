"""Reads and checks the YAML job file of a filter network."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from winnow.jobs.filter_network.training import Recipe
from winnow.jobs.filter_network.training_pairs import Pairs, Task
from winnow.jobs.job_file.job import read
from winnow.jobs.job_file.options import options_of
from winnow.pipeline import storage
from winnow.pipeline.errors import JobError
from winnow.pipeline.fingerprint import canonical
from winnow.stages.encoders.clip_model import Model
from winnow.stages.encoders.weights import Weights

_KEYS = ("name", "folder", "model", "pretrained", "clean", "training", "finetune", "ensemble")


@dataclass(frozen=True)
class Finetune:
    """Fine-tuning after the training on clean pairs: on labelled images with prompts, captioned pairs, or both."""

    sources: tuple[Task | Pairs, ...]
    training: Recipe


@dataclass(frozen=True)
class FilterJob:
    """The job of one filter network.

    folder: local folder for all results. clean: correct pairs. training: the recipe for these pairs. finetune: None
    to train once. ensemble: share of the fine-tuned weights in the average, 0 to 1.
    """

    name: str
    folder: str
    clean: Pairs
    training: Recipe
    finetune: Finetune | None = None
    ensemble: float = 0.5

    @property
    def resolved(self) -> Mapping[str, object]:
        """The whole job as plain values, defaults filled in."""
        plain = canonical(self)
        return dict(plain) if isinstance(plain, Mapping) else {}


def load_filter_job(path: str, changes: Sequence[str] = ()) -> FilterJob:
    """Read the job from a YAML file and apply `path.to.key=value` changes; JobError for unknown keys."""
    return parse_filter_job(read(path, changes))


def parse_filter_job(values: Mapping[str, object]) -> FilterJob:
    """The job of plain values, as a YAML file holds them."""
    for key in ("name", "folder", "model", "clean"):
        if not values.get(key):
            raise JobError(f"a filter's job must have {key}; its keys are {', '.join(_KEYS)}")
    asked = options_of(_Asked, "the job", values)
    finetune = None if asked.finetune is None else _finetune(asked)
    if not 0 <= asked.ensemble <= 1:
        raise JobError(f"ensemble must be between 0 and 1 (share of the fine-tuned weights), got {asked.ensemble}")
    return FilterJob(
        name=asked.name,
        folder=storage.rooted(asked.folder.rstrip("/")),
        clean=options_of(Pairs, "clean", asked.clean),
        training=_recipe("training", asked, asked.training, asked.pretrained),
        finetune=finetune,
        ensemble=asked.ensemble,
    )


@dataclass(frozen=True)
class _AskedFinetune:
    task: Annotated[Mapping[str, object], storage.OptionsOf(Task)] | None = None
    pairs: Annotated[Mapping[str, object], storage.OptionsOf(Pairs)] | None = None
    training: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Asked:
    """The keys of a job file and the kinds of their values."""

    name: str
    folder: storage.File
    model: Model
    clean: Annotated[Mapping[str, object], storage.OptionsOf(Pairs)]
    pretrained: Weights | None = None
    training: Mapping[str, object] = dataclasses.field(default_factory=dict)
    finetune: Annotated[Mapping[str, object], storage.OptionsOf(_AskedFinetune)] | None = None
    ensemble: float = 0.5


def _finetune(asked: _Asked) -> Finetune:
    parts = options_of(_AskedFinetune, "finetune", asked.finetune or {})
    task = [options_of(Task, "finetune.task", parts.task)] if parts.task is not None else []
    pairs = [options_of(Pairs, "finetune.pairs", parts.pairs)] if parts.pairs is not None else []
    if not task and not pairs:
        raise JobError("finetune must have task (labelled images), pairs (captioned images), or both, got neither")
    return Finetune((*task, *pairs), _recipe("finetune.training", asked, parts.training, None))


def _recipe(where: str, asked: _Asked, options: Mapping[str, object], pretrained: str | None) -> Recipe:
    for key in ("model", "pretrained"):
        if key in options:
            raise JobError(
                f"{where} must not have {key}, because one {key} holds for the whole job; move it to the top level"
            )
    return options_of(Recipe, where, {**options, "model": asked.model, "pretrained": pretrained})
