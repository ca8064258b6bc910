"""The stage `vectors` of vectors that another program made: joined to the samples, a file per shard."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import DataError
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.stages.encoders.brought.vector_join import FILES, Divided, FoundVectors, VectorJoin, divided
from winnow.stages.encoders.brought.vector_parts import VectorFiles, VectorPart, first_name, look_at
from winnow.stages.growth import Growth, Once
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import Reject
from winnow.stages.pools.sample_names import Names
from winnow.stages.rejects import vectors_report
from winnow.stages.survivors import Survivors
from winnow.stages.vector_files import commit_vectors

NO_VECTOR = "no-vector"
"""Kind of the reject for a sample that the files of vectors do not have."""


@dataclass(frozen=True)
class JoinedVectors:
    """float16 unit vectors, row by row beside the samples. A sample without one is a reject of this artifact.

    files: where the vectors are. names: what names a sample in them. reader: of the samples. called: the encoder in the
    job.
    """

    samples: Artifact
    files: VectorFiles = field(metadata={"recorded": "fingerprint"})  # of as many files as a pool
    names: Names
    reader: Reader = field(metadata={"fingerprint": False})  # the samples have it in their fingerprint
    called: str = field(metadata={"fingerprint": False})
    name: ClassVar[str] = "vectors"
    version: ClassVar[int] = 1

    @property
    def survivors(self) -> Survivors:
        """Every sample that could be read."""
        return Survivors(self.samples, None, self.reader)

    @property
    def label(self) -> str:
        """The name of its passes."""
        return f"{self.name}.{self.called}"

    def look(self, widths: Mapping[str, int]) -> str:
        """See Looking.look."""
        return look_at(self.files, self.names, self.called)

    def growth(self, label: str, step: str) -> Growth | None:
        """See Growing.growth: all but the last step read the files, whatever the pool."""
        return Once() if label == f"{self.label}: {FILES}" or step in ("scatter", "decide") else None

    def width(self, out: Artifact) -> int:
        """See Growing.width."""
        return 0

    def rejecting(self, made: Artifact) -> tuple[Artifact, ...]:
        """See Rejecting.rejecting."""
        return self.samples, made

    def join(self, run: Run) -> Divided:
        """The parts of the files. Raises as `divided` does."""
        return divided(run, self.files, self.names, self.called)

    def make(self, run: Run, out: Artifact) -> Summary:
        """One exchange: the names of samples and those of files meet by their hash.

        Raises DataError if a name repeats, in the pool or in the files, and if no sample has a vector.
        """
        self.names.check_distinct(run, self.survivors, out)
        found = self.join(run)
        parts = found.exchange_parts(self.survivors.count(), len(self.files.towers))
        work = VectorJoin(self.survivors, self.files, self.names, _Commit(self.samples, out), found.width, parts)
        repeats = _Repeats()
        totals = run.exchange(work, self.label, out, [repeats], found.parts)
        count, unused = found.rows, totals.number("unused") if found.parts else 0
        if repeats.first is not None:
            number, row = repeats.first
            part = found.parts[number - len(run.items)]
            name = first_name(VectorPart(part.url, row, row + 1, part.width), self.names)
            more = "; name their shards by shard, or join by uid" if self.names.what == "key" else ""
            raise DataError(
                f"a {self.names.what} must have one vector, but {repeats.count:,} rows repeat that of an earlier one, "
                f"first {name!r} in row {row} of {part.url}{more or '; leave one row for each'}"
            )
        report = vectors_report(totals)
        if count and unused == count and totals.number("rows"):
            raise DataError(self._strangers(run, found.parts[0]))
        told = f"{count:,} vectors joined by {self.names.what}; {unused:,} of them are of no sample of the pool"
        return {**report, "width": found.width, "vectors": count, "unused": unused, "told": told}

    def _strangers(self, run: Run, part: VectorPart) -> str:
        """That pool and files have no name in common, with one of each."""
        theirs = first_name(part, self.names)
        first = next(item for item in run.items if self.samples.read(item.index, ["key"]).num_rows)
        sample = self.samples.read(first.index, ["key", "uid"]).slice(0, 1).to_pylist()[0]
        ours = sample["uid"] if self.names.what == "uid" else sample["key"]
        if self.names.shard is not None:
            ours = f"{storage.name_of(first.url)}/{ours}"
        if self.names.what == "url":
            ours = str(self.survivors.said(first.index, first.url, "url")[0])
        return (
            f"samples and vectors must have names in common, but no {self.names.what} of the pool, such as {ours!r}, "
            f"is in column {' and '.join(self.names.columns)} of the vectors, which has {theirs!r} first; name another "
            f"column by uid, key or url"
        )


@dataclass(frozen=True)
class _Commit:
    """Commits the vectors of one shard."""

    samples: Artifact
    out: Artifact

    def shard(self, item: ShardItem, found: FoundVectors) -> Summary:
        known = self.samples.read(item.index, ["position", "key"])
        places = known.to_pylist()
        lost = np.ones(len(known), bool)
        lost[found.rows] = False
        message = "a sample must have a vector, but the files of vectors do not have it"
        why = dict.fromkeys(np.flatnonzero(lost).tolist(), (NO_VECTOR, message)) | dict(found.faults)
        refused = {row: Reject(places[row]["position"], places[row]["key"], *why[row]) for row in sorted(why)}
        vectors = {}
        for tower, values in found.vectors.items():
            vectors[tower] = np.zeros((len(known), values.shape[1]), np.float16)
            vectors[tower][found.rows] = values
        return {**commit_vectors(self.out, item, vectors, refused), "unused": 0}

    def part(self, part: VectorPart, repeated: int, first: int, unused: int) -> Summary:
        told: Summary = {"rows": 0, "kept": 0, "rejects": {}, "unused": unused}
        return {**told, "again": [repeated, first]} if repeated else told


class _Repeats:
    """Hears of rows whose name an earlier row has: how many, and the first, as (number of its part, row)."""

    def __init__(self) -> None:
        self.count = 0
        self.first: tuple[int, int] | None = None

    def __call__(self, index: int, summary: Summary) -> None:
        """See totals.Told."""
        match summary.get("again"):
            case [int(count), int(first)]:
                self.count += count
                self.first = min(self.first or (index, first), (index, first))
