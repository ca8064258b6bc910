"""Reads the YAML file of a comparison: pool, filter network, policies, trainings and evaluation."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from winnow.jobs.filter_network.training import Recipe
from winnow.jobs.job_file.job import Job, parse, read
from winnow.jobs.lab.datacomp.labelled import LabelledSet
from winnow.jobs.lab.datacomp.noise import Noise
from winnow.pipeline import storage
from winnow.pipeline.errors import JobError
from winnow.stages.cuts.kinds import CUTS
from winnow.stages.encoders import OpenClip, Timm

_STRICT = ConfigDict(extra="forbid")
FILTER = "filter"
"""Name of the filter network in the policies."""

Regime = Literal["equal", "proportional"]


@dataclass(frozen=True, config=_STRICT)
class Policy:
    """A list of cuts as in a winnow job. `fractions`: shares of the pool that the last cut keeps, one outcome each."""

    name: str
    policy: tuple[Annotated[dict[str, Any], storage.OptionsOf(CUTS)], ...] = ()
    fractions: tuple[float, ...] = ()


@dataclass(frozen=True, config=_STRICT)
class Trainings:
    """The trainings on each outcome.

    recipe: the recipe of all; seed, samples and warmup are set for each. samples: pairs that the training on the whole
    pool sees. warmup: share of the steps. seeds: one training per seed. regimes: with `equal`, every training sees as
    many pairs as the training on the whole pool; with `proportional`, in proportion to the size of its outcome.
    side_by_side: trainings at a time. keep_checkpoints: false removes each checkpoint after its evaluation.
    """

    recipe: Recipe
    samples: int = Field(ge=1)
    seeds: tuple[int, ...] = (0, 1, 2)
    regimes: tuple[Regime, ...] = ("equal", "proportional")
    warmup: float = Field(default=0.1, ge=0, le=1)
    side_by_side: int = Field(default=1, ge=1)
    keep_checkpoints: bool = True


@dataclass(frozen=True, config=_STRICT)
class Comparison:
    """One comparison of policies.

    folder: folder for all results. Either `labelled` images, which become a noisy pool and a clean set, or a `pool` as
    in a winnow job, with `clean` shards or `embeddings`. filter: recipe of a filter network on the clean set; its name
    in the policies is `filter`. embeddings: encoders as in a winnow job, in addition or instead.
    evaluation: labelled images that no model was trained on.
    """

    folder: storage.File
    evaluation: LabelledSet
    train: Trainings
    policies: tuple[Policy, ...]
    labelled: LabelledSet | None = None
    noise: Noise = field(default_factory=Noise)
    pool: Annotated[dict[str, Any], storage.OptionsOf({"shards": storage.Files})] | None = None
    clean: storage.File | None = None
    filter: Recipe | None = None
    embeddings: dict[str, Annotated[dict[str, Any], storage.OptionsOf(OpenClip | Timm)]] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    samples_per_shard: int = Field(default=500, ge=1)


@plain_dataclass(frozen=True)
class Outcome:
    """One policy at one fraction of the pool. fraction: None if the policy alone decides how much stays."""

    name: str
    fraction: float | None
    policy: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        return self.name if self.fraction is None else f"{self.name} {self.fraction:g}"

    @property
    def slug(self) -> str:
        """A name of the outcome that is valid for a job and a folder."""
        return re.sub(r"[^\w.]+", "-", str(self)).strip("-")


def load_comparison(path: str, changes: Sequence[str] = ()) -> Comparison:
    """Read a comparison from a YAML file and apply `path.to.key=value` changes. Raises JobError if it is invalid."""
    try:
        values = storage.placed(Comparison, read(path, changes))
        found = TypeAdapter(Comparison).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the comparison"
        raise JobError(f"{path}: {place}: {problem['msg']}, got {problem['input']!r}") from error
    _check(found)
    return found


def outcomes(comparison: Comparison) -> list[Outcome]:
    """Every policy at each of its fractions, in the order of the file."""
    found = []
    for policy in comparison.policies:
        for fraction in policy.fractions or (None,):
            cuts = copy.deepcopy(policy.policy)
            if fraction is not None:
                [kind] = cuts[-1]
                cuts[-1][kind] = {**(cuts[-1][kind] or {}), "fraction": fraction, "of": "pool"}
            found.append(Outcome(policy.name, fraction, cuts))
    return found


def outcome_job(comparison: Comparison, outcome: Outcome, pool: Mapping[str, Any], encoders: Mapping[str, Any]) -> Job:
    """The winnow job of one outcome. All outcomes share one store. Raises JobError for an invalid job."""
    values = {
        "name": outcome.slug,
        "store": f"{comparison.folder}/store",
        "pool": dict(pool),
        "embeddings": dict(encoders),
        "encoding": comparison.encoding,
        "policy": list(outcome.policy),
        "shards": {"samples_per_shard": comparison.samples_per_shard},
    }
    try:
        return parse(values)
    except JobError as error:
        raise JobError(f"policy {str(outcome)!r}: {error}") from error


def _check(found: Comparison) -> None:
    if (found.labelled is None) == (found.pool is None):
        raise JobError(
            "a comparison must have either `labelled` (images from which a pool is made) or `pool`; give one of them"
        )
    if found.pool is not None and (found.clean is None) != (found.filter is None):
        raise JobError("filter must come with clean, the pairs that it is trained on; give both or neither")
    if found.labelled is not None and (found.clean is not None or found.filter is None):
        raise JobError(
            "`labelled` must come with filter and without clean, because the clean set is made from the images"
        )
    if FILTER in found.embeddings and found.filter is not None:
        raise JobError(
            f"an encoder must not be called {FILTER}, the name of the network that is trained here; rename it"
        )
    if FILTER not in found.embeddings and found.filter is None:
        raise JobError(
            "a comparison must have filter (how to train a network), or embeddings with an encoder called filter"
        )
    if "://" in found.folder:
        raise JobError(f"folder must be local, because the trainer reads and writes there, got {found.folder}")
    for policy in found.policies:
        last = policy.policy[-1] if policy.policy else {}
        if policy.fractions and (len(last) != 1 or not isinstance(next(iter(last.values())), dict | None)):
            raise JobError(f"fractions must have a last cut that takes them, but {policy.name!r} ends with {last}")
    names = [outcome.slug for outcome in outcomes(found)]
    if len(set(names)) < len(names):
        raise JobError(f"policies must have different names, got {sorted(names)}")
    if sum(not outcome.policy for outcome in outcomes(found)) != 1:
        raise JobError("exactly one policy must have no cut, because the others are compared with the whole pool")
    if not found.train.seeds or not found.train.regimes:
        raise JobError(f"train must have at least one seed and one regime, got {found.train}")
