"""Opens a finished job from its record and artifacts, for commands that read it.

It needs none of the job's other inputs: weights, target sets and files of scores may be gone by now.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow.compute as pc

from winnow.jobs.job_file.job import Job, parse
from winnow.jobs.run import job_url
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_table
from winnow.pipeline.columns import column
from winnow.pipeline.errors import DataError
from winnow.stages.columns.column import COLUMN
from winnow.stages.columns.laying import fields_of
from winnow.stages.cuts.contract.findings import reading
from winnow.stages.cuts.contract.finished import FinishedCut, Readable, RowSample
from winnow.stages.cuts.cut import Cut, names_of
from winnow.stages.pool_field import FIELD, Field
from winnow.stages.results.record import artifacts_of, record_of
from winnow.stages.survivors import Survivors

_UNNAMED = ("pool", "samples", "distinct", "manifest", "shards")  # labels in a record that are not cuts
VECTORS = "vectors"
"""The first part of the label of an encoder's vectors in a record."""


@dataclass(frozen=True)
class Finished:
    """A job that has finished. counts: from its record. artifacts: of every stage, by label, in order."""

    job: Job
    counts: Mapping[str, Any]
    artifacts: Mapping[str, Artifact]
    sample: RowSample

    @property
    def places(self) -> Artifact:
        """The artifact of the samples: one row for each that can be read."""
        return self.artifacts["samples"]

    @property
    def encoded(self) -> tuple[tuple[str, Artifact], ...]:
        """The artifact of each encoder's vectors, by the encoder's name."""
        labels = [(*label.partition("."), made) for label, made in self.artifacts.items()]
        return tuple((name, made) for stage, _, name, made in labels if stage == VECTORS and name)

    @property
    def distinct(self) -> Artifact:
        """Which readable samples are the first with their uid; the others are rejects."""
        return self.artifacts["distinct"]

    @property
    def manifest(self) -> Artifact:
        """One row for each sample."""
        return self.artifacts["manifest"]

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of the pool that the job names, and its computed columns."""
        brought = [Field(name, self.artifacts[f"{FIELD}.{name}"]) for name in self.job.pool.fields]
        return (*brought, *self.columns)

    @property
    def columns(self) -> tuple[Field, ...]:
        """The computed columns of the job."""
        return fields_of(self.job.columns, [self.artifacts[f"{COLUMN}.{name}"] for name in self.job.columns])

    @property
    def cuts(self) -> tuple[FinishedCut, ...]:
        """The cuts of the policy, in order."""
        found: list[FinishedCut] = []
        before = self._before(self.distinct)
        names = [label for label in self.artifacts if "." not in label and label not in _UNNAMED]
        for place, (name, options) in enumerate(zip(names, self.job.policy, strict=True)):
            found.append(self._cut(name, options, before, f"policy.{place}.{options.kind}"))
            before = replace(before, last=self.artifacts[name])
        return tuple(found)

    @property
    def judged(self) -> tuple[FinishedCut, ...]:
        """The cuts of the policy, in order, and before each of them those of its list."""
        return tuple(one for cut in self.cuts for one in (*self._parts(cut), cut))

    def _cut(self, name: str, options: Cut, before: Survivors, path: str, part_of: str | None = None) -> FinishedCut:
        prefix = f"{name}."
        prepared = {k.removeprefix(prefix): made for k, made in self.artifacts.items() if k.startswith(prefix)}
        return FinishedCut(name, options, before, self.artifacts[name], prepared, self.samples, path, part_of)

    def _parts(self, cut: FinishedCut) -> Iterator[FinishedCut]:
        nested = cut.options.nested()
        for place, (name, options) in enumerate(zip(names_of(nested), nested, strict=True)):
            path = f"{cut.path}.{place}.{options.kind}"
            yield self._cut(f"{cut.name}.{name}", options, cut.before, path, cut.name)

    @property
    def survivors(self) -> Survivors:
        """The samples that remain after every cut."""
        last = self.cuts[-1].artifact if self.job.policy else self.distinct
        return self._before(last)

    def _before(self, last: Artifact) -> Survivors:
        return Survivors(self.places, last, self.job.pool.reader, self.encoded, fields=self.fields)

    @property
    def readable(self) -> int:
        """Number of samples of the pool that are not rejects."""
        return int(self.counts["pool"] - sum(self.counts["rejected"].values()))

    @property
    def samples(self) -> Readable:
        """The readable samples, and the sample of them that checks look at."""
        return Readable(self.places, self.readable, self.sample)


def read_finished(store: str, name: str, sample: RowSample) -> tuple[Finished, tuple[storage.Identity, ...]]:
    """The finished job of this name in a store, and its input shards.

    Raises JobError for a job that is missing or never finished, DataError for a damaged record, StorageError if the
    list of shards is gone.
    """
    store = storage.absolute(store.rstrip("/"))
    with reading(job_url(store, name)):
        record = record_of(store, name)
        job, counts = parse(record["job"]), {**record["counts"]}
        artifacts = artifacts_of(store, record)
        finished = Finished(replace(job, store=store), counts, artifacts, sample)
        finished.judged, finished.readable, finished.manifest  # noqa: B018  # each raises where the record lacks it
    return finished, _shards(artifacts["pool"])


def _shards(pool: Artifact) -> tuple[storage.Identity, ...]:
    url = pool.file("shards.parquet")
    table = read_table(url, ["shard", "url", "size", "stamp"])
    with reading(url):
        numbers = column(table, "shard")
        if not np.array_equal(numbers, np.arange(len(numbers))) or pc.count_distinct(table["url"]).as_py() < len(table):
            raise DataError(f"{url} must list every shard once, in order")
        rows = cast(list[dict[str, Any]], table.to_pylist())
    return tuple(storage.Identity(row["url"], row["size"], row["stamp"]) for row in rows)
