"""Runs stages: each makes the artifact that its fingerprint names, unless that artifact exists already.

A stage is a frozen dataclass: its fields are its whole configuration and the artifacts that it reads. Fields that only
say how to run it (threads, devices) are marked `field(metadata={"fingerprint": False})`.
"""

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import AccountingError, FailedShards, StorageError
from winnow.pipeline.exchange.pieces import FORMAT
from winnow.pipeline.exchange.shuffle import Shuffle, folder_apart
from winnow.pipeline.exchange.work import Exchange
from winnow.pipeline.executors.contract import Executor, Item, Needs, Reduction, Result, Stateless, Task
from winnow.pipeline.executors.watching import Watch, Watcher
from winnow.pipeline.fingerprint import canonical, fingerprint
from winnow.pipeline.stage_config import check_made_of, plain_config
from winnow.pipeline.totals import Summary as Summary  # who writes a stage finds it here
from winnow.pipeline.totals import Told, Totals, summed


class Stage(Protocol):
    """One step from artifacts to an artifact."""

    @property
    def name(self) -> str:
        """First part of the artifact's folder name."""
        ...

    @property
    def version(self) -> int:
        """Raise it when the same configuration gives other files than before."""
        ...

    def make(self, run: "Run", out: Artifact) -> Summary:
        """Make every file of `out`. Returns the report for `_done.json` (counts, seconds, versions)."""
        ...


@dataclass(frozen=True)
class ShardItem:
    """An input shard as an item of work: its number in the pool and its URL."""

    index: int
    url: str


@dataclass(frozen=True)
class Limits:
    """How much bad input a run tolerates.

    max_reject_fraction: share of the pool's samples that may be rejected. max_failed_shards: number of shards that may
    fail for good; each counts as one reject. stop_early: whether a run ends as soon as nearly all samples of the shards
    of `spread` are rejected.
    """

    max_reject_fraction: float = 0.05
    max_failed_shards: int = 0
    stop_early: bool = True


NEARLY_WHOLE = 0.9
"""Share of rejected samples. If each of five shards has more, the job must be wrong."""

_PROBED = 5


