"""The cut `duplicates`: keeps the best of all samples with the same bytes or caption, or nearly the same vector.

Exact duplicates are found over the whole pool by the hash of the image bytes or of the caption. Semantic duplicates
(SemDeDup, Abbas et al. 2023, arXiv 2303.09540) are found among the rest, by `stages/cuts/semantic/fixpoint.py`. The
executor's exchange brings rows together that must be compared, so no table passes through the driver.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field as plain_field
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import split_table
from winnow.pipeline.errors import JobError
from winnow.pipeline.fingerprint import IF_GIVEN
from winnow.pipeline.order import key_places, key_uids, keys_from_bytes, keys_to_bytes, order_keys
from winnow.pipeline.stage import Run, ShardItem, Stage, Summary, artifact_of
from winnow.pipeline.uid import uids_from_bytes, uids_to_bytes
from winnow.stages.clusters.clustered import CLUSTER_FILES, CLUSTERS, check_clusters
from winnow.stages.clusters.clusters import ClustersOption, clusters_of
from winnow.stages.cuts.contract.explained import Asked, Explained, at_most
from winnow.stages.cuts.contract.findings import Findings
from winnow.stages.cuts.contract.finished import Check, Contents, CutRows, FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.orders import Ranking
from winnow.stages.cuts.contract.shown import PairGallery, Shown
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.keeping import funnel
from winnow.stages.cuts.semantic.against.checked import check_against
from winnow.stages.cuts.semantic.against.near import NearOther
from winnow.stages.cuts.semantic.against.other_job import Against, other_job
from winnow.stages.cuts.semantic.against.same import SameAsOther
from winnow.stages.cuts.semantic.compare import quality_of
from winnow.stages.cuts.semantic.fixpoint import Method, SemanticStage
from winnow.stages.cuts.semantic.naming import DUPLICATES, commit_duplicates
from winnow.stages.cuts.semantic.repeats import Dropping, check_dropping
from winnow.stages.cuts.semantic.sameness import What, hashes_of
from winnow.stages.survivors import Survivors, Tower

_PART_ROWS = 2_000_000  # rows (hash, key) of one part: 52 bytes each
_PROBES = 2
_CAPTION: What = "caption"
_EXACT = "exact"


def _exact(value: object) -> object:
    if value is True or value is False or value == _CAPTION:
        return value
    raise ValueError("must be true, false or caption")  # for Literal 1 is True


Exact = Annotated[Literal[True, False, "caption"], BeforeValidator(_exact)]
"""The option `exact`: compare bytes, nothing, or captions."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Duplicates(Cut):
    """Keep one of every set of duplicates.

    exact: compare image bytes, or with `caption` the captions, letter by letter; false compares neither. epsilon: also
    drop a sample whose vector has a cosine above 1 - epsilon with that of a kept one (SemDeDup keeps 63 % of LAION-440M
    at 0.07); None compares no vectors. by: encoder of the vectors. tower: those of images or of captions. clusters: k
    (50,000 for 440M). method: `greedy` visits all samples in order of quality and compares each with kept ones only;
    `semdedup` is the paper's rule, in which removed samples still remove others. probes: in how many cells beside its
    own a sample is compared; 2 for greedy, 0 for the paper's rule.
    The best sample of a set stays. Quality is the image-text cosine of `by`, if it has one, and then the uid.
    against: compare with the samples that another finished job kept, and not with one another; every pair of vectors is
    compared then, without clusters.
    """

    by: str | None = None
    exact: Exact = True
    epsilon: float | None = None
    clusters: ClustersOption | None = None
    method: Method = "greedy"
    probes: int | None = Field(default=None, ge=0, le=64)
    iterations: int = Field(default=100, ge=1)
    sample_per_cluster: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    tower: Tower = "image"
    against: Against | None = None
    kind: ClassVar[str] = "duplicates"

    def __post_init__(self) -> None:
        if not self.exact and self.epsilon is None:
            raise JobError("duplicates must compare something: set exact: true or caption, or an epsilon")
        if self.against is not None:
            self._check_against(self.against)
        elif self.epsilon is not None and (self.by is None or self.clusters is None):
            raise JobError("duplicates.epsilon compares vectors in clusters: set by (an encoder) and clusters (k) too")
        if self.epsilon is not None and not 0 < self.epsilon < 1:
            raise JobError(
                f"duplicates.epsilon must be between 0 and 1, got {self.epsilon}; SemDeDup uses 0.03 to 0.17"
            )
        if self.method == "semdedup" and self.probes:
            raise JobError(f"method semdedup compares inside one cluster, got probes: {self.probes}; leave it out")

    def _check_against(self, against: Against) -> None:
        if self.epsilon is not None and self.by is None:
            raise JobError("duplicates.epsilon compares vectors: set by (an encoder) too")
        if self.clusters is not None or self.probes is not None or self.method != "greedy":
            raise JobError(
                "duplicates with against compares every pair, got clusters, probes or method; leave them out, and give "
                "them to a second cut duplicates, which compares the samples with one another"
            )
        if not against.job:
            raise JobError("duplicates.against.job must name a job, got an empty name")

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The exact stage, then clusters of the samples that it leaves, then the semantic stage."""
        if self.against is not None:
            return self._stages_against(self.against, survivors, store)
        found: list[Stage] = []
        exact: Artifact | None = None
        if self.exact:
            name = self.kind if self.epsilon is None else _EXACT
            found.append(ExactStage(name, survivors, self.by, self._what))
            exact = artifact_of(found[0], store)
            survivors = replace(survivors, last=exact)
        if self.by is not None and self.epsilon is not None and self.clusters is not None:
            automatic = 0 if self.method == "semdedup" else _PROBES
            probes = automatic if self.probes is None else self.probes
            how = self.iterations, self.sample_per_cluster, self.seed
            clusters = clusters_of(survivors, self.by, self.clusters, *how, probes=probes, tower=self.tower)
            made = artifact_of(clusters, store)
            k = self.clusters if isinstance(self.clusters, int) else 1
            found += [clusters, SemanticStage(survivors, exact, made, self.by, self.epsilon, self.method, probes, k)]
        return found

    def _stages_against(self, against: Against, survivors: Survivors, store: str) -> list[Stage]:
        """The stage by bytes or captions, then that by vectors."""
        by = None if self.epsilon is None else self.by
        other = other_job(against, by, dict(survivors.embedders).get(by or ""))
        if self.exact is True and not other.reader.has_images:
            raise JobError(f"duplicates.exact compares the bytes of images, but the pool of {against.job} has none")
        found: list[Stage] = []
        same: Artifact | None = None
        if self.exact:
            found.append(SameAsOther(self.kind if by is None else _EXACT, survivors, other, self._what))
            same = artifact_of(found[0], store)
            survivors = replace(survivors, last=same)
        if by is not None and self.epsilon is not None:
            found.append(NearOther(survivors, same, other, by, self.epsilon, self.tower))
        return found

    @property
    def _what(self) -> What:
        return _CAPTION if self.exact == _CAPTION else "bytes"

    def shown(self) -> Shown:
        """See Cut.shown."""
        if self.against is not None:
            return Shown("Drops samples that another job kept.", "cosine", "cosine with the sample that it kept")
        return Shown(
            about="Keeps the best sample of every set of duplicates.",
            column="cosine",
            label="cosine with the kept sample",
            pairs=PairGallery("duplicate_of", "If epsilon is too large, these pairs are not duplicates."),
        )

    def check(self, given: Given) -> None:
        """See Cut.check; `exact: true` needs a pool with the bytes of images, `tower: text` an encoder of captions."""
        super().check(given)
        if self.exact is True and not given.images:
            links = "for links use cap with by: a url and most: 1"
            other = "set exact: false and an epsilon" if given.encoders else links
            raise JobError(
                f"duplicates.exact compares the bytes of images, but this pool has none; {other}, or exact: caption"
            )
        if self.tower == "text" and self.by is not None:
            given.check_text(self.kind, self.by)

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain: the cosine with the better sample, if vectors were compared."""
        cosine, repeats = asked.values["cosine"], asked.values["duplicate_of"]
        if self.against is not None:
            where = f"kept by {self.against.job} of {self.against.store}"
            note = f"it repeats no sample {where}" if repeats is None else f"it repeats {repeats}, {where}"
            near = self.epsilon is not None and cosine is not None and cosine < 1
            return Explained((at_most("cosine", cosine, 1 - (self.epsilon or 0)),) if near else (), {"note": note})
        if cosine is None:
            near = f"no sample that it was compared with has the same {self._what}"
            if self.epsilon is not None:
                near = f"no better sample that it was compared with has a cosine above {1 - self.epsilon:g}"
            note = f"{near}; the cosine of the nearest one is not stored"
            return Explained(facts={"note": note})
        if self.epsilon is None or cosine >= 1:
            note = f"the same {self._what}, or the same vector, as a better sample"
            return Explained(facts={"note": note}, repeats=repeats)
        return Explained((at_most("cosine", cosine, 1 - self.epsilon),), repeats=repeats)

    def contents(self) -> Mapping[str, Contents]:
        """See Cut.contents."""
        return {} if self.against is not None else CLUSTER_FILES

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """See Cut.checks."""
        return {CLUSTERS: _check_clusters, cls.kind: _check_droppings}

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again: `checks` compares its columns with those of the samples that they name."""
        return {}

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterable[Ranking]:
        """See Cut.rankings: sets of duplicates have no common order."""
        return ()


def _check_clusters(cut: FinishedCut, run: Run) -> Findings:
    """Check the clusters, which are of the samples that the exact stage leaves."""
    return check_clusters(cut, run, cut.prepared.get(_EXACT))


def _check_droppings(cut: FinishedCut, run: Run) -> Findings:
    """Check what the exact stage dropped, then what the semantic stage dropped."""
    options, exact = cast(Duplicates, cut.options), cut.prepared.get(_EXACT)
    if options.against is not None:
        return check_against(cut, run, _EXACT)
    found = Findings()
    if exact is not None:
        found += check_dropping(run, Dropping(cut, exact, what=options._what))
    limit = None if options.epsilon is None else 1.0 - options.epsilon
    last = Dropping(
        cut, cut.artifact, options.by, limit, exact, options.method == "semdedup", options._what, options.tower
    )
    return found + check_dropping(run, last)


@plain_dataclass(frozen=True)
class ExactStage:
    """Keeps one of every set of samples with the same image bytes, or caption: the best, then the smallest uid."""

    name: str
    survivors: Survivors
    by: str | None
    what: What = plain_field(default="bytes", metadata=IF_GIVEN)
    version: ClassVar[int] = 1

    def make(self, run: Run, out: Artifact) -> Summary:
        """One exchange by the hash of the image bytes, or of the caption."""
        parts = max(1, -(-self.survivors.count() // _PART_ROWS))
        return funnel(run.exchange(_Exact(self, out, parts), self.name, out))


@plain_dataclass(frozen=True)
class _Exact:
    stage: ExactStage
    out: Artifact
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        survivors = self.stage.survivors
        rows = np.flatnonzero(survivors.mask(item.index))
        hashes = hashes_of(survivors, item.index, self.stage.what).take(pa.array(rows))
        quality = quality_of(survivors, self.stage.by, item.index)[rows]
        keys = order_keys(quality, survivors.uids(item.index)[rows], item.index, rows)
        table = pa.table({"image_hash": hashes, "key": keys_to_bytes(keys)})
        part = uids_from_bytes(hashes)["f0"] % np.uint64(self.parts)
        return split_table(table, part.astype(np.int64))

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        table = pa.concat_tables(tables)
        hashes, keys = uids_from_bytes(table["image_hash"]), keys_from_bytes(table["key"])
        order = np.lexsort((keys, hashes["f1"], hashes["f0"]))  # by hash, the best first
        hashes, keys = hashes[order], keys[order]
        first = np.r_[True, hashes[1:] != hashes[:-1]]
        best = keys[first][np.cumsum(first) - 1]  # (n,): the best of each row's set
        shard, row = key_places(keys[~first])
        columns = [pa.array(row), uids_to_bytes(key_uids(best[~first])), pa.array(np.ones(len(row), np.float32))]
        found = pa.table(columns, schema=DUPLICATES)
        return split_table(found, shard)

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        return commit_duplicates(self.out, item, self.stage.survivors.mask(item.index), tables)
