"""Checks what `duplicates` with `against` dropped: the answers of the other job are computed again and compared."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import WinnowError
from winnow.pipeline.fingerprint import canonical
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.uid import UID, uids_from_bytes, uids_to_hex
from winnow.stages.cuts.contract.findings import Findings, looked, met, over, unequal
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.cuts.semantic.against.near import NearOther, Span, blocks_of, nearest_of, spans_of
from winnow.stages.cuts.semantic.against.other_job import OtherBlock, OtherJob, OtherShard
from winnow.stages.cuts.semantic.against.same import Same, SameAsOther, parts_of


def check_against(cut: FinishedCut, run: Run, first: str) -> Findings:
    """Compare with the other job again, if it is still there and what it was. first: the stage before the last."""
    gone = Findings(notes=(f"{cut.name}: the other job is not what it was, so what repeats it is not checked",))
    try:
        stages = cut.options.stages(cut.before, "")
    except WinnowError:
        return gone
    found = Findings()
    for stage in stages:
        made = cut.artifact if stage is stages[-1] else cut.prepared[first]
        if not isinstance(stage, SameAsOther | NearOther) or not _is_that_of(stage.other, made):
            return gone
        if isinstance(stage, SameAsOther):
            found += check_same(stage, cut, made, run)
        else:
            survivors = replace(cut.before, last=cut.prepared[first]) if stage.same else cut.before
            found += check_near(replace(stage, survivors=survivors), cut, run)
    return found


def _is_that_of(other: OtherJob, made: Artifact) -> bool:
    """Whether the other job is still the one that an artifact was compared with."""
    config = cast(Mapping[str, Any], (made.done() or {}).get("config", {}))
    return config.get("other") == canonical(other)


def check_same(stage: SameAsOther, cut: FinishedCut, made: Artifact, run: Run) -> Findings:
    """Check that exactly the samples that repeat a kept one of the other job are dropped, each for the right one."""
    work = Same(stage.survivors, stage.other, stage.what, _Compare(cut, made), parts_of(stage.survivors, stage.other))
    items: list[ShardItem | OtherShard] = [*run.items, *stage.other.shards(len(run.items))]
    return met(run, work, items, made.stage)


@dataclass(frozen=True)
class _Compare:
    cut: FinishedCut
    made: Artifact

    def shard(self, item: ShardItem, repeats: pa.Table) -> Findings:
        before = self.cut.before.mask(item.index)
        rows = np.flatnonzero(before)
        named = np.zeros(len(before), UID)
        named[column(repeats, "row")] = uids_from_bytes(repeats["duplicate_of"])
        return looked(samples=len(rows)) + _names(self.cut, self.made, item, rows, named[rows])

    def other(self) -> Findings:
        return Findings()


def _names(cut: FinishedCut, made: Artifact, item: ShardItem, rows: np.ndarray, named: np.ndarray) -> Findings:
    """Check whom rows name, "" for a sample that stays. named: uids (m,), zero for none."""
    none = (named["f0"] == 0) & (named["f1"] == 0)
    expected = np.where(none, "", np.array(uids_to_hex(named), str) if len(named) else np.empty(0, str))
    table = made.read(item.index, ["kept", "duplicate_of"])
    stored = np.array(table["duplicate_of"].fill_null("").to_pylist(), str)[rows] if len(table) else expected
    found = unequal(item, f"{cut.name}.duplicate_of", rows, expected, stored, cut.pool.who)
    return found + unequal(item, f"{cut.name}.kept", rows, expected == "", column(table, "kept")[rows], cut.pool.who)


def check_near(stage: NearOther, cut: FinishedCut, run: Run) -> Findings:
    """Check a sample of the rows: those dropped name the nearest sample of the other job, those kept have none."""
    blocks = tuple(blocks_of(run, stage.other))
    check = _CheckSpan(stage, cut, blocks)
    return over(run, check, spans_of(run, run.items, stage.survivors.count()), f"{cut.name}: against")


@dataclass(frozen=True)
class _CheckSpan:
    stage: NearOther
    cut: FinishedCut
    blocks: tuple[OtherBlock, ...]

    def __call__(self, span: Span) -> Findings:
        stage, cut, checked = self.stage, self.cut, Findings()
        rows = {
            item: np.intersect1d(cut.pool.sampled(item.index), np.flatnonzero(stage.survivors.mask(item.index)))
            for item in span.shards
        }
        limit = 1.0 - stage.epsilon
        found = nearest_of(stage.survivors, stage.other, stage.by, stage.tower, limit, self.blocks, rows)
        for item, (best, named) in found.items():
            at = rows[item]
            checked += looked(samples=len(at)) + _names(cut, cut.artifact, item, at, named)
            stored = column(cut.artifact.read(item.index, ["cosine"]), "cosine", null=0)[at]
            checked += unequal(item, f"{cut.name}.cosine", at, best.astype(np.float32), stored, cut.pool.who)
        return checked
