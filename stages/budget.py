"""Ends a run that rejects more samples, or loses more shards, than the job's limits allow."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Protocol, cast, runtime_checkable

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import AccountingError, RejectsError
from winnow.pipeline.stage import Run, Summary
from winnow.stages.pools.sample import NOT_DOWNLOADED
from winnow.stages.preview.early import example
from winnow.stages.rejects import FAILED, NO_VECTORS, UNREADABLE, read_rejects


@runtime_checkable
class Rejecting(Protocol):
    """A stage that rejects samples of the pool."""

    def rejecting(self, made: Artifact) -> tuple[Artifact, ...]:
        """The artifacts whose rejects count once its own, `made`, is finished; first the one with all samples."""
        ...


def check_rejects(run: Run, samples: Artifact, more: Artifact | None = None) -> None:
    """Raise RejectsError, with a table of the kinds, unless the rejects of the pool are within the run's limits.

    more: also count the rejects of this artifact; it must be finished. Changing the limits keeps all artifacts.
    Cost: nothing within the limits; otherwise one footer per shard, and one file of rejects per kind.
    """
    limits, kinds = run.limits, Counter[str]()
    rejecting = [samples] if more is None else [samples, more]
    for artifact in rejecting:
        kinds.update(_kinds(artifact))
    dead = kinds.pop(NOT_DOWNLOADED, 0)  # these are not samples: every list of links has some
    rejected = kinds.total()
    unreadable = kinds[UNREADABLE] + sum(cast(int, _report(each).get(FAILED, 0)) for each in rejecting)
    pool = cast(int, _report(samples)["kept"]) + cast(int, _report(samples)["rejected"]) - dead
    if unreadable > limits.max_failed_shards:
        lacking = next(each for each in rejecting if {UNREADABLE, NO_VECTORS} & set(_kinds(each)))
        raise RejectsError(
            f"{lacking.name}: {unreadable} shards could not be read, but limits.max_failed_shards is "
            f"{limits.max_failed_shards}:\n{_table(run, rejecting, kinds, pool)}\n"
            f"Raise the limit to go on without them. To read them again, repair them, or delete {lacking.folder} "
            f"and everything that was made from it."
        )
    if rejected > Fraction(str(limits.max_reject_fraction)) * pool:
        raise RejectsError(
            f"{rejecting[-1].name}: {rejected:,} of {pool:,} samples are rejected, {rejected / pool:.2%}, but "
            f"limits.max_reject_fraction is {limits.max_reject_fraction}:\n{_table(run, rejecting, kinds, pool)}\n"
            f"Fix what they have in common (pool.image and pool.caption name what is read), or raise the limit. All "
            f"files are kept, and the same command resumes."
        )


def _kinds(artifact: Artifact) -> Mapping[str, int]:
    return cast(Mapping[str, int], _report(artifact)["rejects"])


def _report(artifact: Artifact) -> Summary:
    report = artifact.done()
    if report is None:
        raise AccountingError(f"{artifact.name} must be finished before its rejects are counted")
    return report


def _table(run: Run, rejecting: Sequence[Artifact], kinds: Mapping[str, int], pool: int) -> str:
    """One line per kind, the most frequent first: count, share of the pool, and the first example."""
    kinds = {kind: count for kind, count in kinds.items() if count}
    examples: dict[str, str] = {}
    for artifact in rejecting:
        examples |= _examples(run, artifact, set(kinds) - set(examples))
    wide = max(map(len, kinds))
    lines = [
        f"  {kind:{wide}}  {count:>10,}  {count / pool:>7.2%}  such as {examples[kind]}"
        for kind, count in sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return "\n".join(lines)


def _examples(run: Run, rejecting: Artifact, wanted: set[str]) -> dict[str, str]:
    """Shard, key and message of the first reject of each kind."""
    first: dict[str, int] = {}  # the first shard of the pool that has such a reject
    for index, summary in run.summaries(rejecting):
        for kind in wanted & set(cast(Mapping[str, int], summary["rejects"])):
            first[kind] = min(index, first.get(kind, index))
    found: dict[str, str] = {}
    for index in sorted(set(first.values())):
        for row in read_rejects(rejecting, index).to_pylist():
            if first.get(row["kind"]) == index and row["kind"] not in found:
                found[row["kind"]] = example(run.items[index].url, row["key"], row["position"], row["message"])
    return found
