"""A uniform sample by a hash: exact counts, nested fractions, independent of shards, and spread evenly."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Samples, answers, filtered, hex_uids
from winnow.pipeline.uid import uids_from_hex
from winnow.stages.cuts.random import Random
from winnow.stages.kernels.uid_hash import hash_values

MASK = (1 << 64) - 1


def splitmix(x: int) -> int:
    """The finaliser of splitmix64 in Python's own integers."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@settings(max_examples=50, deadline=None)
@given(uid=st.binary(min_size=16, max_size=16), seed=st.integers(0, (1 << 31) - 1))
def test_the_hash_is_splitmix_of_both_halves(uid: bytes, seed: int) -> None:
    high, low = int.from_bytes(uid[:8], "big"), int.from_bytes(uid[8:], "big")
    expected = (splitmix(high ^ splitmix((low + splitmix(seed)) & MASK)) >> 40) / (1 << 24)
    assert hash_values(uids_from_hex([uid.hex()]), seed).tolist() == [expected]


def test_hashes_are_even_and_seeds_are_independent() -> None:
    uids = uids_from_hex([f"{n:032x}" for n in range(20_000)])
    one, two = hash_values(uids, 0), hash_values(uids, 1)
    counts = np.histogram(one, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi squared of 19 degrees, p = 0.0007
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02
    assert one.max() < 1
    assert one.min() >= 0


def test_counts_are_exact_and_one_for_any_shards() -> None:
    samples = Samples.drawn(60)
    found = answers(samples, Random(fraction=0.35, seed=4))
    assert len(found[0]) == 21
    assert all(answer == found[0] for answer in found)
    assert sorted(filtered(samples, Random(fraction=0.35, seed=5)).kept) != found[0]


def test_a_smaller_sample_lies_in_a_larger_one() -> None:
    samples = Samples.drawn(60)
    kept = [set(filtered(samples, Random(count=n), shards=2).kept) for n in (0, 7, 20, 60)]
    assert [len(found) for found in kept] == [0, 7, 20, 60]
    assert all(small < large for small, large in itertools.pairwise(kept))


def test_it_is_the_highest_hashes() -> None:
    uids = hex_uids(50)
    values = dict(zip(uids, hash_values(uids_from_hex(uids), 3).tolist(), strict=True))
    expected = sorted(uids, key=lambda uid: (-values[uid], uid))[:9]
    assert set(filtered(Samples.drawn(50, uid=uids), Random(count=9, seed=3), shards=4).kept) == set(expected)


@pytest.mark.parametrize(("fraction", "kept"), [(0.29, 29), (0.57, 57), (1.0, 100), (0.0, 0), (0.295, 29)])
def test_a_fraction_is_the_decimal_that_was_written(fraction: float, kept: int) -> None:
    # int(0.29 * 100) and int(0.57 * 100) are one less in floats
    assert len(filtered(Samples.drawn(100), Random(fraction=fraction)).kept) == kept
