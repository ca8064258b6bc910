"""negCLIPLoss against the formula on whole matrices: the same for any shards and executor; generic captions lose."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from tests.pools import Filtered, Samples, answers, asked, filtered, normed, opened, unit, write_vectors
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.uid import uids_from_hex
from winnow.stages.cuts import negclip
from winnow.stages.cuts.negclip import Contrast, Negclip, batch_of
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.cuts.similarity import Similarity
from winnow.stages.kernels.uid_hash import hash64


def batches_of(uids: list[str], batch: int, partition: int, seed: int) -> np.ndarray:
    """The batch of each uid, in Python's integers."""
    count = max(1, round(len(uids) / batch))
    hashes = hash64(uids_from_hex(uids), ((partition + 1) << 32) + seed).tolist()
    return np.array([(value * count) >> 64 for value in hashes], np.int64)


def oracle(samples: Samples, batch: int, partitions: int, tau: float = 0.01, seed: int = 0) -> np.ndarray:
    """The formula with all cosines at once; other batches' are masked out."""
    s = samples.image.astype(np.float64) @ samples.text.astype(np.float64).T / tau
    values = []
    for partition in range(partitions):
        own = batches_of(samples.uid, batch, partition, seed)
        inside = np.where(own[:, None] == own, s, -np.inf)
        values.append(s.diagonal() - (logsumexp(inside, axis=1) + logsumexp(inside, axis=0)) / 2)
    return tau * np.mean(values, axis=0)


def values(found: Filtered) -> dict[str, float]:
    """The value of each sample that was in, by uid."""
    return {row["uid"]: row["contrast"] for row in found.rows if row["contrast"] is not None}


def exact_values(found: Filtered, partition: int) -> list[tuple[str, float]]:
    """The float64 value of each sample in one partition, by uid."""
    made = found.artifact(f"contrast_{partition}")
    read = [v for item in found.run.items for v in made.read(item.index)["contrast"].to_pylist()]
    return sorted(zip([row["uid"] for row in found.rows], read, strict=True))


def paired(n: int, seed: int = 0) -> Samples:
    """Texts that are near their images, some more than others."""
    image = unit(n, 16, seed)
    noise = np.random.default_rng(seed).uniform(0, 2, (n, 1)) * unit(n, 16, seed + 1)
    return Samples.drawn(n, seed=seed, image=image, text=normed(image + noise))


@settings(max_examples=15)
@given(
    n=st.integers(1, 60),
    batch=st.integers(2, 30),
    partitions=st.integers(1, 4),
    tau=st.sampled_from([0.001, 0.01, 0.07]),
    fraction=st.sampled_from([0.0, 0.29, 0.5, 1.0]),
    shards=st.integers(1, 5),
    seed=st.integers(0, 1 << 30),
)
def test_it_keeps_the_highest_of_the_formula(
    n: int, batch: int, partitions: int, tau: float, fraction: float, shards: int, seed: int
) -> None:
    samples = paired(n, seed % 100)
    cut = Negclip("clip", fraction, temperature=tau, batch=batch, partitions=partitions, seed=seed)
    found = filtered(samples, cut, shards=shards)
    expected = oracle(samples, batch, partitions, tau, seed)
    got = values(found)
    np.testing.assert_allclose([got[uid] for uid in samples.uid], expected, rtol=1e-7, atol=1e-13)
    ranked = sorted(samples.uid, key=lambda uid: (-got[uid], uid))
    assert sorted(found.kept) == sorted(ranked[: asked(fraction, n)])


def test_one_answer_for_any_shards_and_order() -> None:
    """Bit for bit, even before values are rounded; with pairs that come twice."""
    samples = paired(80)
    samples = samples.take([*range(80), *range(20)])
    samples.uid[80:] = Samples.drawn(20, seed=9).uid
    cut = Negclip(by="clip", count=37, batch=20, partitions=3)
    found = answers(samples, cut)
    assert len(found[0]) == 37
    assert all(answer == found[0] for answer in found)
    one = filtered(samples, cut)
    order = np.random.default_rng(1).permutation(100)
    for shards in (1, 3, 7):
        other = filtered(samples.take(order), cut, shards=shards)
        assert values(other) == values(one)
        assert all(exact_values(other, p) == exact_values(one, p) for p in range(3))


