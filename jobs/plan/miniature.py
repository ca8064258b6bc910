"""Lands the first samples of a few shards in a folder of its own, and a job over them; refuses what it cannot cut.

Which shards: one from each of so many equal parts of the pool, by a seeded draw. Every other one is cut to a third, so
that what a shard costs can be told from what a sample costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from winnow.jobs.job_file.job import Job
from winnow.pipeline import storage
from winnow.pipeline.stage import Limits
from winnow.stages.pools import VectorReader, Webdataset
from winnow.stages.preview.head import table_head


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
        if isinstance(reader, Webdataset):
            found.append(_tar(reader, url, take, folder / f"{number:05d}.tar"))
        else:
            more = reader.companions(url) if isinstance(reader, VectorReader) else []
            head = table_head(url, more, take, folder / f"{number:05d}")
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


def _tar(reader: Webdataset, url: str, rows: int, target: Path) -> Shrunk:
    """The bytes up to the end of the sample, and the end of a tar."""
    end = count = 0
    for sample in islice(reader.samples(url), rows):
        count += 1
        extra = getattr(sample, "extra_ranges", ())
        spans = [(sample.offset, getattr(sample, "size", 0)), *zip(extra[::2], extra[1::2], strict=True)]
        end = max([end, *[start + size for start, size in spans]])
    with storage.local_view(url) as view:
        whole = len(view)
        end = end or whole
        content = bytes(view[:end])
    target.write_bytes(content + bytes(-len(content) % 512 + 1024))
    return Shrunk(str(target), url, count, end, count * max(1.0, whole / end), whole)
