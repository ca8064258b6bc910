"""Explains why one sample of a finished job was kept or dropped, as plain values."""

from dataclasses import asdict, dataclass

from winnow.jobs.run import run_of
from winnow.jobs.verify.finished import Finished, read_finished
from winnow.jobs.why.cuts import Said, deciding
from winnow.jobs.why.place import of_key, of_uid
from winnow.jobs.why.ranks import group_ranks, mine_of
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import Run
from winnow.stages.cuts.contract.explained import Asked, FoundSample
from winnow.stages.cuts.contract.finished import RowSample


@dataclass(frozen=True)
class Twin:
    """The better sample that this one duplicates. by: the later cut that dropped that sample, None if it stayed."""

    place: FoundSample
    by: str | None


@dataclass(frozen=True)
class Why:
    """The answer. said: the judgement of each cut that saw the sample, in order; if one dropped it, it is the last."""

    job: Finished
    place: FoundSample
    said: tuple[Said, ...]
    twin: Twin | None = None

    @property
    def verdict(self) -> str:
        """`kept`, `dropped` or `rejected`."""
        if self.place.rejected is not None:
            return "rejected"
        return "kept" if all(cut.kept for cut in self.said if cut.part_of is None) else "dropped"

    @property
    def reason(self) -> str | None:
        """The manifest's reason: None if kept, the cut's name if dropped, reject:<kind> if rejected."""
        if self.place.rejected is not None:
            return f"reject:{self.place.rejected.kind}"
        return next((cut.cut for cut in self.said if not cut.kept and cut.part_of is None), None)

    def record(self) -> dict[str, object]:
        """Everything as plain JSON values."""
        place = {**asdict(self.place), "shard": self.place.item.index, "url": self.place.item.url}
        place.pop("item")
        twin = self.twin
        return {
            "job": self.job.job.name,
            **place,
            "verdict": self.verdict,
            "reason": self.reason,
            "cuts": [asdict(cut) for cut in self.said],
            "duplicate_of": None
            if twin is None
            else {
                "uid": twin.place.uid,
                "shard": twin.place.item.index,
                "url": twin.place.item.url,
                "key": twin.place.key,
                "caption": twin.place.caption,
                "dropped_by": twin.by,
            },
        }


def explain(
    store: str,
    name: str,
    uid: str | None = None,
    shard: str | None = None,
    key: str | None = None,
    *,
    ranks: bool = True,
    workers: int = 4,
) -> Why:
    """The answer for one sample, named by its uid or by shard and key.

    ranks: whether to compute the sample's ranks, by a pass over all shards, and to find the sample that it duplicates.
    workers: threads that read. Raises JobError for a job, shard or sample that does not exist, and for a malformed uid.
    """
    if (uid is None) == (shard is None) or (shard is None) != (key is None):
        raise JobError("a sample must be named by its uid, or by --shard and --key together; give one of them")
    job, identities = read_finished(store, name, RowSample(None))
    run = run_of(job.job, LocalExecutor(workers), identities)
    items = run.items
    place = of_key(job, items, str(shard), str(key)) if uid is None else of_uid(job, items, uid, workers)
    return _answer(job, run, place, ranks, workers)


def _answer(job: Finished, run: Run, place: FoundSample, ranks: bool, workers: int) -> Why:
    numbers, verdicts = deciding(job, place)
    wanted = [number for number in numbers if ranks and job.judged[number].options.ranks]
    mine = mine_of(job, place, wanted)
    stands = list(zip(mine, group_ranks(job, run, mine), strict=True))
    found: list[Said] = []
    repeats: str | None = None
    for number, (values, kept) in zip(numbers, verdicts, strict=True):
        mine_here = {me.ranking: (me, standing) for me, standing in stands if me.cut == number}
        asked = Asked(job.judged[number], place, values, kept, mine_here)
        explained = asked.cut.options.explain(asked)
        found.append(Said.of(asked, explained))
        repeats = repeats or explained.repeats
    twin = None if repeats is None or not ranks else _twin(job, run, repeats, workers)
    return Why(job, place, tuple(found), twin)


def _twin(job: Finished, run: Run, named: str, workers: int) -> Twin:
    try:
        place = of_uid(job, run.items, named, workers)
    except JobError as error:  # the uid comes from the cut's file, not from the user, so it is damaged data
        raise DataError(f"a duplicate must name a sample of its job, but: {error}; run winnow verify") from error
    numbers, verdicts = deciding(job, place)
    by = None if not numbers or verdicts[-1][1] else job.judged[numbers[-1]].name  # parts come before their cut
    return Twin(place, by)
