"""The stage `samples`: reads each input shard and writes the place, caption and size of each sample, and its rejects.

No model is in it: the vectors of each encoder are an artifact of their own (vectors.py). If the job has encoders whose
vectors are missing too, the same pass embeds, so that every image is decoded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline import storage
from winnow.pipeline.adoption import adopt
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import SampleError
from winnow.pipeline.executors.contract import Needs, Stateless, Task
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.uid import hex_of
from winnow.stages.encoders.pixels.opening import open_image
from winnow.stages.filling import filled
from winnow.stages.one_decode import EmbedShards
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.unchanged import check_unchanged
from winnow.stages.preview.early import Early
from winnow.stages.rejects import UNREADABLE, samples_report
from winnow.stages.sample_files import commit, commit_samples

HEADER = "header"
"""The value of Samples.decode for a job without encoders: only headers of images are read."""


@dataclass(frozen=True)
class Samples:
    """Every sample of the pool: a row if it can be read, else a reject.

    decode: how an image is judged: how it is decoded for encoders, or `header`; None if the pool has no images.
    embedding: runs the encoders whose vectors are missing, in the same pass; None if no image is decoded.
    needs: the resources of one worker then. Neither these nor the encoders change the result.
    """

    pool: Artifact
    reader: Reader
    decode: str | None
    embedding: EmbedShards | None = field(default=None, metadata={"fingerprint": False})
    needs: Needs | None = field(default=None, metadata={"fingerprint": False})
    name: ClassVar[str] = "samples"
    reads_pool: ClassVar[Literal["whole", "kept"]] = "whole"
    version: ClassVar[int] = 1

    @property
    def recipe(self) -> str:
        """A fingerprint without the shards: artifacts of one recipe have the same file for the same shard."""
        return fingerprint([self.name, self.version, self.reader, self.decode])

    @property
    def embeds(self) -> bool:
        """See Embedding.embeds."""
        return self.embedding is not None

    def rejecting(self, made: Artifact) -> tuple[Artifact, ...]:
        """See Rejecting.rejecting."""
        return (made,)

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard. If another artifact of the same recipe has the file of a shard, it is taken over."""
        adopted = adopt(run, out, self.recipe)
        task: Task[ShardItem, Summary]
        beside: tuple[Artifact, ...] = ()
        if self.embedding is not None:
            task = embedding = self.embedding.missing(run)
            beside = tuple(encoder.out for encoder in embedding.encoders)
        elif self.decode is None:
            task = Stateless(_ReadTable(self.reader, out))
        else:
            task = Stateless(_ReadHeaders(self.reader, out))
        early = Early(run, self.reader, out, beside)
        totals = filled(run, task, out, self.name, self.needs, [early], partial(_give_up, out, beside))
        return {**samples_report(totals), "adopted": adopted}


def _give_up(
    out: Artifact, beside: Sequence[Artifact], item: ShardItem, message: str, columns: pa.Schema, like: Summary
) -> None:
    """Commit a shard that cannot be read as one reject. beside: vectors that a broken try may have left of it."""
    for vectors in beside:
        left = vectors.shard(item.index)
        own = vectors.place(item.index)[0] == vectors.name  # a file of another artifact stays
        storage.remove([left] if own and storage.exists(left) else [])
    reject = Reject(0, storage.name_of(item.url), UNREADABLE, message)
    commit(out, item, columns.empty_table(), [reject], like)


@dataclass(frozen=True)
class _ReadHeaders:
    """Reads the places of samples, and the sizes of images from their headers; decodes nothing."""

    reader: Reader
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        check_unchanged(self.out, item.index, item.url, self.reader)
        kept: list[Sample] = []
        rejects: list[Reject] = []
        sizes: list[tuple[int, int]] = []
        for sample in self.reader.samples(item.url):
            if isinstance(sample, Reject):
                rejects.append(sample)
                continue
            try:
                with open_image(sample.image) as image:
                    sizes.append(image.size)
            except SampleError as error:
                rejects.append(Reject(sample.position, sample.key, error.kind, str(error), sample.offset))
            else:
                kept.append(replace(sample, image=b""))
        return commit_samples(self.out, item, kept, np.array(sizes, np.int32).reshape(-1, 2).T, rejects)


@dataclass(frozen=True)
class _ReadTable:
    """Reads the rows of a shard of precomputed vectors; a vector only where a uid is a hash of it."""

    reader: Reader
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        check_unchanged(self.out, item.index, item.url, self.reader)
        table, rejects = self.reader.rows(item.url)
        named = {found["values"]: found["counts"] for found in pc.value_counts(table["named"]).to_pylist()}
        table = table.drop_columns("named")
        table = table.set_column(table.column_names.index("uid"), "uid", hex_of(table["uid"]))
        return commit(self.out, item, table, rejects, {"named": named})