def test_both_executors_and_any_parts_give_equal_values(
    tmp_path: Path, ray_executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = write_vectors(str(tmp_path / "pool"), paired(90), 5)
    cut = Negclip(by="clip", fraction=0.4, batch=10, partitions=2)
    whole = opened(pool, store=str(tmp_path / "one")).through(cut)
    monkeypatch.setattr(negclip, "_PART_ROWS", 25)  # read in this process: four parts of two batches or three
    parts = opened(pool, store=str(tmp_path / "parts")).through(cut)
    actors = opened(pool, store=str(tmp_path / "actors"))
    actors = replace(actors, run=replace(actors.run, executor=ray_executor)).through(cut)
    assert whole.rows == parts.rows == actors.rows
    assert whole.step("contrast_0").report["batches"] == 9


def generic_and_specific(n: int = 120, width: int = 64) -> Samples:
    """Images around one mean; every fourth text is that mean, the others are their own image's, at a lower cosine."""
    rng = np.random.default_rng(4)
    mean, *others = np.linalg.qr(rng.normal(size=(width, width)))[0].T
    own, noise = (rng.normal(size=(n, width - 1)) @ np.array(others) for _ in range(2))
    noise -= (noise * own).sum(axis=1, keepdims=True) / (own * own).sum(axis=1, keepdims=True) * own
    own, noise = normed(own), normed(noise)
    text = normed(0.75 * own + 0.66 * noise)
    text[::4] = normed(mean[None])
    return Samples.drawn(n, image=normed(0.61 * mean + 0.79 * own), text=text)


def test_generic_captions_lose_against_specific_ones() -> None:
    samples = generic_and_specific()
    specific = [uid for i, uid in enumerate(samples.uid) if i % 4]
    assert sorted(filtered(samples, Negclip(by="clip", count=90, batch=40), shards=3).kept) == sorted(specific)
    by_cosine = filtered(samples, Similarity(by="clip", count=30), shards=3).kept
    assert sorted(by_cosine) == sorted(samples.uid[::4])


def test_a_value_is_the_mean_of_its_partitions_and_more_of_them_use_the_first() -> None:
    samples = paired(70)
    pool = filtered(samples, shards=3)

    def cut(partitions: int) -> Filtered:
        return pool.through(Negclip(by="clip", fraction=0.5, batch=15, partitions=partitions))

    two, three = cut(2), cut(3)
    assert [step.reused for step in three.steps[-4:]] == [True, True, False, False]
    assert three.artifact("contrast_1") == two.artifact("contrast_1")
    each = [dict(exact_values(three, p)) for p in range(3)]
    assert each[0] != each[1] != each[2] != each[0]
    assert values(three) == {uid: np.float32(sum(value[uid] for value in each) / 3) for uid in samples.uid}


def test_one_batch_is_the_whole_pool() -> None:
    samples = paired(40)
    found = filtered(samples, Negclip(by="clip", fraction=0.5, batch=27, partitions=3), shards=2)
    expected = oracle(samples, 40, 1)
    np.testing.assert_allclose([values(found)[uid] for uid in samples.uid], expected, rtol=1e-7, atol=1e-13)
    assert found.step("contrast_0").report["batches"] == 1


def test_what_is_out_is_in_no_batch() -> None:
    samples = paired(60)
    samples.caption[::2] = [""] * 30
    found = filtered(samples, Rules(min_chars=1), Negclip(by="clip", fraction=0.5, batch=10, partitions=2), shards=4)
    left = samples.take(range(1, 60, 2))
    got = values(found)
    assert set(got) == set(left.uid)
    np.testing.assert_allclose([got[uid] for uid in left.uid], oracle(left, 10, 2), rtol=1e-7, atol=1e-13)
    assert len(found.kept) == 15
    report = found.step("negclip").report
    assert (report["in"], report["kept"], report["asked"]) == (30, 15, 15)


def test_a_threshold_and_the_whole_pool_as_base() -> None:
    samples = paired(50)
    threshold = float(np.median(oracle(samples, 50, 1)))
    found = filtered(samples, Negclip(by="clip", threshold=threshold), shards=3)
    assert set(found.kept) == {uid for uid, value in values(found).items() if value > np.float32(threshold)}
    few = filtered(samples, Random(count=30), Negclip(by="clip", fraction=0.2, of="pool"), shards=3)
    assert len(few.kept) == 10


@pytest.mark.parametrize("left", [0, 1])
def test_pools_of_which_little_is_left(left: int) -> None:
    """Shards without a row, and the pool without one; a pair alone has 0."""
    found = filtered(paired(9), Random(count=left), Negclip(by="clip", fraction=1.0, batch=2), shards=4)
    assert list(values(found).values()) == [0.0] * left
    assert len(found.kept) == left
    empty = filtered(paired(2), Negclip(by="clip", fraction=1.0), shards=5)
    assert len(empty.kept) == 2


@given(
    seed=st.integers(0, (1 << 31) - 1),
    partition=st.integers(0, 999),
    batches=st.integers(1, 1 << 32),
)
def test_batches_are_equal_parts_of_the_hash(seed: int, partition: int, batches: int) -> None:
    uids = uids_from_hex([f"{n:032x}" for n in range(50)])
    found = batch_of(uids, seed, partition, batches)
    upper = [value >> 32 for value in hash64(uids, ((partition + 1) << 32) + seed).tolist()]
    assert found.tolist() == [(value * batches) >> 32 for value in upper]
    assert found.max() < batches


def test_batches_are_even_and_partitions_independent_even_after_a_random_cut() -> None:
    """A random cut of the same seed leaves the highest hashes: batches of that hash would be few and large."""
    samples = Samples.drawn(20_000)
    kept = filtered(samples, Random(fraction=0.5)).kept
    uids = uids_from_hex(kept)
    found = [batch_of(uids, 0, partition, 20) for partition in range(3)] + [batch_of(uids, 1, 0, 20)]
    for batch in found:
        sizes = np.bincount(batch, minlength=20)
        assert ((sizes - 500) ** 2 / 500).sum() < 45  # chi squared of 19 degrees, p = 0.0007
    for one, two in itertools.combinations(found, 2):
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.04


def test_a_pair_without_a_value_is_an_error() -> None:
    pool = filtered(paired(12), Random(count=6))
    cut = Negclip(by="clip", count=3, partitions=1)
    made = pool.through(cut).artifact("contrast_0")
    made.write(0, pa.table({"contrast": pa.nulls(12, pa.float64())}), {"rows": 12})
    with pytest.raises(DataError, match="column contrast must have no nulls here, got 6"):
        Contrast(pool.survivors, (made,)).rows(pool.run.items[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "must have one of fraction, count and threshold, got none"),
        ({"count": 1, "temperature": 0.0005}, "greater than or equal to 0.001"),
        ({"count": 1, "batch": 1}, "greater than or equal to 2"),
        ({"count": 1, "partitions": 0}, "greater than or equal to 1"),
        ({"count": 1, "threshold": -0.1}, "got \\['count', 'threshold'\\]"),
        ({"threshold": float("nan")}, "finite"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises((JobError, ValueError), match=message):
        Negclip(by="clip", **options)
