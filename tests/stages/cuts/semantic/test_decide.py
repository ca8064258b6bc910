"""Decisions against a plain loop in the order of all samples, whatever is known beforehand and however it is split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline.order import KEY, order_keys
from winnow.pipeline.uid import UID
from winnow.stages.cuts.semantic.decide import Told, follow_links
from winnow.stages.cuts.semantic.state import CUT_OFF, KEPT, REMOVED, WAITING

NONE = Told(np.empty(0, KEY), np.empty(0, np.int8), np.empty(0, KEY))


def keys(n: int) -> np.ndarray:
    """n keys in order."""
    return order_keys(np.zeros(n, np.float32), np.zeros(n, UID), 0, np.arange(n))


def plain(n: int, links: list[tuple[int, int]], chained: bool) -> list[int]:
    """Whom each sample names, itself where it stays."""
    named = list(range(n))
    for j in range(n):
        better = sorted(b for w, b in links if w == j)
        if chained and better:
            named[j] = named[better[0]]
        elif stays := [b for b in better if named[b] == b]:
            named[j] = stays[0]
    return named


def known_of(named: list[int], which: list[int], key: np.ndarray) -> Told:
    """What is known of samples `which`."""
    status = [KEPT if named[i] == i else REMOVED for i in which]
    return Told(key[which], np.array(status, np.int8), key[[named[i] for i in which]])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """Samples 0 to n - 1 in order, and links from worse to better."""
    n = draw(st.integers(2, 14))
    pairs = [(w, b) for w in range(n) for b in range(w)]
    return n, sorted(draw(st.sets(st.sampled_from(pairs), max_size=30)))


@pytest.mark.parametrize("chained", [False, True])
@given(graph=graphs())
def test_all_at_once(graph: tuple[int, list[tuple[int, int]]], chained: bool) -> None:
    n, links = graph
    if chained:  # one link each
        links = [(w, b) for w, b in links if b == min(y for x, y in links if x == w)]
    key, named = keys(n), plain(n, links, chained)
    without = sorted(set(range(n)) - {w for w, _ in links})
    worse, better = ([x[i] for x in links] for i in (0, 1))
    cosine = np.linspace(0.5, 1, len(links)).astype(np.float32)
    found = follow_links(key[worse], key[better], cosine, known_of(named, without, key), 99, chained)
    of = sorted(set(worse))
    assert found.key.tolist() == key[of].tolist()
    assert found.status.tolist() == [KEPT if named[i] == i else REMOVED for i in of]
    gone = [i for i in of if named[i] != i]
    assert found.named[found.status == REMOVED].tolist() == key[[named[i] for i in gone]].tolist()
    if not chained:
        assert found.cosine[found.status == REMOVED].tolist() == [cosine[links.index((i, named[i]))] for i in gone]


@given(graph=graphs(), seed=st.integers(0, 99))
def test_in_rounds_by_parts(graph: tuple[int, list[tuple[int, int]]], seed: int) -> None:
    """Each part sees its own links and what the rounds before have told."""
    n, links = graph
    key, named = keys(n), plain(n, links, False)
    part = np.random.default_rng(seed).integers(0, 3, n)
    known = {i: (KEPT, i) for i in set(range(n)) - {w for w, _ in links}}
    for _ in range(n):
        news = {}
        for number in range(3):
            mine = [(w, b) for w, b in links if part[w] == number and w not in known]
            told = sorted(known)
            status = np.array([known[i][0] for i in told], np.int8)
            before = Told(key[told], status, key[[known[i][1] for i in told]])
            worse, better = ([x[i] for x in mine] for i in (0, 1))
            found = follow_links(key[worse], key[better], np.zeros(len(mine), np.float32), before, 99, False)
            for i, state, name in zip(sorted(set(worse)), found.status.tolist(), found.named, strict=True):
                if state != WAITING:
                    news[i] = (state, i if state == KEPT else key.tolist().index(name))
        known |= news
    assert [known[i][1] for i in range(n)] == named


def test_as_many_links_as_may_be_are_cut_off_when_all_go() -> None:
    key = keys(4)
    links = [(1, 0), (2, 1), (3, 1), (3, 2)]
    known = known_of([0], [0], key)
    worse, better = key[[w for w, _ in links]], key[[b for _, b in links]]
    found = follow_links(worse, better, np.ones(4, np.float32), known, 2, False)
    assert found.status.tolist() == [REMOVED, KEPT, REMOVED]
    more = follow_links(worse[:2], better[:2], np.ones(2, np.float32), known, 1, False)
    assert more.status.tolist() == [REMOVED, CUT_OFF]


def test_who_hangs_on_an_unknown_waits() -> None:
    key = keys(3)
    found = follow_links(key[[1, 2]], key[[0, 1]], np.ones(2, np.float32), NONE, 9, False)
    assert found.status.tolist() == [WAITING, WAITING]
