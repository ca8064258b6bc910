"""`winnow sweep`: runs many policies over one store and compares what they keep.

Scores are made once. Stages that several policies share have one fingerprint, so they run once. A later `winnow run`
of the chosen policy uses its cuts again.
"""

import copy
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from winnow.jobs.job_file.changes import put
from winnow.jobs.job_file.job import Job, parse
from winnow.jobs.job_file.yaml_text import dumps, loads
from winnow.jobs.run import run_of, stages_of, step, uses
from winnow.pipeline.errors import AccountingError, JobError, WinnowError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.stage import Run, ShardItem, StepResult, artifact_of
from winnow.pipeline.store.in_use import running
from winnow.stages.policy import Path
from winnow.stages.pools.pool import PoolStage
from winnow.stages.survivors import Survivors

MOST_POLICIES = 200
"""Most policies of one sweep; each shard's overlap is a table with this many rows and columns."""


@dataclass(frozen=True)
class Variation:
    """One place of the policy, such as `policy.3.density.fraction`, and the values to try there."""

    path: str
    values: tuple[object, ...]

    @classmethod
    def parse(cls, text: str) -> "Variation":
        """`path=1,2,3` or `path=[1, 2, 3]`, values in YAML; JobError for anything else."""
        path, separator, listed = text.partition("=")
        if not separator:
            raise JobError(f"a variation must be path=value,value, got {text!r}")
        if path.partition(".")[0] != "policy":
            raise JobError(
                f"--vary must name a place under policy, because all policies share one pool and its scores, got {path}"
                "; use --set for that, and one sweep for each value"
            )
        values = loads(f"[{listed}]", f"--vary {text}")
        if len(values) == 1 and isinstance(values[0], list):
            [values] = values
        if len(values) < 2:
            raise JobError(f"--vary {path} must have two values or more, got {listed!r}; for a single one use --set")
        return cls(path, tuple(values))


@dataclass(frozen=True)
class Variant:
    """One policy of a sweep. number: from 1. values: the value at each path that varies. job: the whole job."""

    number: int
    values: Mapping[str, object]
    job: Job

    def __str__(self) -> str:
        return " ".join(f"{path}={as_option(value)}" for path, value in self.values.items())


