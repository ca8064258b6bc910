"""The cut `epochs` (RS2): draws another random sample for each epoch of training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import JobError
from winnow.pipeline.keep_top import Rows, Thresholds, kept
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary
from winnow.pipeline.uid import bytes_of
from winnow.stages.cuts.contract.drawn import EPOCHS, drawn_report, drawn_rows
from winnow.stages.cuts.contract.explained import Asked, Explained
from winnow.stages.cuts.contract.findings import Findings, unless_equal
from winnow.stages.cuts.contract.finished import Contents, CutRows, FinishedCut, NamedRows
from winnow.stages.cuts.contract.orders import Ranking, Standings, in_order
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Cut, Of
from winnow.stages.cuts.keeping import funnel, one_group, select_each, write_kept
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.results.subset import Subset, write_subsets
from winnow.stages.survivors import Survivors


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Epochs(Cut):
    """Repeated random sampling, RS2 (Okanovic et al. 2023, arXiv 2305.18424): every epoch trains on another sample.

    epochs: number of epochs. Exactly one of fraction and count: the samples of one epoch, m of n. replacement: if
    false, a shuffle of all n samples is divided into windows of m, one window an epoch. If fewer than m samples are
    left, they are skipped and the next epoch starts a new shuffle (our reading of the paper). If true, every epoch
    draws its own m of all n samples, without repeats inside the epoch. A sample is kept if any epoch has it, so this
    must be the last cut of a policy.
    """

    epochs: int = Field(ge=1, le=10_000)
    fraction: float | None = None
    count: int | None = None
    replacement: bool = False
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    of: Of = "survivors"
    kind: ClassVar[str] = "epochs"
    ranks: ClassVar[bool] = False  # one rank per epoch would tell little
    draws_epochs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if 0 in (self.fraction, self.count):
            raise JobError(
                f"an epoch must have at least 1 sample, got fraction = {self.fraction}, count = {self.count}; ask for "
                f"more"
            )
        self.amount()

    def amount(self) -> Amount:
        """How many samples one epoch has."""
        return Amount(self.fraction, self.count, None, self.of)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """One stage; only uids are read."""
        return [EpochsStage(survivors, self.amount(), self.epochs, self.replacement, self.seed)]

    def shown(self) -> Shown:
        """See Cut.shown."""
        return Shown("Samples stay that are in at least one epoch of training.")

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain."""
        return Explained(facts={"note": f"in {len(asked.values[EPOCHS])} of {self.epochs} epochs"})

    def contents(self) -> Mapping[str, Contents]:
        """See Cut.contents."""
        return {self.kind: Contents(beside=tuple(epoch_file(epoch) for epoch in range(self.epochs)))}

    def subsets(self, cut: FinishedCut) -> Mapping[str, NamedRows]:
        """See Cut.subsets."""
        return {epoch_file(epoch): _InEpoch(cut.before.samples, cut.artifact, epoch) for epoch in range(self.epochs)}

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again: `rankings` and the files of `subsets` check its lists."""
        return {}

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterator[Ranking]:
        """See Cut.rankings: for each epoch, its shuffle; kept are the rows of its window and of the windows before."""
        windows = self._windows(cut)
        lists = rows.table[EPOCHS].combine_chunks()
        at, epochs = np.repeat(np.arange(len(lists)), np.diff(np.asarray(lists.offsets))), np.asarray(lists.values)
        group = one_group(rows.before)
        for epoch in range(self.epochs):
            shuffle, window = divmod(epoch, windows)
            reached = np.zeros(len(rows.before), bool)
            reached[at[(epochs >= epoch - window) & (epochs <= epoch)]] = True
            yield Ranking(hash_values(rows.uids, shuffle_seed(self.seed, shuffle)), group, reached)

    def laws(self, cut: FinishedCut, run: Run, standings: Sequence[Standings]) -> Findings:
        """See Cut.laws: each epoch has its size, so all windows of a shuffle up to its own are full."""
        size, windows = self.amount().number(cut.before), self._windows(cut)
        found = in_order(cut, run, standings)
        for epoch, standing in enumerate(standings):
            reached = (epoch % windows + 1) * size
            found += unless_equal(f"{cut.name}: samples up to epoch {epoch}", reached, int(standing.kept.sum()))
        return found

    def _windows(self, cut: FinishedCut) -> int:
        """How many epochs one shuffle has."""
        return 1 if self.replacement else cut.before.count() // self.amount().number(cut.before)


def epoch_name(epoch: int) -> str:
    """Name of an epoch's subset: three digits or more."""
    return f"epoch_{epoch:03d}"


def epoch_file(epoch: int) -> str:
    """The file with the uids of an epoch."""
    return f"{epoch_name(epoch)}.npy"


def shuffle_seed(seed: int, shuffle: int) -> int:
    """The seed of a shuffle's hash: below 2^64, different for each pair, and none that a job or another cut can use.

    seed: below 2^31. shuffle: from 0, below 2^32. The hash mixes the seed, so neighbouring seeds are independent.
    """
    return 1 << 63 | seed << 32 | shuffle


