"""Leaves `duplicates-…/`: which samples repeat another one, byte for byte or in meaning, and which kept one.

Exact duplicates are found over the whole pool by the hash of the image bytes; semantic ones (SemDeDup, Abbas et al.
2023, arXiv 2303.09540) inside clusters of what is then left. Rows that must be compared are brought together by the
executor's regroup, so no table passes through the driver.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.artifact import Artifact
from pipeline.columns import column, matrix, vector_column
from pipeline.errors import JobError
from pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from pipeline.uid import UID_ARROW, uids_from_bytes, uids_to_bytes
from stages.clusters import Clusters, Members, read_centroids
from stages.cut import funnel, write_kept
from stages.near import Method, repeats
from stages.survivors import Survivors

_PART_ROWS = 2_000_000  # of (hash, uid, place): 60 bytes each
_PART_BYTES = 512 << 20  # of vectors that one worker compares at a time


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Duplicates:
    """Keep one of every set of duplicates.

    exact: compare image bytes. epsilon: also drop a sample whose image vector has a cosine above 1 - epsilon with
    that of a kept one in its cluster (SemDeDup keeps 63 % of LAION-440M at 0.07); None compares bytes only.
    by: encoder of the vectors. clusters: k (50,000 for 440M). method: `greedy` compares with kept samples only, in
    order of quality; `semdedup` is the paper's rule, where removed samples still remove others.
    Quality is the image-text cosine of `by` where it has one, then the uid: the best of a set stays.
    """

    by: str | None = None
    exact: bool = True
    epsilon: float | None = None
    clusters: int | None = Field(default=None, ge=1)
    method: Method = "greedy"
    iterations: int = Field(default=100, ge=1)
    sample_per_cluster: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    kind: ClassVar[str] = "duplicates"

    def __post_init__(self) -> None:
        if not self.exact and self.epsilon is None:
            raise JobError("duplicates must compare something: set exact: true, or an epsilon")
        if self.epsilon is not None and (self.by is None or self.clusters is None):
            raise JobError("duplicates.epsilon compares vectors in clusters: set by (an encoder) and clusters (k) too")
        if self.epsilon is not None and not 0 < self.epsilon < 1:
            raise JobError(
                f"duplicates.epsilon is between 0 and 1, but {self.epsilon} came; SemDeDup's are 0.03 to 0.17"
            )

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The exact stage, then clusters of what it leaves and the semantic stage."""
        found: list[Stage] = []
        if self.exact:
            name = self.kind if self.epsilon is None else "exact"
            found.append(ExactStage(name, survivors, self.by))
            exact: Artifact | None = artifact_of(found[0], store)
            survivors = Survivors(survivors.embeddings, exact, survivors.reader)
        else:
            exact = None
        if self.by is not None and self.epsilon is not None and self.clusters is not None:
            clusters = Clusters(survivors, self.by, self.clusters, self.iterations, self.sample_per_cluster, self.seed)
            made = artifact_of(clusters, store)
            found += [clusters, SemanticStage(survivors, exact, made, self.by, self.epsilon, self.method)]
        return found


def quality_of(survivors: Survivors, by: str | None, index: int) -> np.ndarray:
    """What decides which of a set stays: float32 (n,), image-text cosine of `by`, or zeros where it has none."""
    name = f"{by}.similarity"
    if name not in survivors.embeddings.columns(index):
        return np.zeros(survivors.embeddings.read(index, ["position"]).num_rows, np.float32)
    return column(survivors.table(index, [name]), name)


