"""Another sample for each epoch against a sort: exact windows of a shuffle, the same for any shards, one file each."""

import io
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Filtered, Samples, answers, asked, filtered, hex_uids
from winnow.pipeline import storage
from winnow.pipeline.errors import JobError
from winnow.pipeline.stage import execute
from winnow.pipeline.uid import uids_from_hex
from winnow.stages.cuts.epochs import Epochs, epoch_name, shuffle_seed
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.kernels.uid_hash import hash_values
from winnow.stages.results.manifest import Manifest


def oracle(uids: Sequence[str], size: int, cut: Epochs) -> list[list[str]]:
    """Sort by hash and uid, cut into windows, shuffle again where a whole one does not fit."""
    shuffle, left, found = -1, [], []
    for _ in range(cut.epochs):
        if len(left) < size or cut.replacement:
            shuffle += 1
            values = hash_values(uids_from_hex(list(uids)), shuffle_seed(cut.seed, shuffle)).tolist()
            left = [uid for _, uid in sorted((-value, uid) for value, uid in zip(values, uids, strict=True))]
        found.append(sorted(left[:size]))
        left = left[size:]
    return found


def subset(found: Filtered, epoch: int) -> list[str]:
    """The uids of an epoch's file, in its order."""
    content = storage.read_bytes(found.artifact("epochs").meta(f"{epoch_name(epoch)}.npy"))
    array = np.load(io.BytesIO(content), allow_pickle=False)
    assert array.dtype == np.dtype("u8,u8")
    return [f"{high:016x}{low:016x}" for high, low in array.tolist()]


def subsets(found: Filtered, epochs: int) -> list[list[str]]:
    return [subset(found, epoch) for epoch in range(epochs)]


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40),
    count=st.integers(1, 45),
    epochs=st.integers(1, 9),
    replacement=st.booleans(),
    seed=st.integers(0, (1 << 31) - 1),
    shards=st.integers(1, 4),
)
def test_epochs_are_windows_of_shuffles(
    n: int, count: int, epochs: int, replacement: bool, seed: int, shards: int
) -> None:
    cut = Epochs(epochs=epochs, count=count, replacement=replacement, seed=seed)
    samples = Samples.drawn(n)
    found = filtered(samples, cut, shards=shards)
    expected = oracle(samples.uid, min(count, n), cut)
    assert subsets(found, epochs) == expected
    assert sorted(found.kept) == sorted(set().union(*expected))
    assert [row["epochs"] for row in found.rows] == [
        [epoch for epoch, members in enumerate(expected) if uid in members] for uid in samples.uid
    ]


@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 40), count=st.integers(1, 40), seed=st.integers(0, 99))
def test_windows_of_one_shuffle_are_disjoint_and_cover_it(n: int, count: int, seed: int) -> None:
    size = min(count, n)
    windows = n // size
    found = subsets(
        filtered(Samples.drawn(n), Epochs(epochs=2 * windows, count=count, seed=seed), shards=3), 2 * windows
    )
    for one in (found[:windows], found[windows:]):
        assert [len(epoch) for epoch in one] == [size] * windows
        assert len(set().union(*one)) == size * windows


def test_one_answer_for_any_shards_and_order() -> None:
    samples = Samples.drawn(70)
    cut = Epochs(epochs=3, count=20, seed=3)
    found = answers(samples, cut)
    assert all(answer == found[0] for answer in found)
    order = np.random.default_rng(1).permutation(70)
    files = [subsets(filtered(pool, cut, shards=n), 3) for pool in (samples, samples.take(order)) for n in (1, 7)]
    assert files[0] == oracle(samples.uid, 20, cut)
    assert all(file == files[0] for file in files)


def test_epochs_with_replacement_overlap_as_chance_has_it() -> None:
    found = [set(epoch) for epoch in subsets(filtered(Samples.drawn(1000), EVERY, shards=2), 6)]
    assert [len(epoch) for epoch in found] == [300] * 6
    shared = [len(a & b) for a, b in itertools.combinations(found, 2)]
    assert min(shared) > 50  # of two samples of 300 from 1,000: 90, standard deviation 6.6
    assert max(shared) < 130


EVERY = Epochs(epochs=6, fraction=0.3, replacement=True)


