"""Reads the kept samples of a finished job for training, from the pool's own shards and without a copy.

    from winnow import samples
    data = samples("s3://bucket/winnow", "laion-dbp", shuffle=epoch).compose(wds.shuffle(5000), wds.decode("pilrgb"))

It does not import torch or the engine, because `winnow cat` starts once for every shard.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import DataError, JobError
from winnow.stages.cuts.contract.drawn import Drawn
from winnow.stages.pools.reader import Reader
from winnow.stages.results.record import artifacts_of, last_of, reader_of, record_of
from winnow.stages.results.selected import ReadPlan, Selected

if TYPE_CHECKING:
    from webdataset import DataPipeline


@dataclass(frozen=True)
class KeptSamples:
    """The kept samples of a finished job. shards: input shards of its pool. count: samples in all of them."""

    name: str
    selected: Selected
    shards: int
    count: int

    def plan(self, shard: int) -> ReadPlan:
        """The plan of one input shard. Raises JobError if the pool has no such shard."""
        if not 0 <= shard < self.shards:
            raise JobError(f"a shard of {self.name} must be 0 to {self.shards - 1}, got {shard}")
        return self.selected.plan(shard)

    def samples(self, shard: int) -> Iterator[dict[str, object]]:
        """The samples of one input shard as webdataset dicts: __key__, __url__, and bytes by suffix."""
        plan = self.plan(shard)
        for key, members in self.selected.samples(plan):
            yield {"__key__": key, "__url__": plan.url, **{suffix.lower(): content for suffix, content in members}}


def open_kept_samples(store: str, name: str, *, epoch: int | None = None, gap_bytes: int | None = None) -> KeptSamples:
    """The kept samples of job `name` of a store; with `epoch`, only those that its last cut drew for that epoch.

    gap_bytes: see Selected. Raises JobError for an unknown job or epoch, and for a pool without images.
    """
    store = storage.absolute(store.rstrip("/"))
    record = record_of(store, name)
    try:
        artifacts = artifacts_of(store, record)
        pool = artifacts["pool"]
        reader = _reader(name, record["job"]["pool"])
        count = int(record["counts"]["kept"])
        selected = Selected(artifacts["samples"], artifacts["manifest"], reader, gap_bytes=gap_bytes)
        last = last_of(artifacts)  # only the last cut of a policy may draw epochs
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the record of {name} in {store} must be as its run left it, but: {error!r}; run it again"
        ) from error
    shards = _done(pool)["shards"]
    if epoch is not None:
        drawn = Drawn.of(last)
        if drawn is None or not 0 <= epoch < drawn.epochs:
            have = "has no cut that draws any, such as `epochs`" if drawn is None else f"has 0 to {drawn.epochs - 1}"
            raise JobError(f"an epoch must be one that {name} drew, got {epoch}; {name} {have}")
        selected = replace(selected, drawn=drawn, epoch=epoch)
        count = drawn.size
    return KeptSamples(name, selected, shards, count)


def samples(
    store: str, name: str, *, epoch: int | None = None, shuffle: int | None = None, gap_bytes: int | None = None
) -> "DataPipeline":
    """The kept samples of a job as a webdataset pipeline, which works in a torch DataLoader, also with workers.

    Samples are dicts of __key__, __url__ and bytes by suffix. Shards are divided among nodes and workers as webdataset
    does, so together they give each sample as often as its weight says. Append further steps with `.compose(...)`.
    Memory: one shard's plan and two pieces of 8 MiB. shuffle: seed for the order of the shards, such as the number of
    the training epoch; None for the order of the pool. epoch, gap_bytes: see open_kept_samples.
    Raises the errors of open_kept_samples; while reading, ShardError if a shard is no longer the file that the job
    read.
    """
    import webdataset  # it imports torch, which nothing else here waits for

    kept = open_kept_samples(store, name, epoch=epoch, gap_bytes=gap_bytes)
    return webdataset.DataPipeline(
        _Shards(kept.shards, shuffle), webdataset.split_by_node, webdataset.split_by_worker, _Samples(kept)
    )


@dataclass(frozen=True)
class _Shards:
    """Numbers of the shards, the same on every node and worker."""

    shards: int
    shuffle: int | None

    def __call__(self) -> Iterator[int]:
        numbers = list(range(self.shards))
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(numbers)
        return iter(numbers)


@dataclass(frozen=True)
class _Samples:
    kept: KeptSamples

    def __call__(self, shards: Iterator[int]) -> Iterator[dict[str, object]]:
        for shard in shards:
            yield from self.kept.samples(shard)


def _done(artifact: Artifact) -> dict[str, int]:
    report = artifact.done()
    if report is None:
        raise JobError(f"{artifact.folder} must be whole, but has no _done.json; run the job again")
    return cast(dict[str, int], report)


def _reader(name: str, pool: Mapping[str, Any]) -> Reader:
    reader = reader_of(name, pool)
    if reader.has_images:
        return reader
    raise JobError(
        f"the pool of {name} ({pool['format']}) has no images, so nothing can be trained on it; "
        f"use uids.npy of its manifest where the images are"
    )
