"""Finds the kept sample for each duplicate that the report shows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from winnow.jobs.report.facts import CutFacts
from winnow.jobs.report.samples import ShardRow
from winnow.jobs.report.scan import PAIRS, Pick
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, places_in
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.uid import uids_of


def partners(run: Run, items: Sequence[ShardItem], cut: CutFacts, picks: Iterable[Pick]) -> dict[str, ShardRow]:
    """The places, in these shards, of the samples that the picks duplicate, by uid."""
    wanted = uids_of(pa.array(sorted({pick.other for pick in picks if pick.other}), pa.string()))
    found: dict[str, ShardRow] = {}
    if len(wanted):
        task = _Partners(cut.finished.before.samples, cut.finished.artifact, wanted)
        for _, places in run.each(task, items, "report: pairs"):
            found |= places
    return found


@dataclass(frozen=True)
class _Partners:
    samples: Artifact
    verdicts: Artifact
    wanted: np.ndarray

    def __call__(self, item: ShardItem) -> dict[str, ShardRow]:
        uids = self.samples.read(item.index, ["uid"])["uid"]
        stays = column(self.verdicts.read(item.index, ["kept"]), "kept")
        rows = np.flatnonzero((places_in(self.wanted, uids_of(uids)) >= 0) & stays).tolist()
        return {uids[row].as_py(): (item.index, row) for row in rows}


def pairs_of(picks: Iterable[Pick], places: Mapping[str, ShardRow]) -> list[tuple[Pick, ShardRow]]:
    """The first picks whose better sample was found, each with that sample's place."""
    return [(pick, places[pick.other]) for pick in sorted(picks) if pick.other in places][:PAIRS]
