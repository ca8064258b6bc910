"""Compares the vectors of every cell and writes links: from each sample to the better samples close to it, best first.

One exchange over the cells (docs/semantic.md). A sample is at home in its own cell and a visitor in the next nearest
ones, so a pair that a border divides is compared too. No vector passes through the driver. The links go back to the
shards of their samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, shard_name, write_table
from winnow.pipeline.columns import column, matrix, split_rows, split_table, vector_column
from winnow.pipeline.fingerprint import IF_GIVEN
from winnow.pipeline.order import KEY, key_places, keys_from_bytes, keys_to_bytes, order_keys
from winnow.pipeline.stage import ShardItem, Summary
from winnow.stages.clusters.clusters import Members, read_centroids
from winnow.stages.cuts.semantic.buckets import Buckets
from winnow.stages.cuts.semantic.state import (
    CUT_OFF,
    KEPT,
    LINKS,
    REMOVED,
    STATE,
    WAITING,
    read_links,
    read_state,
    statuses,
    write_state,
)
from winnow.stages.kernels.close_pairs import close_pairs
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.survivors import Survivors, Tower

_BORDER = 1e-3  # added to the distance limit of visits, so that no rounding can prevent a visit that is needed


@dataclass(frozen=True)
class Closeness:
    """Which vectors are compared, when two are close, and which of two samples is better.

    clusters: artifact of the clusters, with `probes` if samples visit other cells. order: `quality` puts the highest
    image-text cosine first, `distance` the farthest from its centroid. most: links that a sample keeps at a time.
    """

    survivors: Survivors
    clusters: Artifact
    by: str
    epsilon: float
    order: str
    most: int
    tower: Tower = field(default="image", metadata=IF_GIVEN)


@dataclass(frozen=True)
class Compare:
    """The exchange of one step. target: folder where it writes the links and the state that follows from them.

    links, state: folders of the links and of the state before this step. Both are None in the first step, in which
    every sample looks for links. In later steps only CUT_OFF samples look for more, among samples not REMOVED.
    cells: bool (k,), the cells in which a CUT_OFF sample appears; None for all.
    """

    what: Closeness
    buckets: Buckets
    target: str
    links: str | None = None
    state: str | None = None
    cells: np.ndarray | None = None

    @property
    def parts(self) -> int:
        """Number of parts."""
        return self.buckets.parts

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        """Send key and vector of every sample to the buckets of its own cell and of the cells that it visits."""
        what = self.what
        members = Members.read(what.clusters, item.index)
        uids = what.survivors.uids(item.index)[members.rows]
        keys = order_keys(_values(what, item.index, members), uids, item.index, members.rows)
        status = statuses(self.state, item.index, members.rows)
        vectors = what.survivors.vectors(item.index, item.url, what.by, what.tower, members.rows)  # (n, d) float16
        sample, cell = appearances(vectors, members, what)  # (a,) each, n <= a <= n (1 + probes)
        wanted = status[sample] != REMOVED
        if self.cells is not None:
            wanted &= self.cells[cell]
        sample, cell = sample[wanted], cell[wanted]
        entry, bucket, side = self.buckets.spread(cell, hash_values(uids, 0)[sample])
        sample, cell = sample[entry], cell[entry]  # (m,), m >= a: in a giant cell a sample is in several buckets
        asks = status[sample] == (WAITING if self.state is None else CUT_OFF)
        split = {}
        for part, at in split_rows(self.buckets.part[bucket]):
            chosen = sample[at]
            columns = {
                "bucket": pa.array(bucket[at]),
                "side": pa.array(side[at]),
                "home": pa.array(cell[at] == members.cluster[chosen]),
                "asks": pa.array(asks[at]),
                # its home, not the cell that it is sent to, because its home decides on it
                "cell": pa.array(members.cluster[chosen]),
                "key": keys_to_bytes(keys[chosen]),
                "vector": vector_column(vectors[chosen]),
            }
            split[part] = pa.table(columns)
        return split

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """Compare the rows of each bucket of a part; return links of samples and questions to samples, by shard."""
        table = pa.concat_tables(tables)
        bucket, keys, cell = column(table, "bucket"), keys_from_bytes(table["key"]), column(table, "cell")
        flags = {name: column(table, name) for name in ("side", "home", "asks")}
        vectors = matrix(table["vector"])  # (m, d) float16
        order = np.lexsort((keys, bucket))  # by bucket, and best first inside
        starts = np.flatnonzero(np.diff(bucket[order], prepend=-1))  # where each bucket begins in `order`
        worse, better, cosine = [], [], []  # of each link: the two rows of the table, and their cosine
        for at in np.split(order, starts[1:]) if len(order) else []:
            across = self.buckets.across(int(bucket[at[0]]))
            side, home, asks = (flags[name][at] for name in ("side", "home", "asks"))
            rows = vectors[at].astype(np.float32)  # (b, d); bucket by bucket, because a whole part would triple memory
            pairs = close_pairs(rows, home, side, asks, across, self.what.epsilon, self.what.most)
            worse.append(at[pairs.worse])
            better.append(at[pairs.better])
            cosine.append(pairs.cosine)
        if not worse:
            return {}
        return _sent_back(keys, cell, np.concatenate(worse), np.concatenate(better), np.concatenate(cosine))

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        """Commit links and state of one shard. A sample without a link is kept."""
        found = pa.concat_tables([LINKS.empty_table(), *tables])
        before = read_state(self.state, item.index)
        # The old links of a CUT_OFF sample all name removed samples, so they go. Questions to it stay: others wait.
        again = column(before.filter(pc.equal(before["status"], CUT_OFF)), "row")
        if self.links is not None:
            earlier = read_links(self.links, item.index)
            dropped = np.isin(column(earlier, "row"), again) & ~column(earlier, "asked")
            found = pa.concat_tables([earlier.filter(pa.array(~dropped)), found])
        links = _first_links(found, self.what.most)
        state = _state_of(links, before, again)
        write_table(storage.join(self.target, "links", shard_name(item.index)), links)
        return {**write_state(self.target, item.index, state), "links": len(links)}


def _values(what: Closeness, index: int, members: Members) -> np.ndarray:
    """The value that orders samples, highest first: float32 (m,)."""
    if what.order == "distance":  # the paper visits a cluster from the farthest sample inwards
        return members.distance
    quality: np.ndarray = quality_of(what.survivors, what.by, index)[members.rows]
    return quality


def quality_of(survivors: Survivors, by: str | None, index: int) -> np.ndarray:
    """Quality, which decides who of a set stays: float32 (n,), the image-text cosine of `by`, or 0 if it has none."""
    found = None if by is None else survivors.similarity(index, by)
    return np.zeros(len(survivors.mask(index)), np.float32) if found is None else found


def appearances(vectors: np.ndarray, members: Members, what: Closeness) -> tuple[np.ndarray, np.ndarray]:
    """The cells in which each sample appears: (index of the sample, cell), int64 (a,) each, homes first.

    A sample visits the cell of a probe only if that cell could hold a sample close to it. The border between centroids
    a (own) and b is the plane ⟨x, a - b⟩ = 0. Everything beyond it is at least ⟨x, a - b⟩ / ‖a - b‖ away from x, and
    unit vectors with ⟨x, y⟩ > 1 - epsilon are less than sqrt(2 epsilon) apart.
    """
    here, n = members.cluster.astype(np.int64), len(members.rows)
    sample, cell = [np.arange(n)], [here]
    if members.probes is None or not n:
        return sample[0], cell[0]
    centroids = _centroids(what.clusters)
    for probe in members.probes.astype(np.int64).T:  # (n, probes) column by column: (n,)
        distance = np.full(n, np.inf)  # to the border; it stays infinite for a probe of -1, which is no cell
        for part in np.array_split(np.flatnonzero(probe >= 0), max(1, n // 256)):  # float64 of 256 rows at a time
            across = centroids[here[part]].astype(np.float64) - centroids[probe[part]]  # (p, d): a - b of each row
            away = np.vecdot(vectors[part].astype(np.float64), across)  # (p,)
            width = np.linalg.norm(across, axis=1)  # 0 for equal centroids, whose cells have no border between them
            distance[part] = np.divide(away, width, out=np.zeros(len(part)), where=width > 0)
        near = np.flatnonzero(distance <= np.sqrt(2 * what.epsilon) + _BORDER)
        sample.append(near)
        cell.append(probe[near])
    return np.concatenate(sample), np.concatenate(cell)


@lru_cache(maxsize=1)
def _centroids(clusters: Artifact) -> np.ndarray:
    """The centroids, read once per process. Without the cache every shard would read them: 100 MB for 50,000."""
    return read_centroids(clusters)


def _sent_back(
    keys: np.ndarray, cell: np.ndarray, worse: np.ndarray, better: np.ndarray, cosine: np.ndarray
) -> Mapping[int, pa.Table]:
    """Links of the samples of each shard, and questions to them: {shard: table of LINKS}."""
    pairs = _links_table(keys, cell, worse, better, cosine, asked=False)
    shard = key_places(keys)[0]
    # One question for each (sample, asking cell), not for each link: a million copies of a picture lie in few cells.
    _, once = np.unique(better * (1 << 32) + cell[worse], return_index=True)
    asked = _links_table(keys, cell, better[once], worse[once], cosine[once], asked=True)
    both = pa.concat_tables([pairs, asked]).combine_chunks()
    of = np.concatenate([shard[worse], shard[better[once]]])
    return split_table(both, of)


def _links_table(
    keys: np.ndarray, cell: np.ndarray, mine: np.ndarray, other: np.ndarray, cosine: np.ndarray, asked: bool
) -> pa.Table:
    columns = [
        pa.array(key_places(keys[mine])[1]),
        keys_to_bytes(keys[mine]),
        pa.array(cell[mine]),
        keys_to_bytes(keys[other]),
        pa.array(cell[other]),
        pa.array(cosine),
        pa.array(np.full(len(mine), asked)),
    ]
    return pa.table(columns, schema=LINKS)


def _first_links(found: pa.Table, most: int) -> pa.Table:
    """Each sample's `most` best links and all questions to it, sorted and without repeats."""
    asked, row, other = column(found, "asked"), column(found, "row"), keys_from_bytes(found["other"])
    cell = np.where(asked, column(found, "other_cell"), 0)
    order = np.lexsort((other, cell, row, asked))
    asked, row, other, cell = asked[order], row[order], other[order], cell[order]
    # A pair may have met in two cells, and a cell may have asked in two parts. Of links, (row, other) must differ; of
    # questions, (row, cell) must.
    again = (row[1:] == row[:-1]) & (asked[1:] == asked[:-1]) & (cell[1:] == cell[:-1])
    again &= asked[1:] | (other[1:] == other[:-1])
    once = order[np.r_[np.ones(min(1, len(order)), bool), ~again]]
    links = once[~column(found, "asked")[once]]
    of = column(found, "row")[links]
    starts = np.searchsorted(of, of)  # (l,): where the links of the same sample begin
    links = links[np.arange(len(links)) - starts < most]
    kept = np.concatenate([links, once[column(found, "asked")[once]]])
    return found.combine_chunks().take(pa.array(kept))