@plain_dataclass(frozen=True)
class EpochsStage:
    """Finds where each epoch's window of its shuffle ends, marks the samples in it, and writes a subset per epoch."""

    survivors: Survivors
    amount: Amount
    epochs: int
    replacement: bool
    seed: int
    name: ClassVar[str] = "epochs"
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """Two or three passes for every 64 epochs, one that commits, and the exchanges of the subsets.

        Raises JobError if an epoch would have no sample.
        """
        size, n = self.amount.number(self.survivors), self.survivors.count()
        if size < 1:
            raise JobError(
                f"an epoch must have at least 1 sample, but fraction = {self.amount.fraction}, count = "
                f"{self.amount.count} of {n} samples is 0; ask for more"
            )
        windows = 1 if self.replacement else n // size
        places = [divmod(epoch, windows) for epoch in range(self.epochs)]  # (shuffle, window)
        # The end of window w is the threshold that keeps (w + 1) · m of the shuffle; a window is between two of them.
        quotas = [(shuffle, np.array([(window + 1) * size])) for shuffle, window in places]
        shuffles = _Shuffles(self.survivors, self.seed)
        ends = select_each(run, shuffles, quotas, self.name)
        drawn = tuple(tuple(ends[first : first + windows]) for first in range(0, self.epochs, windows))
        totals = run.fill(_MarkEpochs(shuffles, drawn, out), out, self.name)
        subsets = [Subset(epoch_name(epoch), size) for epoch in range(self.epochs)]
        write_subsets(run, out, _Drawn(self.survivors.samples, out), subsets, f"{self.name}: uids")
        return funnel(totals, **drawn_report(self.epochs, size), shuffles=len(drawn))


@plain_dataclass(frozen=True)
class _Shuffles:
    """Value: a hash of the uid, a different one for each shuffle."""

    survivors: Survivors
    seed: int

    def rows(self, item: ShardItem, wanted: Sequence[int]) -> Iterator[Rows]:
        uids, group = self.survivors.uids(item.index), one_group(self.survivors.mask(item.index))
        for shuffle in wanted:
            yield Rows(hash_values(uids, shuffle_seed(self.seed, shuffle)), group, uids, item.index)


@plain_dataclass(frozen=True)
class _MarkEpochs:
    """Commits the epochs of every row of one shard. drawn: for each shuffle, the thresholds where its windows end."""

    shuffles: _Shuffles
    drawn: tuple[tuple[Thresholds, ...], ...]
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        before = self.shuffles.survivors.mask(item.index)
        members: list[np.ndarray] = []
        every = self.shuffles.rows(item, range(len(self.drawn)))
        for rows, ends in zip(every, self.drawn, strict=True):
            passed = np.zeros(len(before), bool)
            for end in ends:
                reached = kept(rows, end)
                members.append(np.flatnonzero(reached & ~passed))
                passed = reached
        counts, lists = _lists(members, before)
        return write_kept(self.out, item, before, counts > 0, {EPOCHS: lists})


def _lists(members: Sequence[np.ndarray], before: np.ndarray) -> tuple[np.ndarray, pa.Array]:
    """How many epochs each row is in, and which, ascending: list<int32>, null if the row was out before.

    members: the rows of each epoch. before: bool (n,).
    """
    rows = np.concatenate(members)
    epochs = np.repeat(np.arange(len(members), dtype=np.int32), [len(found) for found in members])
    counts = np.bincount(rows, minlength=len(before))
    offsets = pa.array(np.r_[0, np.cumsum(counts)], pa.int32())
    values = pa.array(epochs[np.argsort(rows, kind="stable")])  # stable: the epochs of a row stay ascending
    return counts, pa.ListArray.from_arrays(offsets, values, mask=pa.array(~before))


@plain_dataclass(frozen=True)
class _InEpoch:
    """See NamedRows: the rows whose list contains the epoch."""

    samples: Artifact
    artifact: Artifact
    epoch: int

    def of(self, index: int) -> tuple[np.ndarray, pa.Array]:
        drawn, epochs = drawn_rows(self.artifact, index)
        rows = drawn[epochs == self.epoch]
        return rows, bytes_of(self.samples.read(index, ["uid"])["uid"]).take(pa.array(rows))


@plain_dataclass(frozen=True)
class _Drawn:
    """The uids of each epoch, from the files of this artifact."""

    samples: Artifact
    out: Artifact

    def uids(self, item: ShardItem, subsets: Sequence[int]) -> Iterator[pa.Array]:
        """See Chosen.uids; subset i is epoch i."""
        uids = bytes_of(self.samples.read(item.index, ["uid"])["uid"])
        rows, epochs = drawn_rows(self.out, item.index)
        for epoch in subsets:
            yield uids.take(pa.array(rows[epochs == epoch]))
