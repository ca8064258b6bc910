"""Checks stored vectors that another program made: those of a sample of rows are joined and compared again."""

from dataclasses import dataclass

import numpy as np

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, matrix
from winnow.pipeline.stage import Run, ShardItem
from winnow.stages.cuts.contract.findings import Findings, looked, met, reading, unequal
from winnow.stages.cuts.contract.finished import Readable
from winnow.stages.encoders.brought.joined import JoinedVectors
from winnow.stages.encoders.brought.vector_join import FoundVectors, VectorJoin
from winnow.stages.encoders.brought.vector_parts import VectorPart


def check_vectors(stage: JoinedVectors, made: Artifact, pool: Readable, run: Run) -> Findings:
    """Check that drawn rows have the vectors that the files have for them, and that those without one are rejects."""
    found = stage.join(run)
    names, towers = stage.names, len(stage.files.towers)
    parts = found.exchange_parts(pool.count, towers)
    settled = _Compare(stage, made, pool)
    work = VectorJoin(stage.survivors, stage.files, names, settled, found.width, parts, pool.sample, pool.count)
    items: list[ShardItem | VectorPart] = [*run.items, *found.parts]
    return met(run, work, items, stage.label)


@dataclass(frozen=True)
class _Compare:
    """Compares what the files have with what is stored."""

    stage: JoinedVectors
    made: Artifact
    pool: Readable

    def shard(self, item: ShardItem, found: FoundVectors) -> Findings:
        with reading(item.url):
            names = self.stage.names.of_pool(self.stage.survivors, item)
            drawn = np.flatnonzero(self.pool.sample.mask(names, self.pool.count))
            stored = self.made.read(item.index)
            sound = np.zeros(len(names), bool)
            sound[found.rows] = True
            sound[list(found.faults)] = False
            checked, who = looked(vectors=len(drawn)), self.pool.who
            checked += unequal(item, f"{self.made.name}: kept", drawn, sound[drawn], column(stored, "kept")[drawn], who)
            for tower, values in found.vectors.items():
                there = matrix(stored[tower])[found.rows]
                checked += unequal(item, f"{self.made.name}: {tower}", found.rows, values, there, who)
            return checked

    def part(self, part: VectorPart, repeated: int, first: int, unused: int) -> Findings:
        return Findings()