def test_shuffles_are_even_and_have_nothing_in_common() -> None:
    uids = uids_from_hex([f"{n:032x}" for n in range(20_000)])
    seeds = [shuffle_seed(seed, shuffle) for seed in (0, 1, (1 << 31) - 1) for shuffle in (0, 1, 2, 9_999)]
    assert len(set(seeds)) == len(seeds)
    assert all(1 << 63 <= seed < 1 << 64 for seed in seeds)
    hashes = np.stack([hash_values(uids, seed) for seed in [*seeds, 0]])  # 0: that of a cut of its own
    counts = np.stack([np.histogram(one, bins=20, range=(0, 1))[0] for one in hashes])
    assert (((counts - 1000) ** 2 / 1000).sum(axis=1) < 50).all()  # chi squared of 19 degrees, p = 0.0001
    assert np.abs(np.corrcoef(hashes) - np.eye(len(hashes))).max() < 0.04


def test_more_epochs_begin_with_the_same() -> None:
    samples = Samples.drawn(40)
    few, many = (subsets(filtered(samples, Epochs(epochs=n, count=15)), 3) for n in (3, 8))
    assert few == many
    other = subsets(filtered(samples, Epochs(epochs=3, count=15, seed=1)), 3)
    assert all(a != b for a, b in zip(few, other, strict=True))


@pytest.mark.parametrize(("fraction", "of", "size"), [(0.29, "survivors", 29), (0.29, "pool", 34), (0.9, "pool", 100)])
def test_a_fraction_is_of_what_is_in_or_of_the_pool(fraction: float, of: str, size: int) -> None:
    samples = Samples.drawn(120, caption=["x"] * 20 + ["three words here"] * 100)
    cut = Epochs(epochs=2, fraction=fraction, of=of)
    found = filtered(samples, Rules(min_words=2), cut, shards=3)
    assert subsets(found, 2) == oracle(samples.uid[20:], size, cut)
    assert size == min(asked(fraction, 120 if of == "pool" else 100), 100)
    report = found.step("epochs").report
    assert (report["asked"], report["epochs"], report["in"]) == (size, 2, 100)
    assert report["shuffles"] == (1 if size < 50 else 2)


def test_after_a_random_cut_of_the_same_seed_epochs_are_still_uniform() -> None:
    samples = Samples.drawn(2000)
    found = filtered(samples, Random(fraction=0.5, seed=4), Epochs(epochs=1, fraction=0.5, seed=4))
    values = hash_values(uids_from_hex(found.kept), 4)
    assert len(values) == 500
    assert abs(values.mean() - 0.75) < 0.03  # uniform in [0.5, 1): standard error 0.0065


def test_the_manifest_lists_the_epochs_of_every_sample() -> None:
    samples = Samples.drawn(30, caption=["x"] * 5 + ["three words here"] * 25)
    samples.image[7] = 0
    rules = filtered(samples, Rules(min_words=2), shards=3)
    found = rules.through(Epochs(epochs=4, count=10))
    cuts = (("rules", rules.artifact("rules")), ("epochs", found.artifact("epochs")))
    out = execute(Manifest(found.survivors.samples, found.artifact("distinct"), cuts), found.run).artifact
    rows = [row for index in range(3) for row in out.read(index).to_pylist()]
    expected = subsets(found, 4)
    for n, row in enumerate(rows):
        if n < 5 or n == 7:
            assert (row["epochs.epochs"], row["reason"]) == (None, "rules" if n < 5 else "reject:vector-zero")
            continue
        epochs = [epoch for epoch, members in enumerate(expected) if row["uid"] in members]
        assert (row["epochs.epochs"], row["kept"], row["weight"]) == (epochs, bool(epochs), float(bool(epochs)))
        assert row["reason"] == (None if epochs else "epochs")
    kept = np.load(io.BytesIO(storage.read_bytes(out.meta("uids.npy"))))
    assert [f"{high:016x}{low:016x}" for high, low in kept.tolist()] == sorted(set().union(*expected))


def test_many_epochs_share_their_passes() -> None:
    samples = Samples.drawn(30, uid=hex_uids(30, seed=5))
    cut = Epochs(epochs=150, count=14)  # more than are selected, and written, at once
    assert subsets(filtered(samples, cut, shards=2), 150) == oracle(samples.uid, 14, cut)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0, "count": 1}, "greater than or equal to 1"),
        ({"epochs": 1}, "must have one of fraction, count and threshold, got none"),
        ({"epochs": 1, "count": 0}, "at least 1 sample, got fraction = None, count = 0; ask for more"),
        ({"epochs": 1, "fraction": 0.0}, "at least 1 sample, got fraction = 0.0, count = None; ask for more"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises((JobError, ValueError), match=message):
        Epochs(**options)


def test_an_epoch_of_less_than_a_sample_is_refused() -> None:
    with pytest.raises(JobError, match=r"at least 1 sample, but fraction = 0.01, count = None of 99 samples is 0"):
        filtered(Samples.drawn(99), Epochs(epochs=1, fraction=0.01))
