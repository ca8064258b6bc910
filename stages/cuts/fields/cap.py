"""The cut `cap`: at most so many samples of one group, such as a domain, a language or a licence."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import JobError
from winnow.pipeline.stage import Run, ShardItem, Stage, artifact_of
from winnow.stages.clusters.clustered import CLUSTER_FILES, CLUSTERS, check_clusters
from winnow.stages.clusters.clusters import ClustersOption, clusters_of
from winnow.stages.cuts.contract.explained import Asked, Explained
from winnow.stages.cuts.contract.findings import Findings, looked, met, over, unequal, violated_rows
from winnow.stages.cuts.contract.finished import Check, Contents, CutRows, FinishedCut
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.orders import Ranking
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.fields.capping import CapStage, GroupValues
from winnow.stages.cuts.fields.groups import ClusterGroups, Counting, FieldGroups, GroupStage
from winnow.stages.survivors import Survivors

_PART_ROWS = 2_000_000  # samples of one part of the exchange: about 60 bytes each


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Cap(Cut):
    """Keep at most `most` samples of each group.

    by: the field of the pool whose equal values are a group. domain: the field is a link, and its registered domain is
    the group. clusters: k, or known centroids: the group is the cluster of the image vector, and `by` is the encoder;
    iterations and sample_per_cluster: of k-means. Which samples of a group stay: those of the lowest hash of uid and
    seed, or those with the highest (keep: lowest) value of a field or of the image-text cosine of encoder `similarity`;
    a sample without a value is last.
    missing: whether a sample without a group stays or goes.
    """

    by: str
    most: int = Field(ge=1)
    domain: bool = False
    field: str | None = None
    similarity: str | None = None
    keep: Literal["highest", "lowest"] = "highest"
    missing: Literal["keep", "drop"] = "keep"
    clusters: ClustersOption | None = None
    iterations: int = Field(default=100, ge=1)
    sample_per_cluster: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    kind: ClassVar[str] = "cap"

    def __post_init__(self) -> None:
        if self.field is not None and self.similarity is not None:
            raise JobError("cap must order a group by one of field and similarity, got both")
        if self.keep == "lowest" and self.field is None and self.similarity is None:
            raise JobError("cap.keep must be of a field or a similarity, got keep: lowest alone; name one of the two")
        if self.domain and self.clusters is not None:
            raise JobError("cap groups by a registered domain or by clusters, got both; leave one of the two out")

    def encoders(self) -> tuple[str, ...]:
        """See Cut.encoders; without clusters `by` is a field."""
        named = (self.by if self.clusters is not None else None, self.similarity)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def check(self, given: Given) -> None:
        """See Cut.check: `by` and `field` are fields of the pool, `similarity` an encoder with text."""
        if self.clusters is None:
            given.check_field("cap.by", self.by)
        else:
            given.check_encoder(self.kind, self.by)
        if self.field is not None:
            given.check_field("cap.field", self.field)
        if self.similarity is not None:
            given.check_encoder("cap.similarity", self.similarity)
            given.check_text("cap.similarity", self.similarity)

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The clusters, if they are the groups; the groups and their sizes; then the cut."""
        first: list[Stage] = []
        if self.clusters is not None:
            how = self.iterations, self.sample_per_cluster, self.seed
            first = [clusters_of(survivors, self.by, self.clusters, *how)]
        groups = self.groups(survivors, artifact_of(first[0], store) if first else None)
        values = self._values(survivors)
        return [*first, groups, CapStage(survivors, artifact_of(groups, store), values, self.most, self.missing)]

    def groups(self, survivors: Survivors, clusters: Artifact | None) -> GroupStage:
        """The stage that counts the groups. clusters: None if a field is the group."""
        if clusters is not None:
            return GroupStage(survivors, ClusterGroups(clusters), self.most)
        return GroupStage(survivors, FieldGroups(survivors.field_named(self.by), self.domain), self.most)

    def groups_again(self, cut: FinishedCut) -> GroupStage:
        """`groups` of a finished cut."""
        return self.groups(cut.before, cut.prepared.get(CLUSTERS))

    def _values(self, survivors: Survivors) -> GroupValues:
        field = None if self.field is None else survivors.field_named(self.field)
        return GroupValues(survivors, field, self.similarity, self.keep, self.seed)

    def shown(self) -> Shown:
        """See Cut.shown."""
        group = "registered domain" if self.domain else self.by if self.clusters is None else "cluster"
        return Shown(f"At most {self.most:,} samples of each {group} stay.", "size", f"samples of the same {group}")

    def explain(self, asked: Asked) -> Explained:
        """See Cut.explain: the group, its size, and the sample's rank in it."""
        if asked.values["group"] is None:
            return Explained(facts={"note": f"it has no {self.by}, so it is in no group"})
        note = f"a group of more than {self.most:,} keeps {self.most:,}"
        return Explained(facts={**asked.rank_facts("group_"), "note": note}, decided=f"its group keeps {self.most:,}")

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array]:
        """See Cut.made_again; sizes are counted by a check of the whole pool."""
        groups = self.groups_again(cut).grouping.of(item.index, cut.before.mask(item.index))
        return {"group": groups, "value": pa.array(self._values(cut.before).of(item))}

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterator[Ranking]:
        """See Cut.rankings: one, in the groups that have too many samples."""
        number = column(cut.prepared[GroupStage.name].read(rows.item.index, ["number"]), "number", null=-1)
        yield Ranking(self._values(cut.before).of(rows.item), np.where(rows.before, number, -1), rows.kept)

    def quotas(self, cut: FinishedCut) -> np.ndarray:
        """See Cut.quotas: the same for all."""
        report = cut.prepared[GroupStage.name].done() or {}
        return np.full(cast(int, report["numbers"]), self.most, np.int64)

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """See Cut.checks."""
        return {CLUSTERS: check_clusters, "caps": _caps}

    def contents(self) -> Mapping[str, Contents]:
        """See Cut.contents."""
        return {} if self.clusters is None else CLUSTER_FILES


def _caps(cut: FinishedCut, run: Run) -> Findings:
    """Sizes are those of a new count; small groups stay whole, and samples without a group as `missing` says."""
    groups = cast(Cap, cut.options).groups_again(cut)
    again = _CountAgain(groups, groups.parts(), cut)
    return over(run, _OthersStay(cut), run.items, "caps") + met(run, again, run.items, cut.name)


@plain_dataclass(frozen=True)
class _CountAgain(Counting):
    cut: FinishedCut

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Findings:
        mask, made = self.columns(item, tables)
        sizes = self.cut.artifact.read(item.index, ["size"]), pa.table(made)
        stored, size = (column(table, "size", null=-1) for table in sizes)
        found = unequal(item, f"{self.cut.name}.size", np.arange(len(mask)), size, stored, self.cut.pool.who)
        return looked(sizes=int(mask.sum())) + found


@plain_dataclass(frozen=True)
class _OthersStay:
    cut: FinishedCut

    def __call__(self, item: ShardItem) -> Findings:
        cut, options = self.cut, cast(Cap, self.cut.options)
        groups = cut.prepared[GroupStage.name].read(item.index, ["group", "number"])
        rows = cut.rows(item)
        free = rows.before & np.asarray(groups["number"].is_null())
        named = np.asarray(groups["group"].is_valid())
        wrong = free & (rows.kept != (named | (options.missing == "keep")))
        return violated_rows(
            item,
            np.flatnonzero(wrong),
            lambda row: f"{cut.pool.who(item, row)}: {cut.name} must leave it as it is, for its group is not capped",
        )
