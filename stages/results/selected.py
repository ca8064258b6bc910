"""The kept samples of one input shard, read in place, for training without exported shards.

The plan of a shard says which samples are read and how often. It comes from columns of its manifest and samples.
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
from winnow.stages.cuts.contract.drawn import Drawn
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.unchanged import check_unchanged
from winnow.stages.results.tar_shard import TarShard
from winnow.stages.results.training_members import Entry, training_key


@dataclass(frozen=True)
class ReadPlan:
    """The plan of what to read from one input shard.

    places: the kept rows of its samples file, in order. times: int64 (m,), how often each is read, at least once.
    """

    index: int
    url: str
    places: pa.Table
    times: np.ndarray

    @property
    def samples(self) -> int:
        """The number of samples, each counted as often as it is read."""
        return int(self.times.sum())

    def rounds(self) -> Iterator[pa.Table]:
        """First all samples, then those that are read at least twice, and so on, so that repeats are not adjacent."""
        for number in range(int(self.times.max(initial=0))):
            yield self.places.filter(pa.array(self.times > number))


@dataclass(frozen=True)
class Selected:
    """The kept samples of a finished job, in the shards of its pool. Picklable; it holds no open file.

    places: the artifact of the samples. manifest: its weight says how often a sample is read. drawn: the epochs that a
    cut drew, to read only `epoch` of them. gap_bytes: gaps up to this size are read through, not skipped; None for the
    default of the storage.
    """

    places: Artifact
    manifest: Artifact
    reader: Reader
    drawn: Drawn | None = None
    epoch: int = 0
    gap_bytes: int | None = None

    def plan(self, index: int) -> ReadPlan:
        """The plan of input shard `index`, from some columns of two or three files; url is "" if it has no row.

        Raises AccountingError if the files are not of one job, DataError for weights that are not whole numbers >= 0.
        """
        verdicts = self.manifest.read(index, ["shard", "key", "weight"])
        places = self.places.read(index, self.reader.place_columns(self.places.columns(index)))
        positions = column(places, "position")
        if len(positions) and (positions[-1] >= len(verdicts) or not _same_keys(places, verdicts, positions)):
            raise AccountingError(
                f"{self.manifest.shard(index)} must have a row for each sample of {self.places.shard(index)}, but "
                f"they name other samples; run the job again"
            )
        times = _repeats(column(verdicts, "weight"), self.manifest.shard(index))[positions]
        if self.drawn is not None:
            times = times * self.drawn.times(index, self.epoch, len(times))
        read = np.flatnonzero(times)
        url = verdicts["shard"][0].as_py() if len(verdicts) else ""
        return ReadPlan(index, url, places.take(pa.array(read)), times[read])

    def write_tar(self, plan: ReadPlan, file: BinaryIO) -> int:
        """Write a whole tar of the plan's samples; return their number.

        A repeated sample or key gets `_1`, `_2` …
        Raises ShardError if the shard has changed; the tar then ends inside a member, so that a reader notices.
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

    def samples(self, plan: ReadPlan) -> Iterator[tuple[str, Sequence[Entry]]]:
        """Key and members of each sample of the plan; raises as write_tar."""
        for places in plan.rounds():
            self._check(plan)
            for key, members in self.reader.again(plan.url, places, self.gap_bytes):
                yield training_key(key), members

    def _check(self, plan: ReadPlan) -> None:
        check_unchanged(self.places, plan.index, plan.url, self.reader)


def _same_keys(places: pa.Table, verdicts: pa.Table, positions: np.ndarray) -> bool:
    named = verdicts["key"].take(pa.array(positions))
    return bool(pc.all(pc.equal(places["key"], named), skip_nulls=False).as_py())


def _repeats(weight: np.ndarray, url: str) -> np.ndarray:
    """Weights as repeat counts: int64 (n,)."""
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0) & (weight == np.floor(weight))))
    if len(wrong):
        raise DataError(
            f"{url}: a weight must be a whole number >= 0 (how often a sample is read), but row {wrong[0]} has "
            f"{weight[wrong[0]]}; round it"
        )
    return weight.astype(np.int64)
