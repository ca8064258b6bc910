"""Builds a small version of a job from the first samples of a few shards, to measure it.

It takes one shard from each of some equal parts of the pool, by a seeded draw. Every second shard is cut to a third, so
that the cost of a shard can be separated from the cost of a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from winnow.jobs.job_file.job import Job
from winnow.pipeline.stage import Limits


@dataclass(frozen=True)
class Shrunk:
    """One shard of the small version. url, rows, bytes: of the copy. source: URL of the original.

    whole_rows, whole_bytes: of the original with its companion files; the rows of a tar are estimated from its bytes.
    """

    url: str
    source: str
    rows: int
    bytes: int
    whole_rows: float
    whole_bytes: int


@dataclass(frozen=True)
class Miniature:
    """The small version: its shards and the job over them. cold: rows of the shards of the warm-up run."""

    shards: tuple[Shrunk, ...]
    job: Job
    cold: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Samples of all its shards."""
        return sum(shard.rows for shard in self.shards)


def drawn(urls: Sequence[str], count: int, seed: int) -> list[str]:
    """At most `count` of the urls: one from each part of equal length, by a seeded draw."""
    count = min(count, len(urls))
    edges = [len(urls) * i // count for i in range(count + 1)]
    rng = np.random.default_rng(seed)
    return [urls[int(rng.integers(low, high))] for low, high in pairwise(edges)]


def shrink(job: Job, urls: Sequence[str], rows: int, folder: Path) -> list[Shrunk]:
    """Copy the first `rows` samples of each shard, and a third of that from every second shard."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, url in enumerate(urls):
        take = rows if number % 2 == 0 else max(1, rows // 3)
        reader = job.pool.reader
        head = reader.cut(url, take, folder / f"{number:05d}")
        found.append(Shrunk(head.url, url, head.rows, head.bytes, head.whole_rows, head.whole_bytes))
    return found


def miniature_of(job: Job, shards: Sequence[Shrunk], samples: float, folder: Path) -> Miniature:
    """The same job over the small shards: counts shrink with the pool, and clusters if they would be too many."""
    rows = sum(shard.rows for shard in shards)
    written = job.shards
    if written is not None:
        most = max(1, rows // max(1, len(shards)))
        written = replace(written, samples_per_shard=min(written.samples_per_shard, most))
    small = replace(
        job,
        store=str(folder / "store"),
        pool=replace(job.pool, shards=tuple(shard.url for shard in shards)),
        policy=tuple(cut.smaller(rows, samples) for cut in job.policy),
        shards=written,
        resources=replace(job.resources, prefetch=False),  # so that the bytes and seconds of a call belong to one shard
        limits=Limits(max_reject_fraction=1.0),
        resolved={},
    )
    return Miniature(tuple(shards), small)
