"""Runs stages: each makes the artifact that its fingerprint names, unless it is there already.

A stage is a frozen dataclass: its fields are its whole configuration and the artifacts that it reads. What
only says how to run it (threads, devices) is marked `field(metadata={"fingerprint": False})`.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol, cast

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import AccountingError, DataError
from winnow.pipeline.executors.contract import Exchange, Executor, Item, Needs, Result, Stateless, Task
from winnow.pipeline.executors.watching import Watch, Watcher
from winnow.pipeline.fingerprint import canonical, fingerprint

Summary = Mapping[str, object]


class Stage(Protocol):
    """One step from artifacts to an artifact."""

    @property
    def name(self) -> str:
        """First part of the artifact's folder name."""
        ...

    @property
    def version(self) -> int:
        """Goes up when the same configuration would give other files."""
        ...

    def make(self, run: "Run", out: Artifact) -> Summary:
        """Make every file of `out`; returns what `_done.json` shall say (counts, seconds, versions)."""
        ...


@dataclass(frozen=True)
class ShardItem:
    """One input shard as an item of work: its number in the pool and its url."""

    index: int
    url: str


@dataclass(frozen=True)
class Limits:
    """What a run bears of bad input.

    max_reject_fraction: how many of all samples of the pool may be rejected. max_failed_shards: how many shards may
    fail for good; each is then accounted for as one reject. stop_early: whether a run ends as soon as the shards of
    `spread` are rejected nearly whole.
    """

    max_reject_fraction: float = 0.05
    max_failed_shards: int = 0
    stop_early: bool = True


NEARLY_WHOLE = 0.9
"""Share of a shard's samples: where more are rejected, of each of five shards, what is wrong is the job."""

_PROBED = 5


