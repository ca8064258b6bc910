"""Semantic duplicates against plain loops over all samples: greedy with visits, and the paper's rule."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Filtered, Samples, answers, filtered, normed, opened, unit, write_vectors
from winnow.pipeline.executors.contract import Executor
from winnow.stages.clusters.clusters import Known, Members
from winnow.stages.cuts.duplicates import Duplicates
from winnow.stages.cuts.semantic import fixpoint


def crowd(n: int, directions: int, spread: float, seed: int = 0) -> Samples:
    """n samples around some directions: chains and sets of near copies, across any borders."""
    rng = np.random.default_rng(seed)
    image = normed(unit(directions, 16, seed)[rng.integers(0, directions, n)] + spread * rng.normal(size=(n, 16)) / 4)
    return Samples.drawn(n, seed=seed, image=image)


def cells(found: Filtered) -> Iterator[tuple[str, int, list[int], float]]:
    """(uid, own cell, other cells, distance) of every sample."""
    for item in found.run.items:
        members = Members.read(found.artifact("clusters"), item.index)
        uids = found.survivors.uids(item.index)[members.rows]
        for number, (high, low) in enumerate(uids):
            probes = [] if members.probes is None else members.probes[number].tolist()
            yield f"{high:016x}{low:016x}", int(members.cluster[number]), probes, float(members.distance[number])


def greedy(samples: Samples, found: Filtered, epsilon: float) -> dict[str, str]:
    """uid -> uid that it duplicates, itself where it stays: one loop from the best sample down."""
    where = {uid: (own, {own, *others}) for uid, own, others, _ in cells(found)}
    value = samples.cosine.astype(np.float32)
    order = sorted(range(len(samples)), key=lambda i: (-value[i], samples.uid[i]))
    x = samples.image.astype(np.float64)
    named: dict[str, str] = {}
    stays: list[int] = []
    for j in order:
        own, seen = where[samples.uid[j]]
        near = [
            i
            for i in stays
            if (own in where[samples.uid[i]][1] or where[samples.uid[i]][0] in seen) and x[i] @ x[j] > 1 - epsilon
        ]
        named[samples.uid[j]] = samples.uid[near[0]] if near else samples.uid[j]
        stays += [] if near else [j]
    return named


def papers_rule(samples: Samples, found: Filtered, epsilon: float) -> set[str]:
    """Who stays, as published: in each cluster, from the farthest sample inwards, any earlier one removes."""
    rows = {uid: n for n, uid in enumerate(samples.uid)}
    members: dict[int, list[tuple[float, str]]] = {}
    for uid, own, _, distance in cells(found):
        members.setdefault(own, []).append((-distance, uid))
    kept: set[str] = set()
    for cell in members.values():
        uids = [uid for _, uid in sorted(cell)]
        x = samples.image[[rows[uid] for uid in uids]].astype(np.float64)
        largest = np.triu(x @ x.T, 1).max(axis=0)  # (n, n): with each earlier one
        kept |= {uid for uid, cosine in zip(uids, largest, strict=True) if not cosine > 1 - epsilon}
    return kept


def named(found: Filtered) -> dict[str, str]:
    """What the artifact says, in the form of `greedy`."""
    return {row["uid"]: row["duplicate_of"] or row["uid"] for row in found.rows}


def small(monkeypatch: pytest.MonkeyPatch, block_rows: int = 8, part_rows: int = 20) -> None:
    """Cells of many blocks, and parts of few rows."""
    monkeypatch.setattr(fixpoint, "_BLOCK_BYTES", block_rows * 32)
    monkeypatch.setattr(fixpoint, "_PART_BYTES", part_rows * 32)
    monkeypatch.setattr(fixpoint, "_PART_ROWS", 5)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(5, 70),
    directions=st.integers(1, 12),
    spread=st.floats(0.1, 1.2),
    k=st.integers(1, 5),
    probes=st.integers(0, 3),
    epsilon=st.floats(0.02, 0.5),
    shards=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_equals_one_loop_over_all_samples(
    n: int, directions: int, spread: float, k: int, probes: int, epsilon: float, shards: int, seed: int
) -> None:
    samples = crowd(n, directions, spread, seed)
    found = filtered(samples, Duplicates("clip", False, epsilon, k, probes=probes), shards=shards)
    assert named(found) == greedy(samples, found, epsilon)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("most", [1, 2, 16])
def test_blocks_parts_and_cut_lists_change_nothing(monkeypatch: pytest.MonkeyPatch, most: int, seed: int) -> None:
    samples = crowd(120, 6, 0.9, seed)
    cut = Duplicates("clip", False, 0.25, 4, probes=2)
    whole = filtered(samples, cut, shards=3)
    assert 10 < len(whole.kept) < 110
    small(monkeypatch)
    monkeypatch.setattr(fixpoint, "_LINKS", most)
    split = filtered(samples, cut, shards=3)
    assert split.rows == whole.rows
    assert named(split) == greedy(samples, split, 0.25)
    assert most > 1 or split.step("duplicates").report["steps"] > whole.step("duplicates").report["steps"]


def test_a_pair_that_a_border_divides_is_found_by_a_visit(tmp_path: Path) -> None:
    """Two tight crowds about two poles, the centroids, and twins half way, one on each side of the border."""
    pole, noise = np.eye(16)[:2], np.random.default_rng(0).normal(size=(40, 16))
    np.save(tmp_path / "poles.npy", pole.astype(np.float32))
    half_way = np.array([[1.01, 1.0], [1.0, 1.01]]) @ pole
    samples = Samples.drawn(42, image=normed(np.concatenate([pole.repeat(20, axis=0) + 0.02 * noise, half_way])))
    poles = Known(source=str(tmp_path / "poles.npy"))
    alone, visited = (filtered(samples, Duplicates("clip", False, 1e-3, poles, probes=p), shards=2) for p in (0, 1))
    twins = set(samples.uid[40:])
    assert {own for uid, own, _, _ in cells(alone) if uid in twins} == {0, 1}
    assert twins <= set(alone.kept)
    assert len(twins & set(visited.kept)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_semdedup_is_the_papers_rule(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    if seed % 2:
        small(monkeypatch)
    samples = crowd(80, 8, 0.3 + 0.04 * seed, seed)
    found = filtered(samples, Duplicates("clip", False, 0.2, 1 + seed % 5, method="semdedup"), shards=1 + seed % 3)
    assert set(found.kept) == papers_rule(samples, found, 0.2)
    assert 0 < len(found.kept) < 80
    kept = set(found.kept)
    assert all(who in kept for who in named(found).values())


@pytest.mark.parametrize("method", ["greedy", "semdedup"])
def test_one_answer_for_any_shards_and_order(method: str) -> None:
    found = answers(crowd(70, 10, 0.8), Duplicates("clip", False, 0.2, 3, method=method))
    assert 0 < len(found[0]) < 70
    assert all(answer == found[0] for answer in found)


def test_executors_agree(executor: Executor, tmp_path: Path) -> None:
    samples = crowd(90, 8, 0.8)
    cut = Duplicates("clip", False, 0.2, 3)
    plain = filtered(samples, cut, shards=4)
    pool = opened(write_vectors(f"{tmp_path}/pool", samples, 4), store=f"{tmp_path}/store")
    found = replace(pool, run=replace(pool.run, executor=executor)).through(cut)
    assert found.rows == plain.rows


def test_what_is_finished_is_not_done_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A crash after the comparison: the next run begins with the decisions."""
    samples, cut = crowd(60, 8, 0.8), Duplicates("clip", False, 0.2, 3)
    pool = opened(write_vectors(f"{tmp_path}/pool", samples, 2), store=f"{tmp_path}/store")
    with monkeypatch.context() as crash:
        crash.setattr(fixpoint.Decide, "scatter", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pool.through(cut)
    monkeypatch.setattr(fixpoint.Compare, "scatter", lambda *_: 1 / 0)
    assert named(found := pool.through(cut)) == greedy(samples, found, 0.2)


def test_twenty_thousand_by_brute_force() -> None:
    """No kept pair that meets is within epsilon, and each removed sample names a kept one that it meets within it."""
    n, epsilon = 20_000, 0.1
    rng = np.random.default_rng(0)
    concept = rng.normal(size=(300, 32))[rng.integers(0, 300, n)]
    image = concept + rng.normal(size=(n, 32)) * 0.8
    copies = rng.integers(0, n // 20, 7_000)  # of a few, so that some have hundreds
    image[-7_000:] = image[copies] + rng.normal(size=(7_000, 32)) * rng.uniform(0.05, 0.5, (7_000, 1))
    samples = Samples.drawn(n, image=normed(image), text=normed(rng.normal(size=(n, 32))))
    found = filtered(samples, Duplicates("clip", False, epsilon, 40, iterations=5), shards=4)
    row_of = {uid: number for number, uid in enumerate(samples.uid)}
    own, seen = np.empty(n, np.int64), np.zeros((n, 40), bool)
    for uid, cell, probes, _ in cells(found):
        own[row_of[uid]] = cell
        seen[row_of[uid], [cell, *probes]] = True
    kept = np.array([row_of[uid] for uid in found.kept])
    x = samples.image.astype(np.float64)
    near = missed = 0
    for rows in np.array_split(np.arange(len(kept)), 20):
        block = kept[rows]
        close = rows[:, None] < np.arange(len(kept))  # each pair once
        close &= x[block] @ x[kept].T > 1 - epsilon
        meets = seen[block][:, own[kept]] | seen[kept][:, own[block]].T
        near += int((close & meets).sum())
        missed += int((close & ~meets).sum())
    assert near == 0
    names = {row_of[a]: row_of[b] for a, b in named(found).items() if a != b}
    removed, by = np.array(list(names)), np.array(list(names.values()))
    assert len(removed) + len(kept) == n
    assert len(removed) > 5_000
    assert np.isin(by, kept).all()
    assert (np.vecdot(x[removed], x[by]) > 1 - epsilon).all()
    assert (seen[removed, own[by]] | seen[by, own[removed]]).all()
    assert missed < len(removed) / 100  # pairs that no cell brings together
