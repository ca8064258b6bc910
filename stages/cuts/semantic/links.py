"""Commits `links/` beside a duplicates artifact: for every sample the better ones that it is close to, best first.

One regroup over the cells. A sample is at home in its own cell and a visitor in the next nearest ones, so a pair that
a border divides is compared too. No vector passes through the driver; the pairs that are found go back to the shards
of their samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_table, shard_name, write_table
from winnow.pipeline.columns import column, matrix, places_in, split_rows, vector_column
from winnow.pipeline.order import KEY, KEY_ARROW, key_places, keys_from_bytes, keys_to_bytes, order_keys
from winnow.pipeline.stage import ShardItem, Summary
from winnow.stages.clusters.clusters import Members, read_centroids
from winnow.stages.cuts.semantic.cells import Buckets
from winnow.stages.kernels.near import close_pairs
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.survivors import Survivors

WAITING, KEPT, REMOVED, CUT_OFF = 0, 1, 2, 3
"""What is known of a sample: nothing yet, it stays, it goes, or all that its links name go but there may be more."""

STATE = pa.schema(
    [
        ("row", pa.int64()),
        ("key", KEY_ARROW),
        ("cell", pa.int32()),
        ("status", pa.int8()),
        ("named", KEY_ARROW),
        ("cosine", pa.float32()),
    ]
)
"""One row for each sample of a shard that has a link; `named` is the sample that a removed one duplicates."""

LINKS = pa.schema(
    [
        ("row", pa.int64()),
        ("key", KEY_ARROW),
        ("cell", pa.int32()),
        ("other", KEY_ARROW),
        ("other_cell", pa.int32()),
        ("cosine", pa.float32()),
        ("asked", pa.bool_()),
    ]
)
"""A link of the sample `row` to a better one, `other`; or, where `asked`, from a worse one of that cell to it."""

_BORDER = 1e-3  # slack of the border's distance: more visits than float32 could lose


@dataclass(frozen=True)
class Semantic:
    """What is compared, and how.

    clusters: artifact with `probes` where samples visit. order: `quality` puts the highest image-text cosine first,
    `distance` the farthest from its centroid. most: links that a sample keeps at a time.
    """

    survivors: Survivors
    clusters: Artifact
    by: str
    epsilon: float
    order: str
    most: int


@dataclass(frozen=True)
class Compare:
    """The regroup. target: folder of the links and of the state that follows from them.

    links, state: folders of the links and of the last state before. Samples that are cut off there look for more
    links, among what may still stay; None at first. cells: bool (k,), which cells those are in; None for all.
    """

    what: Semantic
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
        """Every sample for each bucket that it must be in."""
        what = self.what
        members = Members.read(what.clusters, item.index)
        uids = what.survivors.uids(item.index)[members.rows]
        keys = order_keys(_values(what, item.index, members), uids, item.index, members.rows)
        status = statuses(self.state, item.index, members.rows)
        vectors = what.survivors.vectors(item.index, item.url, what.by, "image", members.rows)
        sample, cell = appearances(vectors, members, what)
        wanted = status[sample] != REMOVED
        if self.cells is not None:
            wanted &= self.cells[cell]
        sample, cell = sample[wanted], cell[wanted]
        entry, bucket, side = self.buckets.spread(cell, hash_values(uids, 0)[sample])
        sample, cell = sample[entry], cell[entry]
        asks = status[sample] == (WAITING if self.state is None else CUT_OFF)
        split = {}
        for part, at in split_rows(self.buckets.part[bucket]):
            chosen = sample[at]
            columns = {
                "bucket": pa.array(bucket[at]),
                "side": pa.array(side[at]),
                "home": pa.array(cell[at] == members.cluster[chosen]),
                "asks": pa.array(asks[at]),
                "cell": pa.array(members.cluster[chosen]),
                "key": keys_to_bytes(keys[chosen]),
                "vector": vector_column(vectors[chosen]),
            }
            split[part] = pa.table(columns)
        return split

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """The links of every sample of the part, and whom they ask, by shard."""
        table = pa.concat_tables(tables)
        bucket, keys, cell = column(table, "bucket"), keys_from_bytes(table["key"]), column(table, "cell")
        flags = {name: column(table, name) for name in ("side", "home", "asks")}
        vectors = matrix(table["vector"])
        order = np.lexsort((keys, bucket))
        starts = np.flatnonzero(np.diff(bucket[order], prepend=-1))
        worse, better, cosine = [], [], []
        for at in np.split(order, starts[1:]) if len(order) else []:
            across = self.buckets.across(int(bucket[at[0]]))
            side, home, asks = (flags[name][at] for name in ("side", "home", "asks"))
            rows = vectors[at].astype(np.float32)
            pairs = close_pairs(rows, home, side, asks, across, self.what.epsilon, self.what.most)
            worse.append(at[pairs.worse])
            better.append(at[pairs.better])
            cosine.append(pairs.cosine)
        if not worse:
            return {}
        return _sent_back(keys, cell, np.concatenate(worse), np.concatenate(better), np.concatenate(cosine))

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        """Commit the links of one shard, and the state that follows: who has none stays."""
        found = pa.concat_tables([LINKS.empty_table(), *tables])
        before = read_state(self.state, item.index)
        again = column(before.filter(pc.equal(before["status"], CUT_OFF)), "row")
        if self.links is not None:
            earlier = read_links(self.links, item.index)
            dropped = np.isin(column(earlier, "row"), again) & ~column(earlier, "asked")
            found = pa.concat_tables([earlier.filter(pa.array(~dropped)), found])
        links = _first_links(found, self.what.most)
        state = _state_of(links, before, again)
        write_table(storage.join(self.target, "links", shard_name(item.index)), links)
        return {**write_state(self.target, item.index, state), "links": len(links)}


def _values(what: Semantic, index: int, members: Members) -> np.ndarray:
    """What puts samples in order, the highest first: float32 (m,)."""
    if what.order == "distance":  # the paper goes through a cluster from the farthest sample inwards
        return members.distance
    quality: np.ndarray = quality_of(what.survivors, what.by, index)[members.rows]
    return quality


def quality_of(survivors: Survivors, by: str | None, index: int) -> np.ndarray:
    """What decides which of a set stays: float32 (n,), image-text cosine of `by`, or zeros where it has none."""
    name = f"{by}.similarity"
    if name not in survivors.embeddings.columns(index):
        return np.zeros(survivors.embeddings.read(index, ["position"]).num_rows, np.float32)
    return column(survivors.table(index, [name]), name)


def appearances(vectors: np.ndarray, members: Members, what: Semantic) -> tuple[np.ndarray, np.ndarray]:
    """The cells that each sample must be seen in: (entry of the sample, cell), int64 (a,) each, at home first.

    A sample visits the cell of a probe only where a twin could lie in it. Centroids a (own) and b have their border on
    the plane ⟨x, a - b⟩ = 0; what is beyond it is at least ⟨x, a - b⟩ / ‖a - b‖ away, and twins are at most
    sqrt(2 epsilon) apart.
    """
    here, n = members.cluster.astype(np.int64), len(members.rows)
    sample, cell = [np.arange(n)], [here]
    if members.probes is None or not n:
        return sample[0], cell[0]
    centroids = _centroids(what.clusters)
    for probe in members.probes.astype(np.int64).T:
        distance = np.full(n, np.inf)
        for part in np.array_split(np.flatnonzero(probe >= 0), max(1, n // 256)):
            across = centroids[here[part]].astype(np.float64) - centroids[probe[part]]
            away = np.vecdot(vectors[part].astype(np.float64), across)
            width = np.linalg.norm(across, axis=1)
            distance[part] = np.divide(away, width, out=np.zeros(len(part)), where=width > 0)
        near = np.flatnonzero(distance <= np.sqrt(2 * what.epsilon) + _BORDER)
        sample.append(near)
        cell.append(probe[near])
    return np.concatenate(sample), np.concatenate(cell)


@lru_cache(maxsize=1)
def _centroids(clusters: Artifact) -> np.ndarray:
    """Read once per process: a regroup opens nothing, and 50,000 centroids are 100 MB for every shard."""
    return read_centroids(clusters)


def _sent_back(
    keys: np.ndarray, cell: np.ndarray, worse: np.ndarray, better: np.ndarray, cosine: np.ndarray
) -> Mapping[int, pa.Table]:
    """For each shard: links of its samples, and those who ask for the verdict on one of its samples."""
    pairs = _links_table(keys, cell, worse, better, cosine, asked=False)
    shard = key_places(keys)[0]
    # all that one cell asks of a sample is one question
    _, once = np.unique(better * (1 << 32) + cell[worse], return_index=True)
    asked = _links_table(keys, cell, better[once], worse[once], cosine[once], asked=True)
    both = pa.concat_tables([pairs, asked]).combine_chunks()
    of = np.concatenate([shard[worse], shard[better[once]]])
    return {part: both.take(pa.array(at)) for part, at in split_rows(of)}


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
    """Each sample's `most` best links and all who ask of it, once each, in order."""
    asked, row, other = column(found, "asked"), column(found, "row"), keys_from_bytes(found["other"])
    cell = np.where(asked, column(found, "other_cell"), 0)
    order = np.lexsort((other, cell, row, asked))
    asked, row, other, cell = asked[order], row[order], other[order], cell[order]
    # a pair may have met in two cells; who asks is told by cell, whichever worse sample it was for
    again = (row[1:] == row[:-1]) & (asked[1:] == asked[:-1]) & (cell[1:] == cell[:-1])
    again &= asked[1:] | (other[1:] == other[:-1])
    once = order[np.r_[np.ones(min(1, len(order)), bool), ~again]]
    links = once[~column(found, "asked")[once]]
    of = column(found, "row")[links]
    starts = np.searchsorted(of, of)
    links = links[np.arange(len(links)) - starts < most]
    kept = np.concatenate([links, once[column(found, "asked")[once]]])
    return found.combine_chunks().take(pa.array(kept))


