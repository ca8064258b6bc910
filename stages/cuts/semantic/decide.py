"""Decides who stays, given links to better samples: rounds of messages between cells until every sample is decided.

A sample is kept if no better sample close to it is kept. Each cell decides what it can by itself. Where a decision
depends on a sample of another cell, the next round tells it that sample's status (docs/semantic.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Int8, Shaped

from winnow.pipeline.columns import column, places_in, split_table
from winnow.pipeline.order import KEY, key_places, keys_from_bytes, keys_to_bytes
from winnow.pipeline.stage import ShardItem, Summary
from winnow.stages.cuts.semantic.state import (
    CUT_OFF,
    KEPT,
    REMOVED,
    STATE,
    WAITING,
    read_links,
    read_state,
    write_state,
)
from winnow.stages.kernels.close_pairs import place_in_run

_NEWS = pa.schema([STATE.field(name) for name in ("row", "status", "named", "cosine")])


@dataclass(frozen=True)
class Resolved:
    """The status of samples: all arrays (n,), in the order of `key`.

    status: int8, WAITING if it depends on samples that are not decided. named: dtype KEY, the sample that a removed
    one repeats. cosine: float32, with the sample that removed it.
    """

    key: Shaped[np.ndarray, "n"]
    status: Int8[np.ndarray, "n"]
    named: Shaped[np.ndarray, "n"]
    cosine: Float32[np.ndarray, "n"]


@dataclass(frozen=True)
class Told:
    """Known decisions on samples of other cells: key (m,) sorted, status int8 (m,), named (m,) of dtype KEY."""

    key: Shaped[np.ndarray, "m"]
    status: Int8[np.ndarray, "m"]
    named: Shaped[np.ndarray, "m"]


def follow_links(
    worse: Shaped[np.ndarray, "l"],
    better: Shaped[np.ndarray, "l"],
    cosine: Float32[np.ndarray, "l"],
    known: Told,
    most: int,
    chained: bool,
) -> Resolved:
    """Status of every sample that has a link, from the links and from known decisions on samples of other cells.

    worse, better: (l,) of dtype KEY, sorted by worse and then by better; better < worse. cosine: float32 (l,).
    A sample goes through its links, best first. A REMOVED better sample is passed over, a KEPT one removes the sample,
    and an undecided one makes it wait. If all are REMOVED, the sample is KEPT. With `most` links, though, its list was
    full and it may be close to more samples, so it is CUT_OFF instead.
    chained: the paper's rule: the first link removes even if its better sample is removed, and the sample names the
        end of the chain.
    Cost: O(l) for each step of the longest chain of samples that depend on each other.
    """
    starts = np.flatnonzero(place_in_run(worse) == 0)  # (n,): first link of each sample
    key, count = worse[starts], np.diff(np.r_[starts, len(worse)])
    found = Resolved(key, np.full(len(key), WAITING, np.int8), np.zeros(len(key), KEY), np.zeros(len(key), np.float32))
    here = places_in(key, better)  # (l,): index of the better sample in `key`, -1 if it has no link here
    there = places_in(known.key, better)  # (l,): its index in `known`, or -1
    # (l,): status of the better sample of each link; for samples in `key` the loop fills it in as it decides them
    status = np.r_[known.status, np.int8(WAITING)][there]  # -1 takes the last entry: nothing is known
    named = np.r_[known.named, np.zeros(1, KEY)][there]
    open_ = np.arange(len(key))  # samples that wait
    while len(open_):
        # all links of all open samples, end to end: (sum of their counts,); those of a sample begin at its offset
        offsets = np.r_[0, np.cumsum(count[open_])[:-1]]
        links = np.repeat(starts[open_] - offsets, count[open_])
        links += np.arange(len(links))
        local = links[here[links] >= 0]
        status[local], named[local] = found.status[here[local]], found.named[here[local]]
        # A removed sample removes nobody. The first link to a sample that is not removed decides, or makes it wait.
        passed = (status[links] == REMOVED) & (not chained)
        first = np.minimum.reduceat(np.where(passed, len(worse), links), offsets)  # (open,): len(worse) if none
        ends = first == len(worse)  # (open,): every better sample is removed
        found.status[open_[ends]] = np.where(count[open_[ends]] < most, KEPT, CUT_OFF)
        hit, by = open_[~ends], first[~ends]
        gone = np.isin(status[by], (KEPT, REMOVED))  # REMOVED occurs only if `chained`; all others wait
        hit, by = hit[gone], by[gone]
        found.status[hit], found.cosine[hit] = REMOVED, cosine[by]
        found.named[hit] = np.where(status[by] == KEPT, better[by], named[by])
        left = open_[found.status[open_] == WAITING]
        if len(left) == len(open_):  # the rest depends on other cells
            break
        open_ = left
    return found


@dataclass(frozen=True)
class Decide:
    """One round, an exchange by cell: links go to the home of their sample, answers to the cells that ask.

    links: folder of the links. before, target: folders of the state before and after. parts: cell c is in part
    c mod parts. most, chained: see `follow_links`.
    """

    links: str
    before: str
    target: str
    parts: int
    most: int
    chained: bool

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        """Send the links of waiting samples to their home, and final statuses to the cells that asked for them."""
        links, state = read_links(self.links, item.index), read_state(self.before, item.index)
        row, asked = column(links, "row"), column(links, "asked")
        at = places_in(column(state, "row"), row)  # -1: a sample without links, which is KEPT
        padded = np.r_[column(state, "status"), np.int8(KEPT)]
        status = padded[at]
        named = np.r_[keys_from_bytes(state["named"]), np.zeros(1, KEY)][at]
        # A question is answered once the status is final. A link is sent only while its sample waits.
        chosen = np.flatnonzero(np.where(asked, np.isin(status, (KEPT, REMOVED)), status == WAITING))
        told = asked[chosen]
        # one column serves both: in an answer `other` is whom the sample repeats, in a link the better sample
        other = np.where(told, named[chosen], keys_from_bytes(links["other"])[chosen])
        sent = pa.table(
            {
                "key": links["key"].combine_chunks().take(pa.array(chosen)),
                "other": keys_to_bytes(other),
                "cosine": links["cosine"].combine_chunks().take(pa.array(chosen)),
                "status": pa.array(np.where(told, status[chosen], WAITING).astype(np.int8)),
            }
        )
        # an answer goes to the cell that asked, a link to the home of its own sample
        cell = np.where(told, column(links, "other_cell")[chosen], column(links, "cell")[chosen])
        return split_table(sent, cell % self.parts)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """Decide what can be decided in this part; return the new decisions by shard."""
        table = pa.concat_tables(tables).combine_chunks()
        told = table.filter(pc.not_equal(table["status"], WAITING))
        # Several cells of this part may have asked for the same sample; one answer is enough.
        key, once = np.unique(keys_from_bytes(told["key"]), return_index=True)
        known = Told(key, column(told, "status")[once], keys_from_bytes(told["other"])[once])
        links = table.filter(pc.equal(table["status"], WAITING))
        worse, better = keys_from_bytes(links["key"]), keys_from_bytes(links["other"])
        order = np.lexsort((better, worse))  # by sample, its links best first
        cosine = column(links, "cosine")[order]
        found = follow_links(worse[order], better[order], cosine, known, self.most, self.chained)
        new = np.flatnonzero(found.status != WAITING)
        shard, row = key_places(found.key[new])
        columns = [pa.array(row), pa.array(found.status[new]), keys_to_bytes(found.named[new])]
        news = pa.table([*columns, pa.array(found.cosine[new])], schema=_NEWS)
        return split_table(news, shard)

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        """Commit the state of one shard, updated with the new decisions."""
        state = read_state(self.before, item.index)
        news = pa.concat_tables([_NEWS.empty_table(), *tables])
        at = places_in(column(state, "row"), column(news, "row"))
        columns = []
        for name in STATE.names:
            if name in ("row", "key", "cell"):  # these never change
                columns.append(state[name])
                continue
            of = keys_from_bytes if name == "named" else np.asarray
            values = of(state[name]).copy()
            values[at] = of(news[name])
            columns.append(keys_to_bytes(values) if name == "named" else pa.array(values))
        made = write_state(self.target, item.index, pa.table(columns, schema=STATE))
        return {**made, "changed": len(at)}
