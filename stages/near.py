"""Which samples of one cluster repeat an earlier one: the kernel of semantic deduplication, on arrays."""

from typing import Literal

import numpy as np
from jaxtyping import Float32, Float, Int64

Method = Literal["greedy", "semdedup"]

_BLOCK = 1024


def repeats(
    vectors: Float[np.ndarray, "n d"], epsilon: float, method: Method
) -> tuple[Int64[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """For each sample of a cluster, the earlier one that removes it, and their cosine.

    Sample j goes when max over earlier i of ⟨x_i, x_j⟩ > 1 - epsilon (strict). greedy: i over samples that stay;
    semdedup: i over all earlier ones, so a removed sample still removes (Abbas et al. 2023, arXiv 2303.09540).

    vectors: (n, d) float16 or float32, unit norm, in the order that decides: the first of a set stays.
    Returns leader: int64 (n,), the row of highest cosine among those i (the first of equal ones), -1 for samples
    that stay; cosine: float32 (n,), 0 for them.
    Cost O(n² d) time, O(n d + n · 1024) memory.
    """
    n = len(vectors)
    leader = np.full(n, -1, np.int64)
    cosine = np.zeros(n, np.float32)
    limit = np.float32(1.0 - epsilon)
    pool = np.empty((n, vectors.shape[1]), np.float32)  # vectors that may remove others, in order
    rows = np.empty(n, np.int64)  # their row numbers
    held = 0
    for start in range(0, n, _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32)  # (b, d)
        best, by = np.full(len(block), -np.inf, np.float32), np.full(len(block), -1, np.int64)
        for low in range(0, held, _BLOCK):
            products = block @ pool[low : min(low + _BLOCK, held)].T  # (b, d) @ (d, p)
            at = products.argmax(axis=1)
            found = products[np.arange(len(block)), at]
            better = found > best
            best[better], by[better] = found[better], rows[low + at[better]]
        inside = block @ block.T  # (b, b)
        stays = np.zeros(len(block), bool)
        for j in range(len(block)):
            earlier = inside[j, :j] if method == "semdedup" else np.where(stays[:j], inside[j, :j], -np.inf)
            if j and earlier.max() > best[j]:
                best[j], by[j] = earlier.max(), start + int(earlier.argmax())
            stays[j] = not best[j] > limit
        gone = np.flatnonzero(~stays)
        leader[start + gone], cosine[start + gone] = by[gone], best[gone]
        added = np.arange(len(block)) if method == "semdedup" else np.flatnonzero(stays)
        pool[held : held + len(added)] = block[added]
        rows[held : held + len(added)] = start + added
        held += len(added)
    return leader, cosine
