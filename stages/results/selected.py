"""The kept samples of one input shard, read in place, for training without exported shards.

A shard is planned from columns of its manifest and embeddings files: which samples, and how often.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import AccountingError, DataError
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.unchanged import check_unchanged
from winnow.stages.results.tar_shard import TarShard
from winnow.stages.results.training_members import Member, training_key


@dataclass(frozen=True)
class Plan:
    """What is read of one input shard.

    places: the kept rows of its embeddings file, in order. times: int64 (m,), how often each is read, at least once.
    """

    index: int
    url: str
    places: pa.Table
    times: np.ndarray

    @property
    def samples(self) -> int:
        """How many samples come, each as often as it is read."""
        return int(self.times.sum())

    def rounds(self) -> Iterator[pa.Table]:
        """The samples that are read at least once, then those that are twice …: none is its own neighbour."""
        for number in range(int(self.times.max(initial=0))):
            yield self.places.filter(pa.array(self.times > number))


@dataclass(frozen=True)
class Selected:
    """The samples that a finished job keeps, in the shards of its pool; picklable, and nothing is held open.

    embeddings: where each sample lies. manifest: its weight is how often a sample is read. epochs: the artifact of the
    cut `epochs` where only those of `epoch` are wanted. gap_bytes: that are read over rather than asked for around
    them; None for what the storage is like.
    """

    embeddings: Artifact
    manifest: Artifact
    reader: Reader
    epochs: Artifact | None = None
    epoch: int = 0
    gap_bytes: int | None = None

    def plan(self, index: int) -> Plan:
        """The plan of input shard `index`, from some columns of two or three files; its url is "" where it has no row.

        Raises AccountingError where the files are not of one job, DataError for weights that are no repeat counts.
        """
        verdicts = self.manifest.read(index, ["shard", "key", "weight"])
        places = self.embeddings.read(index, self.reader.place_columns(self.embeddings.columns(index)))
        positions = column(places, "position")
        if len(positions) and (positions[-1] >= len(verdicts) or not _same_keys(places, verdicts, positions)):
            raise AccountingError(
                f"{self.manifest.shard(index)} must have a row for each sample of {self.embeddings.shard(index)}, but "
                f"they name others; run the job again"
            )
        times = _repeats(column(verdicts, "weight"), self.manifest.shard(index))[positions]
        if self.epochs is not None:
            times = times * self._drawn(self.epochs, index)
        read = np.flatnonzero(times)
        url = verdicts["shard"][0].as_py() if len(verdicts) else ""
        return Plan(index, url, places.take(pa.array(read)), times[read])

    def _drawn(self, epochs: Artifact, index: int) -> np.ndarray:
        """How often each row is in the epoch: int64 (n,)."""
        lists = epochs.read(index, ["epochs"])["epochs"].combine_chunks()
        rows = np.asarray(pc.list_parent_indices(lists))[np.asarray(lists.flatten()) == self.epoch]
        return np.bincount(rows, minlength=len(lists))

    def write_tar(self, plan: Plan, file: BinaryIO) -> int:
        """A whole tar of the plan's samples; how many there are.

        A sample that comes again, or whose key does, gets `_1`, `_2` …
        Raises ShardError where the shard is no longer what it was; the tar is then broken off so that a reader sees it.
        """
        writer = TarShard(file)
        try:
            for places in plan.rounds():
                self._check(plan)
                self.reader.append(writer, plan.url, places, self.gap_bytes)
        except BrokenPipeError:
            raise
        except BaseException:
            writer.break_off()
            raise
        writer.finish()
        return writer.samples

    def samples(self, plan: Plan) -> Iterator[tuple[str, Sequence[Member]]]:
        """Key and members of each sample of the plan; raises as write_tar."""
        for places in plan.rounds():
            self._check(plan)
            for key, members in self.reader.again(plan.url, places, self.gap_bytes):
                yield training_key(key), members

    def _check(self, plan: Plan) -> None:
        check_unchanged(self.embeddings, plan.index, plan.url, self.reader)


def _same_keys(places: pa.Table, verdicts: pa.Table, positions: np.ndarray) -> bool:
    named = verdicts["key"].take(pa.array(positions))
    return bool(pc.all(pc.equal(places["key"], named), skip_nulls=False).as_py())


def _repeats(weight: np.ndarray, url: str) -> np.ndarray:
    """Weights as repeat counts: int64 (n,)."""
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0) & (weight == np.floor(weight))))
    if len(wrong):
        raise DataError(
            f"{url}: a weight is how often a sample is read, so a whole number from 0, but row {wrong[0]} has "
            f"{weight[wrong[0]]}; round it"
        )
    return weight.astype(np.int64)
