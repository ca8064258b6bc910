"""The stage `pool`: the list of a run's input shards in their fixed order, with the identity of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, write_table
from winnow.pipeline.errors import PoolError
from winnow.pipeline.stage import Run, Summary, mark_of
from winnow.pipeline.storage import Identity
from winnow.stages.pools.reader import Reader

POOL_KEYS = ("shards", "format", "fields")
"""What a job gives under `pool` beside the options of the format."""


@dataclass(frozen=True)
class Pool:
    """All input shards of a run: where they are, and how they are read.

    shards: globs, braces, URLs, folders, or .txt files of URLs. reader: the format and its options. fields: what the
    pool says of each sample and the job uses, by the job's name for it: a column, or json:KEY in tars.
    """

    shards: tuple[str, ...]
    reader: Reader
    fields: Mapping[str, str] = field(default_factory=dict)

    def urls(self) -> list[str]:
        """The URL of each shard, in order; a folder means the shards in it. Raises PoolError as expand does."""
        urls = storage.expand(self.shards, self.reader.suffix)
        if not urls:
            raise PoolError(f"a pool must have at least one shard, but {', '.join(self.shards)} names none")
        return urls

    def identities(self) -> tuple[Identity, ...]:
        """The identity of each shard, in order. It includes the identities of its companion files.

        Raises PoolError if nothing matches, if a file is missing, or if two names are the same file.
        """
        urls = self.urls()
        companions = [self.reader.companions(url) for url in urls]
        names = [name for url, more in zip(urls, companions, strict=True) for name in (url, *more)]
        known = iter(self._identify(names))
        files = [[next(known) for _ in range(1 + len(more))] for more in companions]
        storage.check_distinct([shard for shard, *_ in files])
        found = (as_one(shard) for shard in files)
        return tuple(found if self.reader.movable else (replace(shard, content="") for shard in found))

    def _identify(self, names: Sequence[str]) -> list[Identity]:
        try:
            return storage.identify(names)
        except PoolError as error:
            there = storage.present(names)
            raise PoolError(f"{error}{self.reader.lacking([name for name in names if name not in there])}") from error


def as_one(files: Sequence[Identity]) -> Identity:
    """One identity for a shard of several files; its URL is that of the first."""
    stamps, contents = [file.stamp for file in files], [f"{file.size}-{file.content}" for file in files]
    content = "+".join(contents) if all(file.content for file in files) else ""
    return Identity(files[0].url, sum(file.size for file in files), "+".join(stamps), content)


@dataclass(frozen=True)
class PoolStage:
    """Writes the list of shards that every other artifact of the run refers to."""

    shards: tuple[Identity, ...] = field(metadata={"recorded": "fingerprint"})  # shards.parquet lists them
    name: ClassVar[str] = "pool"
    version: ClassVar[int] = 2
    mark = cached_property(mark_of)  # once for all policies of a sweep: a second for 200,000 shards

    def make(self, run: Run, out: Artifact) -> Summary:
        """One small file."""
        columns = {
            "url": [shard.url for shard in self.shards],
            "size": [shard.size for shard in self.shards],
            "stamp": [shard.stamp for shard in self.shards],
        }
        write_table(out.file("shards.parquet"), pa.table({"shard": range(len(self.shards)), **columns}))
        return {"shards": len(self.shards), "bytes": sum(shard.size for shard in self.shards)}
