"""Whether scores are those of the stored vectors, and what each cut says of a sample those of its scores.

Each row by itself in float64, so every number must be equal to the last bit.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.jobs.verify.findings import Findings, looked, of_shard, over, told
from winnow.jobs.verify.finished import Finished, FinishedCut
from winnow.pipeline import storage
from winnow.pipeline.artifact import read_table
from winnow.pipeline.columns import column, scattered
from winnow.pipeline.order import reversed_order
from winnow.pipeline.stage import Run, ShardItem
from winnow.stages.clusters.clusters import Members, read_centroids
from winnow.stages.cuts.coverage import stratum_of
from winnow.stages.cuts.normsim import GRAM, largest, lengths
from winnow.stages.cuts.rules import broken_rules
from winnow.stages.cuts.target import read_target
from winnow.stages.kernels.kmeans import assign_near
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.survivors import Survivors

_SIMILARITY = ".similarity"


def similarity(job: Finished, run: Run) -> Findings | None:
    """Image-text cosines are those of the stored vectors, for a sample of the pool."""
    if not any(name.endswith(_SIMILARITY) for item in run.items[:1] for name in job.embeddings.columns(item.index)):
        return None
    return over(run, partial(_similarity_of, job), run.items, "similarity")


def _similarity_of(job: Finished, item: ShardItem) -> Findings:
    rows = job.sampled(item.index)
    found = looked(samples=len(rows))
    for name in job.embeddings.columns(item.index):
        if not name.endswith(_SIMILARITY):
            continue
        towers = [
            job.survivors.vectors(item.index, item.url, name.removesuffix(_SIMILARITY), tower, rows).astype(np.float64)
            for tower in ("image", "text")
        ]
        # products of float16 are exact in float64, and so are their sums over unit vectors
        made = (towers[0] * towers[1]).sum(axis=1).astype(np.float32)
        found += _unequal(job, item, name, rows, made, column(job.embeddings.read(item.index, [name]), name)[rows])
    return found


def _unequal(
    job: Finished, item: ShardItem, what: str, rows: np.ndarray, made: np.ndarray, stored: np.ndarray
) -> Findings:
    """A violation for each of rows (m,) whose number as made (m, …) anew is not the stored one (m, …)."""
    differs = made != stored
    at = np.flatnonzero(differs.any(axis=tuple(range(1, differs.ndim))))
    by_row = dict(zip(rows[at].tolist(), at.tolist(), strict=True))

    def say(row: int) -> str:
        wanted, seen = made[by_row[row]].tolist(), stored[by_row[row]].tolist()
        return f"{job.who(item, row)}: {what} must be {wanted!r}, but is {seen!r}"

    return told(item, rows[at], say)


def clusters(job: Finished, run: Run) -> Findings | None:
    """Clusters hold what was still in; a sample's nearest centroids and its distance are as stored."""
    found: Findings | None = None
    for cut in job.cuts:
        label = f"{cut.name}.clusters"
        if label in job.artifacts:
            more = over(run, partial(_clusters_of, job, cut, label), run.items, label)
            found = more if found is None else found + more
    return found


def _clusters_of(job: Finished, cut: FinishedCut, label: str, item: ShardItem) -> Findings:
    artifact = job.artifacts[label]
    last = job.artifacts.get(f"{cut.name}.exact", cut.before.last)
    survivors = Survivors(job.embeddings, last, cut.before.reader)
    members, centroids = Members.read(artifact, item.index), read_centroids(artifact)
    inside = np.flatnonzero(survivors.mask(item.index))
    if not np.array_equal(members.rows, inside):
        return of_shard(item, f"{artifact.name} must have the {len(inside)} rows that were in, but has others")
    chosen = np.flatnonzero(np.isin(members.rows, job.sampled(item.index)))
    rows = members.rows[chosen]
    if not len(rows):  # a shard without vectors has none to compare with the centroids
        return looked(samples=0, centroids=0 if item.index else len(centroids))
    vectors = survivors.vectors(item.index, item.url, cut.options.by, "image", rows)
    probes = np.empty((len(inside), 0), np.int32) if members.probes is None else members.probes
    cluster, distance, near = assign_near(vectors, centroids, probes.shape[1])
    found = looked(samples=len(rows), centroids=0 if item.index else len(centroids))
    found += _unequal(job, item, f"{label}: cluster", rows, cluster, members.cluster[chosen])
    found += _unequal(job, item, f"{label}: distance", rows, distance, members.distance[chosen])
    return found + _unequal(job, item, f"{label}: probes", rows, near, probes[chosen])


def norms(job: Finished, run: Run) -> Findings | None:
    """NormSim of a sample's vectors and the target is as stored."""
    found: Findings | None = None
    for cut in job.cuts:
        if cut.kind == "normsim":
            found = (found or Findings()) + over(run, partial(_norms_of, job, cut), run.items, f"{cut.name}.norms")
    return found


def _norms_of(job: Finished, cut: FinishedCut, item: ShardItem) -> Findings:
    artifact = job.artifacts[f"{cut.name}.norms"]
    stored = artifact.read(item.index, ["value"])
    rows = np.intersect1d(job.sampled(item.index), np.flatnonzero(cut.before.mask(item.index)))
    if not len(rows):
        return looked(samples=0)
    vectors = cut.before.vectors(item.index, item.url, cut.options.by, "image", rows)
    if cut.options.p == 2:
        with storage.open_read(artifact.meta(GRAM)) as file:
            made = lengths(vectors, np.load(file, allow_pickle=False)).astype(np.float32)
    else:
        made = largest(vectors, read_target(job.artifacts[f"{cut.name}.target"]))
    values = column(stored, "value", null=np.nan)[rows]
    return looked(samples=len(rows)) + _unequal(job, item, f"{cut.name}.norms", rows, made, values)