@plain_dataclass(frozen=True)
class ExactStage:
    """One of every set of samples with the same image bytes stays: the best, then the smallest uid."""

    name: str
    survivors: Survivors
    by: str | None
    version: ClassVar[int] = 1

    def run(self, run: Run, out: Artifact) -> Summary:
        """One regroup by hash of the image."""
        parts = max(1, -(-self.survivors.count() // _PART_ROWS))
        return funnel(run.regroup(_Exact(self, out, parts), self.name))


@plain_dataclass(frozen=True)
class _Exact:
    stage: ExactStage
    out: Artifact
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        survivors = self.stage.survivors
        rows = np.flatnonzero(survivors.mask(item.index))
        table = survivors.table(item.index, ["uid", "image_hash"]).combine_chunks()
        table = table.append_column("quality", pa.array(quality_of(survivors, self.stage.by, item.index)))
        table = _placed(table.take(pa.array(rows)), item.index, rows)
        part = uids_from_bytes(table["image_hash"])["f0"] % np.uint64(self.parts)
        return _split(table, part.astype(np.int64))

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        table = pa.concat_tables(tables).combine_chunks()
        hashes = uids_from_bytes(table["image_hash"])
        order = _best_first(table)
        order = order[np.argsort(hashes[order], kind="stable")]
        first = np.r_[True, hashes[order][1:] != hashes[order][:-1]]
        leader = order[np.flatnonzero(first)][np.cumsum(first) - 1]
        return _verdicts(table, order[~first], leader[~first], np.ones((~first).sum(), np.float32))

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        return _commit(self.out, item, self.stage.survivors.mask(item.index), tables)


@plain_dataclass(frozen=True)
class SemanticStage:
    """Inside every cluster, a sample too close to one that stays is dropped.

    exact: the stage before, whose verdicts are carried on in this artifact; None where bytes are not compared.
    """

    survivors: Survivors
    exact: Artifact | None
    clusters: Artifact
    by: str
    epsilon: float
    method: Method
    name: ClassVar[str] = "duplicates"
    version: ClassVar[int] = 1

    def run(self, run: Run, out: Artifact) -> Summary:
        """One regroup by cluster."""
        vector_bytes = self.survivors.count() * 2 * read_centroids(self.clusters).shape[1]
        parts = max(1, -(-vector_bytes // _PART_BYTES))
        return funnel(run.regroup(_Semantic(self, out, parts), self.name), epsilon=self.epsilon)


@plain_dataclass(frozen=True)
class _Semantic:
    stage: SemanticStage
    out: Artifact
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        stage = self.stage
        members = Members.read(stage.clusters, item.index)
        table = stage.survivors.table(item.index, ["uid"]).combine_chunks().take(pa.array(members.rows))
        vectors = stage.survivors.vectors(item.index, item.url, stage.by, "image", members.rows)
        quality = quality_of(stage.survivors, stage.by, item.index)[members.rows]
        columns = {
            "quality": pa.array(quality),
            "cluster": pa.array(members.cluster),
            "distance": pa.array(members.distance),
            "vector": vector_column(vectors),
        }
        for name, values in columns.items():
            table = table.append_column(name, values)
        return _split(_placed(table, item.index, members.rows), members.cluster.astype(np.int64) % self.parts)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        table = pa.concat_tables(tables).combine_chunks()
        vectors = matrix(table["vector"])
        # the paper goes through a cluster from the farthest sample inwards
        greedy = self.stage.method == "greedy"
        order = _best_first(table, "quality" if greedy else "distance")
        cluster = column(table, "cluster")[order]
        order, cluster = order[np.argsort(cluster, kind="stable")], np.sort(cluster)
        starts = np.flatnonzero(np.r_[True, cluster[1:] != cluster[:-1], True])
        removed, leaders, cosines = [], [], []
        for start, stop in pairwise(starts):
            rows = order[start:stop]
            leader, cosine = repeats(vectors[rows], self.stage.epsilon, self.stage.method)
            lost = np.flatnonzero(leader >= 0)
            removed.append(rows[lost])
            leaders.append(rows[leader[lost]])
            cosines.append(cosine[lost])
        return _verdicts(table, np.concatenate(removed), np.concatenate(leaders), np.concatenate(cosines))

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        if self.stage.exact is None:
            return _commit(self.out, item, self.stage.survivors.mask(item.index), tables)
        earlier = self.stage.exact.read(item.index)
        repeated = np.asarray(earlier["duplicate_of"].is_valid())
        before = column(earlier, "kept") | repeated
        rows = np.flatnonzero(repeated)
        exact = earlier.select(["duplicate_of", "cosine"]).take(pa.array(rows))
        exact = exact.append_column("row", pa.array(rows))
        return _commit(self.out, item, before, [exact, *tables])


def _placed(table: pa.Table, shard: int, rows: np.ndarray) -> pa.Table:
    table = table.append_column("shard", pa.array(np.full(len(rows), shard, np.int64)))
    return table.append_column("row", pa.array(rows.astype(np.int64)))


def _split(table: pa.Table, part: np.ndarray) -> Mapping[int, pa.Table]:
    """Rows of a table by part: int64 (n,) >= 0."""
    order = np.argsort(part, kind="stable")
    found, starts = np.unique(part[order], return_index=True)
    stops = np.r_[starts, len(order)][1:]
    return {int(p): table.take(pa.array(order[a:b])) for p, a, b in zip(found, starts, stops, strict=True)}


def _best_first(table: pa.Table, by: str = "quality") -> np.ndarray:
    """Row order by value descending, then uid, then place: the same for any sharding."""
    uids = uids_from_bytes(table["uid"])
    place = column(table, "row"), column(table, "shard")
    return np.lexsort((*place, uids["f1"], uids["f0"], -column(table, by).astype(np.float64)))


def _verdicts(table: pa.Table, removed: np.ndarray, leaders: np.ndarray, cosine: np.ndarray) -> Mapping[int, pa.Table]:
    """For each shard: row, duplicate_of (uid of the leader) and cosine of what is removed."""
    uids = uids_from_bytes(table["uid"])
    found = pa.table(
        {
            "row": pa.array(column(table, "row")[removed]),
            "duplicate_of": uids_to_bytes(uids[leaders]),
            "cosine": pa.array(cosine.astype(np.float32)),
        }
    )
    return _split(found, column(table, "shard")[removed])


def _commit(out: Artifact, item: ShardItem, before: np.ndarray, tables: Sequence[pa.Table]) -> Summary:
    after = before.copy()
    empty = pa.schema([("row", pa.int64()), ("duplicate_of", UID_ARROW), ("cosine", pa.float32())]).empty_table()
    found = pa.concat_tables([empty, *[table.select(empty.column_names) for table in tables]]).combine_chunks()
    rows = column(found, "row")
    after[rows] = False
    at = np.full(len(before), len(rows))
    at[rows] = np.arange(len(rows))
    index = pa.array(at, mask=at == len(rows))
    columns = {name: found[name].combine_chunks().take(index) for name in ("duplicate_of", "cosine")}
    return write_kept(out, item, before, after, columns)
