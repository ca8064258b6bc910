"""The cut `negclip` (negCLIPLoss): keeps pairs by cosine minus their similarity to a random batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, matrix, scattered, split_rows, split_table, vector_column
from winnow.pipeline.keep_top import Rows
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.pipeline.uid import uids_from_bytes, uids_to_bytes
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Amount, Cut, Of
from winnow.stages.cuts.keeping import Ranked, one_group, value_column
from winnow.stages.kernels.contrast import contrasts
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.survivors import Survivors

_PART_ROWS = 1 << 17  # samples that one worker holds at a time: 512 MB of vectors at d = 1,024


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Negclip(Cut):
    """Keep the pairs of highest negCLIPLoss (Wang et al. 2024, arXiv 2405.19547).

    The value of a pair is its cosine, less tau/2 · (logsumexp_j(s_ij / tau) + logsumexp_j(s_ji / tau)) over its random
    batch. It is the mean over several partitions of all samples into batches.
    by: an encoder of the job with an image and a text tower. Exactly one of fraction, count and threshold (values are
    at most 0). of: the base of the fraction. partitions: how many.
    temperature: tau, that of the encoder's training: 0.01 for OpenAI's models, 0.07 for DFN's.
    batch: about how many samples a batch has. A hash of the uid assigns each sample to a batch, so the result does not
    depend on the sharding. The paper's batches have one size; these vary by about sqrt(batch), 0.6 % of 32,768, which
    moves a value by tau times that. Fewer samples than 1.5 batches are one batch, and then all partitions are the same,
    so one is enough.
    """

    by: str
    fraction: float | None = None
    count: int | None = None
    threshold: float | None = None
    # below 0.001 the rounding of float16 vectors would decide the order
    temperature: float = Field(default=0.01, ge=0.001)
    batch: int = Field(default=32768, ge=2)
    partitions: int = Field(default=5, ge=1, le=1000)
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    of: Of = "survivors"
    kind: ClassVar[str] = "negclip"

    def __post_init__(self) -> None:
        self.amount()

    def amount(self) -> Amount:
        """How much to keep."""
        return Amount(self.fraction, self.count, self.threshold, self.of)

    def check(self, given: Given) -> None:
        """See Cut.check; the encoder must have text vectors."""
        super().check(given)
        given.check_text(self.kind, self.by)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """One stage for each partition, so that a job with more partitions reuses these; then the selection."""
        each = [
            PartitionStage(survivors, self.by, self.temperature, self.batch, self.seed, number)
            for number in range(self.partitions)
        ]
        values = Contrast(survivors, tuple(artifact_of(stage, store) for stage in each))
        return [*each, Ranked(self.kind, values, survivors, self.amount())]

    def shown(self) -> Shown:
        """See Cut.shown."""
        about = "Keeps the pairs whose image and text are more similar to each other than to other texts and images."
        return Shown(about, "contrast", "image-text cosine, minus that of random pairs")

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again: the mean over the partitions, summed in their order."""
        value = np.zeros(len(cut.before.mask(item.index)))
        for partition in range(self.partitions):
            made = cut.prepared[f"contrast_{partition}"]
            value += column(made.read(item.index, ["contrast"]), "contrast", null=0.0)
        return {"contrast": pa.array((value / self.partitions).astype(np.float32))}


def batch_of(uids: np.ndarray, seed: int, partition: int, batches: int) -> np.ndarray:
    """The batch of each uid in a partition: int64 (n,), floor(hash / 2^64 · batches).

    uids: (n,) of dtype UID. seed: below 2^31. partition: from 0. batches: 1 to 2^32; the upper 32 bits of the hash
    decide.
    """
    # The seed is one that no job can name. Survivors of a `random` cut all have high hashes of that cut's seed, so with
    # the same seed they would fill some batches and leave the others empty.
    upper = hash64(uids, ((partition + 1) << 32) + seed) >> np.uint64(32)
    return ((upper * np.uint64(batches)) >> np.uint64(32)).astype(np.int64)


