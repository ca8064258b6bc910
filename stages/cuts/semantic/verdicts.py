"""Commits `state/` beside a duplicates artifact: who stays, given who is close to whom; refuses to guess.

In the order of all samples, one stays where none of the better ones that it is close to stays. Cells decide what they
can; what hangs on a sample of another cell is told to it, and the cells decide again, until nothing changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Int8, Shaped

from winnow.pipeline.columns import column, places_in, split_rows
from winnow.pipeline.order import KEY, key_places, keys_from_bytes, keys_to_bytes
from winnow.pipeline.stage import ShardItem, Summary
from winnow.stages.cuts.semantic.links import (
    CUT_OFF,
    KEPT,
    REMOVED,
    STATE,
    WAITING,
    read_links,
    read_state,
    write_state,
)
from winnow.stages.kernels.near import place_in_run

_NEWS = pa.schema([STATE.field(name) for name in ("row", "status", "named", "cosine")])


@dataclass(frozen=True)
class Verdict:
    """What can be said of samples: all arrays (n,), in the order of `key`.

    status: int8, WAITING where it hangs on others. named: of dtype KEY, whom a removed sample duplicates. cosine:
    float32, with the sample that removed it.
    """

    key: Shaped[np.ndarray, "n"]
    status: Int8[np.ndarray, "n"]
    named: Shaped[np.ndarray, "n"]
    cosine: Float32[np.ndarray, "n"]


@dataclass(frozen=True)
class Known:
    """Verdicts from elsewhere: key (m,) sorted, status int8 (m,), named (m,)."""

    key: Shaped[np.ndarray, "m"]
    status: Int8[np.ndarray, "m"]
    named: Shaped[np.ndarray, "m"]


def decide(
    worse: Shaped[np.ndarray, "l"],
    better: Shaped[np.ndarray, "l"],
    cosine: Float32[np.ndarray, "l"],
    known: Known,
    most: int,
    chained: bool,
) -> Verdict:
    """Verdicts on every sample that has a link, from the links and what is known of other samples.

    worse, better: (l,) of dtype KEY, by worse and then by better, which comes before it in the order. cosine: (l,).
    A sample is removed by the first of its links that stays, once all links before it are known to go, and stays when
    all go; with as many as `most` links there may be more, and it is CUT_OFF instead.
    chained: the paper's rule: the first link removes, whether it stays or not, and the sample is named at its end.
    Cost O(l) for each step of the longest chain of samples that hang on each other.
    """
    starts = np.flatnonzero(place_in_run(worse) == 0)
    key, count = worse[starts], np.diff(np.r_[starts, len(worse)])
    found = Verdict(key, np.full(len(key), WAITING, np.int8), np.zeros(len(key), KEY), np.zeros(len(key), np.float32))
    here = places_in(key, better)
    there = places_in(known.key, better)
    status = np.r_[known.status, np.int8(WAITING)][there]  # -1: nothing is known
    named = np.r_[known.named, np.zeros(1, KEY)][there]
    open_ = np.arange(len(key))
    while len(open_):
        links = np.repeat(starts[open_] - np.r_[0, np.cumsum(count[open_])[:-1]], count[open_])
        links += np.arange(len(links))
        local = links[here[links] >= 0]
        status[local], named[local] = found.status[here[local]], found.named[here[local]]
        passed = (status[links] == REMOVED) & (not chained)
        first = np.minimum.reduceat(np.where(passed, len(worse), links), np.r_[0, np.cumsum(count[open_])[:-1]])
        ends = first == len(worse)
        found.status[open_[ends]] = np.where(count[open_[ends]] < most, KEPT, CUT_OFF)
        hit, by = open_[~ends], first[~ends]
        gone = np.isin(status[by], (KEPT, REMOVED))  # REMOVED comes only along a chain
        hit, by = hit[gone], by[gone]
        found.status[hit], found.cosine[hit] = REMOVED, cosine[by]
        found.named[hit] = np.where(status[by] == KEPT, better[by], named[by])
        left = open_[found.status[open_] == WAITING]
        if len(left) == len(open_):
            break
        open_ = left
    return found


@dataclass(frozen=True)
class Decide:
    """One round, as a regroup by cell.

    links: folder of the links. before, target: folders of the state before and after. parts: of the cells.
    """

    links: str
    before: str
    target: str
    parts: int
    most: int
    chained: bool

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        """The links of those that wait to their own cell, and what is known to the cells that ask."""
        links, state = read_links(self.links, item.index), read_state(self.before, item.index)
        row, asked = column(links, "row"), column(links, "asked")
        at = places_in(column(state, "row"), row)  # -1: a sample without links, which stays
        padded = np.r_[column(state, "status"), np.int8(KEPT)]
        status = padded[at]
        named = np.r_[keys_from_bytes(state["named"]), np.zeros(1, KEY)][at]
        chosen = np.flatnonzero(np.where(asked, np.isin(status, (KEPT, REMOVED)), status == WAITING))
        told = asked[chosen]
        other = np.where(told, named[chosen], keys_from_bytes(links["other"])[chosen])
        sent = pa.table(
            {
                "key": links["key"].combine_chunks().take(pa.array(chosen)),
                "other": keys_to_bytes(other),
                "cosine": links["cosine"].combine_chunks().take(pa.array(chosen)),
                "status": pa.array(np.where(told, status[chosen], WAITING).astype(np.int8)),
            }
        )
        cell = np.where(told, column(links, "other_cell")[chosen], column(links, "cell")[chosen])
        return {part: sent.take(pa.array(rows)) for part, rows in split_rows(cell % self.parts)}

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        """The verdicts that are new, by shard."""
        table = pa.concat_tables(tables).combine_chunks()
        told = table.filter(pc.not_equal(table["status"], WAITING))
        # more than one cell of this part may have asked
        key, once = np.unique(keys_from_bytes(told["key"]), return_index=True)
        known = Known(key, column(told, "status")[once], keys_from_bytes(told["other"])[once])
        links = table.filter(pc.equal(table["status"], WAITING))
        worse, better = keys_from_bytes(links["key"]), keys_from_bytes(links["other"])
        order = np.lexsort((better, worse))
        cosine = column(links, "cosine")[order]
        verdict = decide(worse[order], better[order], cosine, known, self.most, self.chained)
        new = np.flatnonzero(verdict.status != WAITING)
        shard, row = key_places(verdict.key[new])
        columns = [pa.array(row), pa.array(verdict.status[new]), keys_to_bytes(verdict.named[new])]
        news = pa.table([*columns, pa.array(verdict.cosine[new])], schema=_NEWS)
        return {index: news.take(pa.array(at)) for index, at in split_rows(shard)}

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        """Commit the state of one shard with its news."""
        state = read_state(self.before, item.index)
        news = pa.concat_tables([_NEWS.empty_table(), *tables])
        at = places_in(column(state, "row"), column(news, "row"))
        columns = []
        for name in STATE.names:
            if name in ("row", "key", "cell"):
                columns.append(state[name])
                continue
            of = keys_from_bytes if name == "named" else np.asarray
            values = of(state[name]).copy()
            values[at] = of(news[name])
            columns.append(keys_to_bytes(values) if name == "named" else pa.array(values))
        made = write_state(self.target, item.index, pa.table(columns, schema=STATE))
        return {**made, "changed": len(at)}