def _state_of(links: pa.Table, before: pa.Table, again: np.ndarray) -> pa.Table:
    """The state after new links: who waits, who was cut off and has no more links and stays, and all others as before.

    again: int64 (m,), rows that were cut off.
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
    fresh = ~np.isin(rows, was) | np.isin(rows, again)
    cut = np.isin(was, again)
    status = np.where(cut, KEPT, column(before, "status")).astype(np.int8)
    old = before.set_column(3, STATE.field("status"), pa.array(status))
    old = old.filter(pa.array(~(cut & np.isin(was, rows))))
    return pa.concat_tables([old, new.filter(pa.array(fresh))]).sort_by("row").combine_chunks()


def read_links(folder: str, index: int) -> pa.Table:
    """Columns LINKS of one shard."""
    return read_table(storage.join(folder, "links", shard_name(index))).cast(LINKS)


def read_state(folder: str | None, index: int) -> pa.Table:
    """Columns STATE of one shard; empty before anything is known."""
    if folder is None:
        return STATE.empty_table()
    return read_table(storage.join(folder, "state", shard_name(index))).cast(STATE)


def write_state(folder: str, index: int, state: pa.Table) -> Summary:
    """Commit the state of one shard; how many wait and are cut off."""
    write_table(storage.join(folder, "state", shard_name(index)), state)
    status = column(state, "status")
    return {"rows": len(status), "waiting": int((status == WAITING).sum()), "cut": int((status == CUT_OFF).sum())}


def statuses(folder: str | None, index: int, rows: np.ndarray) -> np.ndarray:
    """What is known of samples at rows (m,) of a shard: int8 (m,). Who has no link stays; at first, all wait."""
    if folder is None:
        return np.full(len(rows), WAITING, np.int8)
    state = read_state(folder, index)
    known = np.r_[column(state, "status"), np.int8(KEPT)]
    found: np.ndarray = known[places_in(column(state, "row"), rows)]  # -1: no link
    return found