def spread(count: int) -> list[int]:
    """Up to five evenly spread numbers in [0, count), including the first and the last."""
    if count <= _PROBED:
        return list(range(count))
    return [number * (count - 1) // (_PROBED - 1) for number in range(_PROBED)]


def nearly_whole(rejected: int, samples: int, limits: Limits) -> bool:
    """Whether so much is rejected that the job must be wrong: more than nine tenths, and more than the limit."""
    return rejected > max(NEARLY_WHOLE, limits.max_reject_fraction) * samples


@dataclass(frozen=True)
class Run:
    """Everything that the stages of a job share: shards, executor, resources, limits and watchers.

    shards: identity of each input shard, in the order of the pool. needs: resources of a worker that embeds. limits:
    of bad input. watchers: are told of every finished shard. scratch: URL for the files of exchanges, which all workers
    see; "" for a folder next to the artifact. alone: resources of a worker that works while no other does, such as that
    of k-means; with 0 cores it asks for one and uses all of its machine; None: the same, and a GPU if `needs` has any.
    """

    store: str
    executor: Executor
    shards: tuple[storage.Identity, ...]
    needs: Needs = field(default_factory=Needs)
    limits: Limits = field(default_factory=Limits)
    watchers: tuple[Watcher, ...] = ()
    scratch: str = ""
    exchanged: set[str] = field(
        default_factory=set, repr=False, compare=False
    )  # folders of exchanges, removed when their stage is done
    alone: Needs | None = None

    @property
    def _watch(self) -> Watch:
        return Watch(self.executor, self.watchers)

    def _bearing(self, needs: Needs | None) -> Needs:
        """The given needs, or one core per worker; `spare` is the number of failing shards that the job tolerates."""
        return dataclasses.replace(needs or self.plain, spare=self.limits.max_failed_shards)

    @property
    def plain(self) -> Needs:
        """The resources of a worker in a pass without a model: one core, and all else as in `needs`."""
        return dataclasses.replace(self.needs, cpus=1.0, gpus=0.0, prefetch=False)

    @cached_property
    def items(self) -> tuple[ShardItem, ...]:
        """Every input shard, in order."""
        return tuple(ShardItem(index, shard.url) for index, shard in enumerate(self.shards))

    def each(
        self, function: Callable[[Item], Result], items: Sequence[Item], label: str, needs: Needs | None = None
    ) -> Iterator[tuple[int, Result]]:
        """(index of item, function(item)) in any order. function: picklable. Checks that each item returns once."""
        return self.each_task(Stateless(function), items, label, needs)

    def each_task(
        self, task: Task[Item, Result], items: Sequence[Item], label: str, needs: Needs | None = None
    ) -> Iterator[tuple[int, Result]]:
        """As `each`, for a task, which keeps something between items."""
        yield from _checked(self._watch.map(task, items, label, self._bearing(needs)), len(items), label)

    def reduce(
        self,
        function: Callable[[Item], Result],
        merge: Callable[[Sequence[Result]], Result],
        items: Sequence[Item],
        label: str,
    ) -> Iterator[Result]:
        """The results of all items in any order, some already merged on the workers (see Reduction)."""
        for _, result in self.each_task(Reduction(Stateless(function), merge), items, label):
            if result is not None:
                yield result

    def exchange(
        self, work: Exchange[Any, Any], label: str, out: Artifact, told: Sequence[Told] = (), beside: Sequence[Any] = ()
    ) -> Totals:
        """Run an exchange over all shards, or resume it from the files of an earlier run. Returns the summed summaries.

        work: a dataclass for `canonical`; its summaries are plain JSON. beside: items after the shards, such as files.
        """
        items = (*self.items, *beside)
        whole = storage.join(self.scratch, out.name) if self.scratch else out.meta("exchange")
        self.exchanged.add(whole)
        made_of = {"format": FORMAT, "work": work, "parts": work.parts, "items": len(items)}
        shuffle = Shuffle(self.executor, work, items, label, self.plain, storage.join(whole, fingerprint(made_of)))
        return summed(_checked(shuffle.results(self._watch), len(items), label), told)

    def exchange_apart(self, work: Exchange[Item, Result], items: Sequence[Item], label: str) -> Iterator[Result]:
        """The results of an exchange over any items, in any order. Removes its files, because no run resumes it."""
        with folder_apart(self.executor, self.scratch, self.store) as folder:
            shuffle = Shuffle(self.executor, work, items, label, self.plain, folder, recorded=False)
            for _, result in _checked(shuffle.results(self._watch), len(items), label):
                yield result

    def fill(
        self, function: Callable[[ShardItem], Summary], out: Artifact, label: str, told: Sequence[Told] = ()
    ) -> Totals:
        """Apply `function` to the shards whose file is not in `out` yet. Returns the summed summaries of all shards.

        The function commits `out.shard(item.index)` with its summary; see fill_task.
        """
        return self.fill_task(Stateless(function), out, label, told=told)

    def fill_task(
        self,
        task: Task[ShardItem, Summary],
        out: Artifact,
        label: str,
        needs: Needs | None = None,
        told: Sequence[Told] = (),
    ) -> Totals:
        """As `fill`, for a task, which keeps something between shards.

        The task commits `out.shard(item.index)` with its summary, so a shard that an earlier run finished
        costs one read of its footer. A damaged file is made again.
        told: see Told; the shards of `spread` are among the first.
        """
        with closing(self._filling(task, out, label, needs, bool(told))) as results:
            return summed(_checked(results, len(self.items), label), told)

    def _filling(
        self, task: Task[ShardItem, Summary], out: Artifact, label: str, needs: Needs | None, judged: bool
    ) -> Generator[tuple[int, Summary], None, None]:
        """(index, summary) of the shards that are done, then of the others. judged: do those of `spread` first."""
        wanted, present, whole = self.items, out.present(), set[int]()
        ready = [item for item in wanted if item.index in present]
        # without watchers, because an earlier run spent the seconds of these shards
        footers = self.executor.map(Stateless(_FooterIfWhole(out)), ready, f"{label} (done before)", self.plain)
        for position, found in footers:
            if found is not None:
                whole.add(ready[position].index)
                yield ready[position].index, found
        # the caller judges the job by a few shards, so these are done first
        first = set(spread(len(wanted))) if judged else set()
        missing = sorted((item for item in wanted if item.index not in whole), key=lambda item: item.index not in first)
        made = self._watch.map(task, missing, label, self._bearing(needs), len(whole))
        with closing(made):  # if the caller stops early, so do the workers
            for position, summary in made:
                yield missing[position].index, summary

    def summaries(self, made: Artifact) -> Iterator[tuple[int, Summary]]:
        """(index, summary) of a finished artifact's shards, in any order; footers only."""
        footers = self.executor.map(Stateless(_Footer(made)), self.items, made.name, self.plain)
        yield from _checked(footers, len(self.items), made.name)


def _checked(results: Iterator[tuple[int, Result]], count: int, label: str) -> Iterator[tuple[int, Result]]:
    """The same results. Raises AccountingError at the end unless every item was returned exactly once."""
    seen: list[int] = []
    for index, result in results:
        seen.append(index)
        yield index, result
    if sorted(seen) != list(range(count)):
        raise AccountingError(f"{label}: {count} items must return exactly once each, got {len(seen)}")


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


def artifact_of(stage: Stage, store: str) -> Artifact:
    """The artifact that a stage makes in a store. Reads and writes nothing."""
    # a stage with a large configuration, such as the list of all shards, caches its fingerprint as `mark`
    return Artifact(store, stage.name, getattr(stage, "mark", None) or mark_of(stage), hasattr(stage, "recipe"))


def mark_of(stage: Stage) -> str:
    """The fingerprint of a stage: its name, version and whole configuration."""
    return fingerprint({"stage": stage.name, "version": stage.version, "config": canonical(stage)})


@dataclass(frozen=True)
class StepResult:
    """The result of one stage: its artifact, its report, the seconds of this run, and whether it existed already."""

    stage: str
    artifact: Artifact
    report: Mapping[str, object]
    seconds: float
    reused: bool


def execute(stage: Stage, run: Run) -> StepResult:
    """Run a stage, unless it is done and its files exist. Writes `_done.json` last.

    Raises DataError if the artifact of that name was made from another configuration.
    """
    out = artifact_of(stage, run.store)
    started = time.monotonic()
    done = out.done()
    if done is not None and out.holds(done):
        check_made_of(stage, out, done)
        return StepResult(stage.name, out, done, time.monotonic() - started, reused=True)
    run.executor.start()  # not before it is known that there is work
    started = time.monotonic()  # starting a cluster is not part of the stage
    for folder in (out.folder, out.meta_folder):
        storage.remove_abandoned(folder)
    try:
        report = stage.make(run, out)
    except (FailedShards, StorageError):
        # another run of the same job has finished the stage, and removed the files that this one was about to read
        if (done := out.done()) is None or not out.holds(done):
            raise
        return StepResult(stage.name, out, done, time.monotonic() - started, reused=True)
    seconds = round(time.monotonic() - started, 3)
    report = {**report, "seconds": seconds}
    made_of = {"stage": stage.name, "version": stage.version, "config": plain_config(stage)}
    out.finish({**report, **made_of, "files": out.weight(report)})
    while run.exchanged:
        storage.remove_folder(run.exchanged.pop())
    return StepResult(stage.name, out, report, seconds, reused=False)
