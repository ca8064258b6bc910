"""Hashes uids to uniform values, the same for any sharding."""

import numpy as np


def hash_values(uids: np.ndarray, seed: int) -> np.ndarray:
    """Uniform float32 (n,) in [0, 1) that depends on uid and seed alone.

    uids: (n,) of dtype UID. Cost O(n). float32 holds 24 bits, so one pair in 17 million ties; keep_top orders ties by
    uid.
    """
    values: np.ndarray = (hash64(uids, seed) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return values


def hash64(uids: np.ndarray, seed: int) -> np.ndarray:
    """Uniform uint64 (n,) that depends on uid and seed alone; each seed gives another hash.

    uids: (n,) of dtype UID. seed: 0 to 2^64 - 1. Cost O(n).
    """
    # The seed is mixed before it is added, so that seeds 0, 1, 2 … do not just shift the input.
    return _mixed(uids["f0"] ^ _mixed(uids["f1"] + _mixed(np.full(1, seed, np.uint64))))


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): a bijection on 64 bits that flips each bit half the time."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
