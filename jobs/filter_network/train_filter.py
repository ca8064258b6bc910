"""`winnow train-filter`: trains, fine-tunes and averages a filter network into filter.pt and filter.json.

The method of Fang et al. 2023 (arXiv 2309.17425): train on clean pairs, each image with all of its captions;
fine-tune on a task whose captions are prompts; average the weights before and after. Each step has a folder whose
name carries a fingerprint of its inputs, so finished steps are used again.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from winnow.jobs.filter_network.filter_job import FilterJob
from winnow.jobs.filter_network.training import RECIPE, Recipe, run_training
from winnow.jobs.filter_network.training_pairs import PairSource, Task, pattern, write_pairs
from winnow.pipeline import storage
from winnow.pipeline.artifact import DONE, json_if_whole, write_json
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.fingerprint import fingerprint
from winnow.stages.encoders import OpenClip
from winnow.stages.encoders.weights import RANDOM

WEIGHTS = "filter.pt"
CONFIG = "filter.json"
PROVENANCE = "provenance.json"
_VERSION = 1  # goes up when the same job would make other pairs or weights
_VERSIONS = ("winnow", "open_clip_torch", "torch", "webdataset", "pillow")


@dataclass(frozen=True)
class Trained:
    """One finished training. facts: its entry in provenance.json."""

    checkpoint: Path
    facts: Mapping[str, object]


@dataclass(frozen=True)
class Filter:
    """A finished filter network. reused: whether an earlier call made it."""

    weights: Path
    config: Path
    provenance: Mapping[str, object]
    reused: bool

    @property
    def encoder(self) -> OpenClip:
        """The encoder for `embeddings:` of a job."""
        return OpenClip(str(self.config), str(self.weights))


def run_filter_job(job: FilterJob, executor: Executor, say: Callable[[str], None]) -> Filter:
    """Run the steps of a filter's job that are not done; the same call resumes.

    executor: writes the training pairs; the trainer is a process on this machine.
    Raises JobError for a folder that is not local, TrainingError if a training fails, PoolError if no image can be
    read.
    """
    if "://" in job.folder:
        raise JobError(f"folder must be local, got {job.folder}; train into a local folder, then copy it")
    folder = Path(job.folder)
    base = _step(job, "base", (job.clean,), job.training, executor, say)
    parts, steps = [(base.checkpoint, 1.0)], {"base": base.facts}
    if job.finetune is not None:
        recipe = dataclasses.replace(job.finetune.training, pretrained=str(base.checkpoint))
        tuned = _step(job, "tuned", job.finetune.sources, recipe, executor, say)
        shares = [(base.checkpoint, 1 - job.ensemble), (tuned.checkpoint, job.ensemble)]
        parts, steps = [(path, share) for path, share in shares if share], {**steps, "tuned": tuned.facts}
    shares_of = {path.parts[-3]: share for path, share in parts}
    asked = fingerprint([_VERSION, steps, shares_of])
    found = json_if_whole(str(folder / PROVENANCE))
    made = Filter(folder / WEIGHTS, folder / CONFIG, found or {}, reused=True)
    if found is not None and found.get("fingerprint") == asked and made.weights.is_file() and made.config.is_file():
        say(f"{'filter':8} {made.weights} done before")
        return made
    from winnow.stages.encoders import ensemble  # torch takes three seconds to import

    (folder / PROVENANCE).unlink(missing_ok=True)  # of another filter
    ensemble.write_config(job.training.model, made.config)
    ensemble.average(parts, made.weights)
    record: dict[str, object] = {
        "name": job.name,
        "fingerprint": asked,
        "filter": made.encoder.provenance(),
        "weights": shares_of,
        "steps": steps,
        "versions": _versions(),
        "job": job.resolved,
    }
    write_json(str(folder / PROVENANCE), record)
    say(f"{'filter':8} {made.weights}")
    return dataclasses.replace(made, provenance=record, reused=False)


def _step(
    job: FilterJob,
    name: str,
    sources: Sequence[PairSource],
    recipe: Recipe,
    executor: Executor,
    say: Callable[[str], None],
) -> Trained:
    """Write the pairs of one training and train on them."""
    inputs = _inputs(sources)
    mark = fingerprint([_VERSION, [_without_places(source) for source in sources], inputs])
    pairs = storage.join(job.folder, f"pairs-{mark}")
    report = write_pairs(sources, pairs, executor)
    say(f"{name:8} {storage.name_of(pairs)} {report['pictures']:,} pictures, {report['pairs']:,} pairs")
    parent = OpenClip(recipe.model, recipe.pretrained or RANDOM).provenance()
    mark = fingerprint([mark, dataclasses.replace(recipe, model="", pretrained=None), parent])
    out = Path(job.folder, f"{name}-{mark}")
    checkpoint = run_training(pattern(pairs), out, recipe, lambda line: say(f"{name:8} {line}"))
    seconds = (json_if_whole(str(out / DONE)) or {}).get("seconds")
    say(f"{name:8} {out.name} {seconds} s")
    facts = {
        "folder": out.name,
        "inputs": inputs,
        "pairs": {"folder": storage.name_of(pairs), **report},
        "parent": parent,
        "precision": (json_if_whole(str(out / RECIPE)) or {}).get("precision"),
        "checkpoint": OpenClip(recipe.model, str(checkpoint)).provenance()["pretrained"],
        "seconds": seconds,
    }
    return Trained(checkpoint, facts)


def _inputs(sources: Sequence[PairSource]) -> list[Mapping[str, object]]:
    """The identity of each source: number of files, bytes, and a fingerprint of their sizes and etags (or times)."""
    found: list[Mapping[str, object]] = []
    for source in sources:
        files = storage.identify([*source.urls(), *([source.classnames] if isinstance(source, Task) else [])])
        sizes = sum(file.size for file in files)
        found.append({"files": len(files), "bytes": sizes, "fingerprint": fingerprint(files, digits=32)})
    return found


def _without_places(source: PairSource) -> PairSource:
    """The source without its paths, so that moving the files does not change the fingerprint."""
    if isinstance(source, Task):
        return dataclasses.replace(source, images="", classnames="")
    return dataclasses.replace(source, shards="")


def _versions() -> Mapping[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