@plain_dataclass(frozen=True)
class PartitionStage:
    """One partition of the survivors into random batches, and the value of each pair in its batch."""

    survivors: Survivors
    by: str
    temperature: float
    batch: int
    seed: int
    partition: int
    version: ClassVar[int] = 1

    @property
    def name(self) -> str:
        """See Stage.name; it has the number of the partition, because a cut has several such stages."""
        return f"contrast_{self.partition}"

    def make(self, run: Run, out: Artifact) -> Summary:
        """One exchange by batch. The image and text vectors of every sample travel: 4 d + 40 bytes each.

        An executor of one process holds all of that in memory at once, for one partition at a time.
        A worker holds about 131,072 samples (but whole batches), and two copies of them while it sorts.
        Cost: 2 n · batch · d flops.
        """
        n = self.survivors.count()
        batches = max(1, round(n / self.batch))
        parts = min(batches, max(1, -(-n // _PART_ROWS)))
        totals = run.exchange(_Batches(self, out, batches, parts), self.name, out)
        return {"rows": totals.number("rows"), "batches": batches}


@plain_dataclass(frozen=True)
class _Batches:
    stage: PartitionStage
    out: Artifact
    batches: int
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        stage, index = self.stage, item.index
        rows = np.flatnonzero(stage.survivors.mask(index))
        if not len(rows):  # an empty list column would have no width
            return {}
        uids = stage.survivors.uids(index)[rows]
        batch = batch_of(uids, stage.seed, stage.partition, self.batches)
        vectors = {
            tower: vector_column(stage.survivors.vectors(index, item.url, stage.by, tower, rows))
            for tower in ("image", "text")
        }
        places = {"shard": pa.array(np.full(len(rows), index)), "row": pa.array(rows)}
        table = pa.table({"uid": uids_to_bytes(uids), "batch": pa.array(batch), **places, **vectors})
        part = batch * self.parts // self.batches
        return split_table(table, part)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """Compute the value of every pair, batch by batch. Rows are sorted by uid and place, for any sharding."""
        table = pa.concat_tables(tables)
        uids, batch = uids_from_bytes(table["uid"]), column(table, "batch")
        shard, row = column(table, "shard"), column(table, "row")
        image, text = matrix(table["image"]), matrix(table["text"])
        order = np.lexsort((row, shard, uids["f1"], uids["f0"]))
        values = np.empty(len(order))
        for _, entries in split_rows(batch[order]):
            rows = order[entries]
            values[rows] = contrasts(image[rows], text[rows], self.stage.temperature)
        found = pa.table({"row": pa.array(row), "contrast": pa.array(values)})
        return split_table(found, shard)

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        """Commit `contrast` of one shard: float64, null for rows that were out already."""
        length = len(self.stage.survivors.mask(item.index))
        rows = np.concatenate([np.empty(0, np.int64), *[column(table, "row") for table in tables]])
        values = np.concatenate([np.empty(0), *[column(table, "contrast") for table in tables]])
        summary = {"rows": length}
        self.out.write(item.index, pa.table({"contrast": scattered(values, rows, length)}), summary)
        return summary


@plain_dataclass(frozen=True)
class Contrast:
    """Value: the mean of a pair's value over all partitions, summed in their order in float64, then float32."""

    survivors: Survivors
    partitions: tuple[Artifact, ...]

    def rows(self, item: ShardItem) -> Rows:
        """See Source.rows."""
        mask = self.survivors.mask(item.index)
        at = np.flatnonzero(mask)
        value = np.zeros(len(mask))
        for made in self.partitions:
            value[at] += column(made.read(item.index, ["contrast"]).take(pa.array(at)), "contrast")
        mean = (value / len(self.partitions)).astype(np.float32)
        return Rows(mean, one_group(mask), self.survivors.uids(item.index), item.index, column="contrast")

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """See Source.columns."""
        return {"contrast": value_column(rows)}
