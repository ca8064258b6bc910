"""The distance of each sample to the centroid of its cluster, as the value of a cut."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import scattered
from winnow.pipeline.keep_top import Rows
from winnow.pipeline.stage import ShardItem
from winnow.stages.clusters.clusters import Members
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.survivors import Survivors


@dataclass(frozen=True)
class MemberDistance:
    """Value: the distance of a sample to its centroid, the metric of Sorscher et al. 2022. Group: its cluster.

    keep: which samples have the highest values: the farthest (hard), the nearest (easy), or a random order by a hash of
    uid and seed (random).
    """

    survivors: Survivors
    clusters: Artifact
    keep: Literal["hard", "easy", "random"]
    seed: int

    def rows(self, item: ShardItem) -> Rows:
        """See Source.rows."""
        members = Members.read(self.clusters, item.index)
        uids = self.survivors.uids(item.index)
        group = np.full(len(uids), -1, np.int32)  # -1: out before, so it cannot stay
        group[members.rows] = members.cluster
        value = np.zeros(len(uids), np.float32)
        value[members.rows] = {
            "hard": lambda: members.distance,
            "easy": lambda: -members.distance,
            "random": lambda: hash_values(uids[members.rows], self.seed),
        }[self.keep]()
        return Rows(value, group, uids, item.index, column="distance")

    def columns(self, item: ShardItem, rows: Rows) -> Mapping[str, pa.Array]:
        """See Source.columns."""
        members = Members.read(self.clusters, item.index)
        length = len(rows.value)
        return {
            "cluster": scattered(members.cluster, members.rows, length),
            "distance": scattered(members.distance, members.rows, length),
        }