def spread(count: int) -> list[int]:
    """Up to five numbers in [0, count), evenly spread, the first and the last among them: they stand for all."""
    if count <= _PROBED:
        return list(range(count))
    return [number * (count - 1) // (_PROBED - 1) for number in range(_PROBED)]


def nearly_whole(rejected: int, samples: int, limits: Limits) -> bool:
    """True where the job must be wrong: more than nine tenths are rejected, and more than the limit bears."""
    return rejected > max(NEARLY_WHOLE, limits.max_reject_fraction) * samples


@dataclass(frozen=True)
class Run:
    """What every stage of a job shares.

    shards: identity of each input shard, in the order of the pool. needs: what the job gives a worker that embeds.
    limits: of bad input. watchers: who is told of every shard that is done.
    """

    store: str
    executor: Executor
    shards: tuple[storage.Identity, ...]
    needs: Needs = field(default_factory=Needs)
    limits: Limits = field(default_factory=Limits)
    watchers: tuple[Watcher, ...] = ()

    @property
    def _watch(self) -> Watch:
        return Watch(self.executor, self.watchers)

    def _bearing(self, needs: Needs | None) -> Needs:
        """Those, or a core a worker and the job's retries; with as many failing shards as the job can do without."""
        return dataclasses.replace(needs or self.plain, spare=self.limits.max_failed_shards)

    @property
    def plain(self) -> Needs:
        """What a worker of a pass without a model takes: a core, and the memory and the retries that the job gives."""
        return Needs(memory_gb=self.needs.memory_gb, retries=self.needs.retries)

    @property
    def items(self) -> list[ShardItem]:
        """Every input shard, in order."""
        return [ShardItem(index, shard.url) for index, shard in enumerate(self.shards)]

    def each(
        self, function: Callable[[Item], Result], items: Sequence[Item], label: str, needs: Needs | None = None
    ) -> Iterator[tuple[int, Result]]:
        """(index of item, function(item)) in any order; picklable. Shows progress, checks that each came back once."""
        return self.each_task(Stateless(function), items, label, needs)

    def each_task(
        self, task: Task[Item, Result], items: Sequence[Item], label: str, needs: Needs | None = None
    ) -> Iterator[tuple[int, Result]]:
        """As `each`, for work that keeps something between items."""
        yield from _checked(self._watch.map(task, items, label, self._bearing(needs)), len(items), label)

    def exchange(self, work: Exchange[ShardItem, Summary], label: str) -> list[Summary]:
        """Executor.exchange over every shard, with the same progress and check; the summaries, in order of shard."""
        found = dict(_checked(self._watch.exchange(work, self.items, label), len(self.items), label))
        return [found[index] for index in range(len(found))]

    def fill(self, function: Callable[[ShardItem], Summary], out: Artifact, label: str) -> list[Summary]:
        """Apply `function` to the shards whose file is not in `out` yet; the summaries of all, in order of shard.

        The function commits `out.shard(item.index)` with its summary; see fill_task.
        """
        return self.fill_task(Stateless(function), out, label)

    def fill_task(
        self,
        task: Task[ShardItem, Summary],
        out: Artifact,
        label: str,
        needs: Needs | None = None,
        watch: Callable[[int, Summary], None] | None = None,
    ) -> list[Summary]:
        """As `fill`, for work that keeps something between shards.

        The task commits `out.shard(item.index)` with its summary, so a shard that an earlier run finished
        costs one read of its footer. A file that is torn, as another program may leave one, is made again.
        watch: is told each shard's number and summary as it comes, those of `spread` among the first; what it raises
        ends the pass.
        """
        wanted, present = self.items, out.present()
        ready = [item for item in wanted if item.index in present]
        # not watched: nobody is to be told that a shard took seconds which took an earlier run's
        footers = self.executor.map(Stateless(_FooterIfWhole(out)), ready, f"{label} (done before)", self.plain)
        summaries = [(ready[position].index, found) for position, found in footers if found is not None]
        whole = {index for index, _ in summaries}
        # who watches judges the job by a few shards, so those are done first
        first = set(spread(len(wanted))) if watch is not None else set()
        missing = sorted((item for item in wanted if item.index not in whole), key=lambda item: item.index not in first)
        made = self._watch.map(task, missing, label, self._bearing(needs), len(summaries))
        told = watch or _nothing
        for index, summary in summaries:
            told(index, summary)
        with closing(made):  # the workers of a pass that is ended stop
            for position, summary in made:
                summaries.append((missing[position].index, summary))
                told(missing[position].index, summary)
        check_all(label, [index for index, _ in summaries], len(wanted))
        found_at = dict(summaries)
        return [found_at[item.index] for item in wanted]

    def summaries(self, made: Artifact) -> list[Summary]:
        """The summaries of a finished artifact's shards, in order; footers only."""
        found = dict(self.executor.map(Stateless(_Footer(made)), self.items, made.name, self.plain))
        return [found[index] for index in range(len(self.items))]


def _nothing(index: int, summary: Summary) -> None:
    """Nobody watches."""


def _checked(results: Iterator[tuple[int, Result]], count: int, label: str) -> Iterator[tuple[int, Result]]:
    """The same results, and the check that every item came back exactly once."""
    seen: list[int] = []
    for index, result in results:
        seen.append(index)
        yield index, result
    check_all(label, seen, count)


@dataclass(frozen=True)
class _Footer:
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        return self.out.summary(item.index)


@dataclass(frozen=True)
class _FooterIfWhole:
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary | None:
        return self.out.summary_if_whole(item.index)


def check_all(label: str, done: Sequence[int], total: int) -> None:
    """Raises AccountingError unless each index in [0, total) came back once."""
    if sorted(done) != list(range(total)):
        raise AccountingError(f"{label}: {total} items must come back once each, got {len(done)}")


def samples_of(report: Summary) -> int | None:
    """How many samples a stage saw, as its report says under one of several names; None where it does not count them.

    A stage that rejects samples reports what it kept and rejected.
    """
    for name in ("pool", "in", "samples", "rows"):
        if isinstance(found := report.get(name), int):
            return found
    kept, rejected = report.get("kept"), report.get("rejected")
    return kept + rejected if isinstance(kept, int) and isinstance(rejected, int) else None


def total(summaries: Sequence[Summary], field: str) -> int:
    """Sum of a count over per-shard summaries."""
    return sum(cast(int, summary[field]) for summary in summaries)


def artifact_of(stage: Stage, store: str) -> Artifact:
    """The artifact that a stage makes in a store, by name; nothing is read or written."""
    made_of = {"stage": stage.name, "version": stage.version, "config": canonical(stage)}
    return Artifact(store, stage.name, fingerprint(made_of))


@dataclass(frozen=True)
class StepResult:
    """What became of one stage: its artifact, its report, seconds now, and whether it was there already."""

    stage: str
    artifact: Artifact
    report: Mapping[str, object]
    seconds: float
    reused: bool


def execute(stage: Stage, run: Run) -> StepResult:
    """Run a stage unless it is done and its files are there; `_done.json` is written last.

    Raises DataError where what is there under the stage's name was made from another configuration.
    """
    out = artifact_of(stage, run.store)
    started = time.monotonic()
    done = out.done()
    if done is not None and out.holds(done):
        _check_made_of(stage, out, done)
        return StepResult(stage.name, out, done, time.monotonic() - started, reused=True)
    run.executor.start()  # only here, where there is something to do
    started = time.monotonic()  # a cluster that starts is no part of the stage
    for folder in (out.folder, out.meta_folder):
        storage.remove_abandoned(folder)
    report = stage.make(run, out)
    seconds = round(time.monotonic() - started, 3)
    report = {**report, "seconds": seconds}
    made_of = {"stage": stage.name, "version": stage.version, "config": _plain(stage)}
    out.finish({**report, **made_of, "files": out.weight(report)})
    return StepResult(stage.name, out, report, seconds, reused=False)


def _check_made_of(stage: Stage, out: Artifact, done: Mapping[str, object]) -> None:
    """Raises DataError unless `_done.json` tells the configuration of this stage: a name alone is never believed."""
    there, asked = cast(Mapping[str, object], done["config"]), _plain(stage)
    for option in _fields_of(stage):
        name = option.name
        if option.metadata.get("fingerprint", True) and there.get(name) != asked[name]:
            raise DataError(
                f"{out.folder} must be made of what this job asks for, but its {name} is {there.get(name)!r:.200} and "
                f"the job's is {asked[name]!r:.200}: two configurations have one name; use another store for one"
            )


def _plain(stage: Stage) -> dict[str, object]:
    """A stage's configuration with artifacts by name, for people who read `_done.json`."""
    values = {option.name: getattr(stage, option.name) for option in _fields_of(stage)}
    return {name: v.name if isinstance(v, Artifact) else canonical(v) for name, v in values.items()}


def _fields_of(stage: Stage) -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(cast(object, stage))  # type: ignore[arg-type]  # every stage is a dataclass