def _state_of(links: pa.Table, before: pa.Table, again: np.ndarray) -> pa.Table:
    """The state after new links: a sample with new links waits, and a CUT_OFF one without is kept. Others stay as is.

    again: int64 (m,), rows that were CUT_OFF.
    """
    own = links.filter(pc.invert(links["asked"]))
    rows, first = np.unique(column(own, "row"), return_index=True)
    at = pa.array(first)
    columns = {
        **{name: own[name].take(at) for name in ("row", "key", "cell")},
        "status": pa.array(np.full(len(rows), WAITING, np.int8)),
        "named": keys_to_bytes(np.zeros(len(rows), KEY)),
        "cosine": pa.array(np.zeros(len(rows), np.float32)),
    }
    new = pa.table(columns, schema=STATE)
    was = column(before, "row")
    # `links` also holds those of samples decided before; only first links, or links of CUT_OFF samples, are new
    fresh = ~np.isin(rows, was) | np.isin(rows, again)
    cut = np.isin(was, again)
    status = np.where(cut, KEPT, column(before, "status")).astype(np.int8)
    old = before.set_column(3, STATE.field("status"), pa.array(status))
    old = old.filter(pa.array(~(cut & np.isin(was, rows))))
    return pa.concat_tables([old, new.filter(pa.array(fresh))]).sort_by("row").combine_chunks()
