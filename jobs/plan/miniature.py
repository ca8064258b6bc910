"""Builds a small version of a job from the first samples of a few shards, to measure it.

Which shards: one from each of so many equal parts of the pool, by a seeded draw. Every other one is cut to a third, so
that what a shard costs can be told from what a sample costs.
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
    """One shard of the miniature. url: of the copy. source: of the shard. rows, bytes: of the copy.

    whole_rows, whole_bytes: of the shard with its companions; rows of a tar by its bytes.
    """

    url: str
    source: str
    rows: int
    bytes: int
    whole_rows: float
    whole_bytes: int


@dataclass(frozen=True)
class Miniature:
    """The shards and the job over them. cold: rows of the shards of a smaller one, that runs before it."""

    shards: tuple[Shrunk, ...]
    job: Job
    cold: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Samples of all its shards."""
        return sum(shard.rows for shard in self.shards)


def drawn(urls: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` of the urls, or all: one from each part of equal length, by a seeded draw."""
    count = min(count, len(urls))
    edges = [len(urls) * i // count for i in range(count + 1)]
    rng = np.random.default_rng(seed)
    return [urls[int(rng.integers(low, high))] for low, high in pairwise(edges)]


def shrink(job: Job, urls: Sequence[str], rows: int, folder: Path) -> list[Shrunk]:
    """Copies of the first `rows` samples of each shard, or a third of that in every other one."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, url in enumerate(urls):
        take = rows if number % 2 == 0 else max(1, rows // 3)
        reader = job.pool.reader
        head = reader.cut(url, take, folder / f"{number:05d}")
        found.append(Shrunk(head.url, url, head.rows, head.bytes, head.whole_rows, head.whole_bytes))
    return found


def job_of(job: Job, shards: Sequence[Shrunk], samples: float, folder: Path) -> Miniature:
    """The same job over the shrunk shards: counts shrink with the pool, clusters where they would be too many."""
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
        resources=replace(job.resources, prefetch=False),  # a shard's bytes and seconds are to be its own
        limits=Limits(max_reject_fraction=1.0),
        resolved={},
    )
    return Miniature(tuple(shards), small)