def values(job: Finished, run: Run) -> Findings | None:
    """Every column of every cut is what its scores, clusters, hash or rules give; rules keep what breaks none."""
    cuts = [cut for cut in job.cuts if cut.kind in COLUMNS]
    if not cuts:
        return None
    return over(run, partial(_values_of, job, cuts), run.items, "values")


def _values_of(job: Finished, cuts: list[FinishedCut], item: ShardItem) -> Findings:
    found = Findings()
    for cut in cuts:
        table, before = cut.artifact.read(item.index), pa.array(cut.before.mask(item.index))
        expected = {**COLUMNS[cut.kind](job, cut, item)}
        # what was out before a cut has no value there
        expected = {name: pc.if_else(before, made, pa.scalar(None, made.type)) for name, made in expected.items()}
        if cut.kind == "rules":
            expected["kept"] = pc.and_(before, expected["broken"].is_null())
        for name, made in expected.items():
            found += looked(values=len(made))
            wanted, seen = pa.chunked_array([made]) if isinstance(made, pa.Array) else made, table[name]
            if not wanted.equals(seen):
                rows = [row for row in range(len(seen)) if wanted[row].as_py() != seen[row].as_py()]
                found += told(item, rows, partial(_said, job, item, f"{cut.name}.{name}", wanted, seen))
    return found


def _said(job: Finished, item: ShardItem, what: str, wanted: pa.ChunkedArray, seen: pa.ChunkedArray, row: int) -> str:
    return f"{job.who(item, row)}: {what} must be {wanted[row].as_py()!r}, but is {seen[row].as_py()!r}"


Columns = Mapping[str, pa.Array]


def _cosine(job: Finished, cut: FinishedCut, item: ShardItem) -> Columns:
    return {"cosine": job.embeddings.read(item.index, [f"{cut.options.by}{_SIMILARITY}"]).column(0)}


def _prepared(stage: str, job: Finished, cut: FinishedCut, item: ShardItem) -> Columns:
    """The column `value` of the stage that prepares a cut."""
    return {"value": job.artifacts[f"{cut.name}.{stage}"].read(item.index, ["value"])["value"]}


def _contrast(job: Finished, cut: FinishedCut, item: ShardItem) -> Columns:
    """The mean over the partitions, added in their order."""
    prefix = f"{cut.name}.contrast_"
    parts = sorted(
        (int(label.removeprefix(prefix)), a) for label, a in job.artifacts.items() if label.startswith(prefix)
    )
    value = np.zeros(len(cut.before.mask(item.index)))
    for _, artifact in parts:
        value += column(artifact.read(item.index, ["contrast"]), "contrast", null=0.0)
    return {"contrast": pa.array((value / len(parts)).astype(np.float32))}


def _hash(job: Finished, cut: FinishedCut, item: ShardItem) -> Columns:
    return {"hash": pa.array(hash_values(cut.before.uids(item.index), cut.options.seed))}


def _members(job: Finished, cut: FinishedCut, item: ShardItem) -> Columns:
    members = Members.read(job.artifacts[f"{cut.name}.clusters"], item.index)
    n = len(cut.before.mask(item.index))
    found = {"cluster": members.cluster, "distance": members.distance}
    return {name: scattered(values, members.rows, n) for name, values in found.items()}


def _strata(job: Finished, cut: FinishedCut, item: ShardItem) -> Columns:
    """The score and, where `beta` left the sample, its range of it."""
    [(name, score)] = (_cosine if cut.options.by is not None else partial(_prepared, "scores"))(job, cut, item).items()
    strata = read_table(cut.artifact.meta("strata.parquet"))
    ends, ease = np.concatenate([column(strata, "low"), column(strata, "high")]), np.asarray(score.fill_null(0))
    if cut.options.hardest == "highest":
        ends, ease = reversed_order(ends), reversed_order(ease)
    left = np.asarray(cut.artifact.read(item.index, ["stratum"])["stratum"].is_valid())
    stratum = np.zeros(len(left), np.int32)
    stratum[left] = stratum_of(ease[left], ends.min().item(), ends.max().item(), len(strata))
    return {name: score, "stratum": pa.array(stratum, mask=~left)}


def _rules(job: Finished, cut: FinishedCut, item: ShardItem) -> Columns:
    """The first rule that each sample breaks."""
    table = cut.before.table(item.index, ["caption", "width", "height"])
    first: list[str | None] = [None] * len(table)
    for rule, mask in reversed([*broken_rules(cut.options, table).items()]):
        for row in np.flatnonzero(mask):
            first[row] = rule
    return {"broken": pa.array(first, pa.string())}


COLUMNS: Mapping[str, Callable[[Finished, FinishedCut, ShardItem], Columns]] = {
    "rules": _rules,
    "similarity": _cosine,
    "negclip": _contrast,
    "density": _members,
    "prototypes": _members,
    "coverage": _strata,
    "normsim": partial(_prepared, "norms"),
    "image_based": _members,
    "feature_mapping": _members,
    "random": _hash,
    "score": partial(_prepared, "scores"),
}
"""By kind of cut: its columns made anew, for every row; `duplicates` and `epochs` have checks of their own."""
