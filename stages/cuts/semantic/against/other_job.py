"""What another finished job kept, in this store or in another: its samples, their hashes and vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as options

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_table
from winnow.pipeline.errors import JobError
from winnow.stages.pools.reader import Reader
from winnow.stages.results.record import artifacts_of, last_of, reader_of, record_of
from winnow.stages.survivors import Survivors
from winnow.stages.vectors import Vectors


@options(frozen=True, config=ConfigDict(extra="forbid"))
class Against:
    """Another finished job. store: its folder or URL. job: its name. by: what it calls the encoder, if not the same."""

    store: storage.File
    job: str
    by: str | None = None


@dataclass(frozen=True)
class OtherShard:
    """An input shard of the other job. number: as an item of an exchange."""

    index: int
    url: str
    number: int = 0


@dataclass(frozen=True)
class OtherJob:
    """What the other job kept. samples, last: its rows, and which of them stayed. vectors: of the encoder, if asked.

    Artifacts are named by their content, so a job that is run again with the same result is the same.
    """

    samples: Artifact
    last: Artifact
    vectors: Artifact | None
    encoder: str = field(metadata={"fingerprint": False})
    reader: Reader = field(metadata={"fingerprint": False})
    listed: Artifact = field(metadata={"fingerprint": False})

    @property
    def survivors(self) -> Survivors:
        """The samples that it kept."""
        encoded = () if self.vectors is None else ((self.encoder, self.vectors),)
        return Survivors(self.samples, self.last, self.reader, encoded)

    def shards(self, begin: int = 0) -> tuple[OtherShard, ...]:
        """Its input shards, as items of an exchange whose numbers begin there."""
        urls = read_table(self.listed.file("shards.parquet"), ["url"])["url"].to_pylist()
        return tuple(OtherShard(index, url, begin + index) for index, url in enumerate(urls))

    def kept(self, index: int) -> np.ndarray:
        """The rows of one shard that it kept: int64 (m,)."""
        return np.flatnonzero(self.survivors.mask(index))


def other_job(given: Against, by: str | None, embedder: Vectors | None) -> OtherJob:
    """What a job file names. by: the encoder whose vectors are compared, None for none; embedder: that of this job.

    Raises JobError if there is no such job, if it has no vectors of the encoder, or if they are of another model.
    """
    record = record_of(given.store, given.job, "against must name a finished job")
    made, reader = artifacts_of(given.store, record), reader_of(given.job, record["job"]["pool"])
    encoder = given.by or by or ""
    vectors = made.get(f"vectors.{encoder}")
    if by is not None and vectors is None:
        there = [label.partition(".")[2] for label in made if label.startswith("vectors.")]
        raise JobError(
            f"against must be a job with vectors of {encoder}, but {given.job} has {', '.join(there) or 'none'}; name "
            f"its encoder by against.by"
        )
    if by is not None and vectors is not None and embedder is not None:
        _check_same_model(vectors, embedder, given)
    return OtherJob(made["samples"], last_of(made), None if by is None else vectors, encoder, reader, made["pool"])


def _check_same_model(vectors: Artifact, embedder: Vectors, given: Against) -> None:
    config = cast(Mapping[str, Any], (vectors.done() or {}).get("config", {}))
    theirs = config.get("identity")
    if theirs is not None and theirs != dict(embedder.identity):
        raise JobError(
            f"vectors can be compared if one model made them, but those of {given.job} are of {_said(theirs)} and "
            f"those of this job of {_said(embedder.identity)}; compare bytes alone, or embed with the same weights"
        )


def _said(identity: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in identity.items())


def block_items(counts: Sequence[int], shards: Sequence[OtherShard], rows: int) -> list["OtherBlock"]:
    """Blocks of about as many kept samples, in the order of the shards. counts: kept samples of each shard."""
    blocks: list[list[tuple[OtherShard, int, int]]] = [[]]
    room = rows
    for shard, count in zip(shards, counts, strict=True):
        first = 0
        while first < count:
            stop = min(count, first + room)
            blocks[-1].append((shard, first, stop))
            room -= stop - first
            first = stop
            if not room:
                blocks.append([])
                room = rows
    return [OtherBlock(tuple(pieces)) for pieces in blocks if pieces]


@dataclass(frozen=True)
class OtherBlock:
    """Some kept samples of the other job. pieces: (shard, first, stop) of its kept rows."""

    pieces: tuple[tuple[OtherShard, int, int], ...]