def as_option(value: object) -> str:
    """A value as written after `--set`."""
    text = dumps(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def policies(values: Mapping[str, Any], variations: Sequence[Variation]) -> list[Variant]:
    """Every combination, the last path varying fastest; `values` are the plain values of a job.

    Raises JobError for two variations of one place, more than MOST_POLICIES policies, and a policy that is not valid.
    """
    paths = [variation.path for variation in variations]
    for path, inner in itertools.permutations(paths, 2):
        if f"{inner}.".startswith(f"{path}."):
            raise JobError(f"a place may vary only once, but --vary {path} and --vary {inner} both set it")
    count = math.prod(len(variation.values) for variation in variations)
    if not variations or count > MOST_POLICIES:
        raise JobError(
            f"a sweep must have 2 to {MOST_POLICIES} policies, got {count:,}; make several sweeps: shared stages run "
            "only once"
        )
    found = []
    for number, chosen in enumerate(itertools.product(*[variation.values for variation in variations]), 1):
        changed = copy.deepcopy(dict(values))
        for path, value in zip(paths, chosen, strict=True):
            put(changed, path, copy.deepcopy(value), "--vary")
        found.append(Variant(number, dict(zip(paths, chosen, strict=True)), parse(changed)))
    return found


@dataclass(frozen=True)
class VariantResult:
    """The result of one policy.

    dropped: by cut. thresholds: value of the last kept sample, for the cuts that have one. steps: its stages by label.
    seconds: of this run, by label, without the stages that an earlier policy made.
    """

    policy: Variant
    kept: int
    dropped: Mapping[str, int]
    thresholds: Mapping[str, int | float | None]
    steps: Mapping[str, StepResult]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Sweep:
    """The result of all policies.

    pool: all samples, including rejects. rejected: by kind, in the first policy; one that names other encoders may
    reject others. both: int64 (p, p), samples that each two policies keep. seconds: of the comparison.
    """

    pool: int
    rejected: Mapping[str, int]
    outcomes: tuple[VariantResult, ...]
    both: np.ndarray
    seconds: float

    @property
    def jaccard(self) -> np.ndarray:
        """|A ∩ B| / |A ∪ B| of each two policies: float64 (p, p); 1 where both keep nothing."""
        size = np.diag(self.both)
        either = size[:, None] + size - self.both
        return np.where(either == 0, 1.0, self.both / np.maximum(either, 1))

    def record(self) -> Mapping[str, object]:
        """All of it as plain JSON."""
        job = self.outcomes[0].policy.job
        return {
            "name": job.name,
            "store": job.store,
            "pool": self.pool,
            "rejected": dict(self.rejected),
            "policies": [_record(outcome) for outcome in self.outcomes],
            "both": self.both.tolist(),
            "jaccard": self.jaccard.tolist(),
            "seconds": round(self.seconds, 3),
        }


def _record(outcome: VariantResult) -> Mapping[str, object]:
    return {
        "values": dict(outcome.policy.values),
        "kept": outcome.kept,
        "dropped": dict(outcome.dropped),
        "thresholds": dict(outcome.thresholds),
        "artifacts": {label: result.artifact.name for label, result in outcome.steps.items()},
        "seconds_now": {label: round(seconds, 3) for label, seconds in outcome.seconds.items()},
        "policy": outcome.policy.job.resolved["policy"],
    }


def run_sweep(found: Sequence[Variant], executor: Executor, say: Callable[[str], None]) -> Sweep:
    """Run the stages of all policies, then count the samples that each two of them keep.

    say: is called with one line per policy and per stage. Raises a WinnowError that names the policy; finished work
    stays, and the same call resumes.
    """
    job = found[0].job
    identities = job.pool.identities()
    listing = PoolStage(identities)
    paths = [stages_of(policy.job, listing) for policy in found]
    _check_differ(found, paths)
    shared = run_of(job, executor, identities)
    made: dict[str, StepResult] = {}
    with running(job.store, job.name, uses(job, *paths)):
        pairs = zip(found, paths, strict=True)
        outcomes = [_outcome(policy, len(found), path, shared, made, say) for policy, path in pairs]
    samples, distinct = (outcomes[0].steps[name] for name in ("samples", "distinct"))
    started = time.monotonic()
    ends = zip(paths, outcomes, strict=True)
    last = [each.steps[path.cuts[-1][0] if path.cuts else "distinct"].artifact for path, each in ends]
    both = overlaps(shared, [Survivors(samples.artifact, cut, job.pool.reader) for cut in last])
    kept = [outcome.kept for outcome in outcomes]
    if np.diag(both).tolist() != kept:
        raise AccountingError(
            f"the policies must keep {kept} samples, but {np.diag(both)} were found while comparing them; run again"
        )
    kinds = [Counter(cast(Mapping[str, int], step.report["rejects"])) for step in (samples, distinct)]
    return Sweep(_pool(samples), dict(kinds[0] + kinds[1]), tuple(outcomes), both, time.monotonic() - started)


def _outcome(
    policy: Variant, count: int, path: Path, shared: Run, made: dict[str, StepResult], say: Callable[[str], None]
) -> VariantResult:
    """One of `count` policies, with its number in every message."""
    say(f"policy {policy.number} of {count}: {policy}")
    try:
        return _decide(policy, path, shared, made, say)
    except WinnowError as error:
        named = WinnowError(f"policy {policy.number} of {count} ({policy}): {error}")
        named.exit_code = error.exit_code
        raise named from error


def _check_differ(found: Sequence[Variant], paths: Sequence[Path]) -> None:
    first: dict[str, Variant] = {}
    for policy, path in zip(found, paths, strict=True):
        same = first.setdefault(path.manifest.name, policy)
        if same is not policy:
            raise JobError(f"the policies of a sweep must differ, but ({same}) and ({policy}) are the same")


def _decide(
    policy: Variant, path: Path, shared: Run, made: dict[str, StepResult], say: Callable[[str], None]
) -> VariantResult:
    """One policy's stages, those that are not in `made` (by artifact) yet."""
    steps: dict[str, StepResult] = {}
    seconds: dict[str, float] = {}
    for label, stage in path.deciding:
        name = artifact_of(stage, shared.store).name
        if name not in made:
            made[name] = step(label, stage, shared, say)
            seconds[label] = made[name].seconds
        steps[label] = made[name]
    reports = {name: steps[name].report for name, _ in path.cuts}
    dropped = {name: cast(int, report["dropped"]) for name, report in reports.items()}
    samples, distinct = steps["samples"], steps["distinct"]
    kept = cast(int, (steps[path.cuts[-1][0]] if path.cuts else distinct).report["kept"])
    rejected = sum(cast(int, step.report["rejected"]) for step in (samples, distinct))
    if _pool(samples) != kept + sum(dropped.values()) + rejected:
        raise AccountingError(
            f"pool = kept + dropped + rejected must hold, but {_pool(samples)} != {kept} + {sum(dropped.values())} + "
            f"{rejected}"
        )
    thresholds = {
        name: cast(int | float | None, report["threshold"]) for name, report in reports.items() if "threshold" in report
    }
    return VariantResult(policy, kept, dropped, thresholds, steps, seconds)


def _pool(samples: StepResult) -> int:
    return cast(int, samples.report["kept"]) + cast(int, samples.report["rejected"])


def overlaps(shared: Run, survivors: Sequence[Survivors]) -> np.ndarray:
    """How many samples each two of p policies keep: int64 (p, p), by one pass over the shards."""
    both = np.zeros((len(survivors), len(survivors)), np.int64)
    for part in shared.reduce(_Overlap(tuple(survivors)), sum_of, shared.items, "overlap"):
        both += part
    return both


def sum_of(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of arrays of one shape."""
    return sum(parts[1:], parts[0])


@dataclass(frozen=True)
class _Overlap:
    survivors: tuple[Survivors, ...]

    def __call__(self, item: ShardItem) -> np.ndarray:
        return intersections(np.stack([survivors.mask(item.index) for survivors in self.survivors]))


def intersections(kept: np.ndarray) -> np.ndarray:
    """kept · keptᵀ, the rows that each two of p policies keep: int64 (p, p).

    kept: bool (p, n). Bits are counted, so it is exact. Cost O(p² n / 8) bytes read, memory p n / 4 bytes.
    """
    bits = np.packbits(kept, axis=1)  # (p, n / 8)
    return np.stack([np.bitwise_count(bits & own).sum(axis=1, dtype=np.int64) for own in bits])
