"""Decides how many samples each cluster keeps, from its complexity; the quotas sum exactly.

Density-based pruning (Abbas et al. 2024, arXiv 2401.04578): complexity → softmax share → Euclidean projection
on what each cluster can give → whole numbers. Everything is float64 and closed form.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64

from winnow.pipeline.errors import DataError

_SCORE_CELLS = 1 << 24  # float32 cosines at once: 64 MB
_BLOCK_ROWS = 256  # of inter_distance: float64 neighbours at once, 256 l d cells, 42 MB for l = 20, d = 1024


def complexity(
    d_intra: Float64[np.ndarray, "k"], d_inter: Float64[np.ndarray, "k"], size: Int64[np.ndarray, "k"]
) -> Float64[np.ndarray, "k"]:
    """C_j = d_inter_j · d_intra_j, how much there is to learn in a cluster.

    d_intra: (k,) mean of 1 − cosine with the own centroid over members; may be NaN where size < 2.
    d_inter: (k,) of `inter_distance`. size: int64 (k,) members.
    A cluster of no or one member has no spread: it gets the mean of the defined C; none defined: all 1.
    Raises DataError for a defined C that is not finite.
    """
    defined = size >= 2
    product = np.where(defined, d_inter * np.where(defined, d_intra, 0), 0)
    if not np.isfinite(product).all():
        j = np.flatnonzero(~np.isfinite(product))[0]
        raise DataError(
            f"a cluster of 2 or more members must have finite distances, but cluster {j} has d_intra "
            f"{d_intra[j]} and d_inter {d_inter[j]}; look for vectors that are not of unit norm"
        )
    if not defined.any():
        return np.ones(len(size))
    return np.where(defined, product, product[defined].mean())


def inter_distance(centroids: Float32[np.ndarray, "k d"], neighbours: int = 20) -> Float64[np.ndarray, "k"]:
    """d_inter_j = mean of 1 − ⟨mu_j, mu_m⟩ over the l nearest other centroids m, l = min(neighbours, k − 1).

    centroids: float32 (k, d), unit norm. neighbours: 20 in the published code.
    Returns float64 (k,) in [0, 2]; zeros for k = 1. Neighbours are found by a float32 product, their cosines
    summed in float64. Cost O(k² d), memory 64 MB and 2 · 256 l d float64, so k = 50,000 fits.
    Raises DataError for neighbours < 1.
    """
    if neighbours < 1:
        raise DataError(f"a mean over neighbours needs at least 1, got {neighbours}; 20 is usual")
    k = len(centroids)
    nearest = min(neighbours, k - 1)
    mean = np.zeros(k)
    if nearest < 1:
        return mean
    step = min(_BLOCK_ROWS, max(1, _SCORE_CELLS // k))
    for start in range(0, k, step):
        own = centroids[start : start + step]
        scores = own @ centroids.T  # (b, d) @ (d, k)
        scores[np.arange(len(own)), np.arange(start, start + len(own))] = -np.inf
        near = np.sort(np.argpartition(scores, k - nearest, axis=1)[:, k - nearest :], axis=1)  # (b, l)
        cosine = np.vecdot(centroids[near].astype(np.float64), own[:, None].astype(np.float64))
        mean[start : start + step] = np.clip(1 - cosine, 0, 2).mean(axis=1)
    return mean


def share(complexity: Float64[np.ndarray, "k"], temperature: float) -> Float64[np.ndarray, "k"]:
    """P = softmax(C / tau), float64 (k,), Σ = 1; the largest exponent is 0, so nothing overflows.

    temperature: tau > 0; 0.1 in the paper, usual 0.02 to 1. Raises DataError for tau <= 0.
    """
    if not temperature > 0:
        raise DataError(f"the temperature must be > 0, got {temperature}; 0.1 is the paper's")
    weight = np.exp((complexity - complexity.max(initial=-np.inf)) / temperature)
    return np.asarray(weight / weight.sum(), np.float64)


def project(
    target: Float64[np.ndarray, "k"],
    lower: Float64[np.ndarray, "k"],
    upper: Float64[np.ndarray, "k"],
    total: float,
) -> Float64[np.ndarray, "k"]:
    """argmin ‖x − target‖² subject to Σx = total and lower <= x <= upper.

    The Lagrangian ‖x − target‖² / 2 + nu · (Σx − total) has one minimum over the box, coordinate by coordinate:
    x_j(nu) = clip(target_j − nu, lower_j, upper_j). Where Σx(nu) = total, it is the answer: any other y within the
    bounds that sums to total has the Lagrangian as its objective, and a larger one. Σx(nu) is continuous and falls
    from Σ upper to Σ lower, so there is such a nu, and any of them gives the same x. Σx(nu) is linear between the 2 k
    points target − upper and target − lower where a coordinate leaves or meets its bound: bisect the sorted points,
    then solve the one linear piece. The overflow of full clusters so spreads additively, not in proportion.
    Cost O(k log k). Ties and zero width are no special case.
    Raises DataError for lower > upper, values that are not finite, and a total outside [Σ lower, Σ upper].
    """
    _check_bounds(lower, upper, total)
    if not np.isfinite(target).all():
        raise DataError("targets must be finite, got NaN or infinity; look at the complexities")
    points = np.sort(np.concatenate([target - upper, target - lower]))
    below, above = 0, len(points) - 1  # Σx(points[below]) >= total >= Σx(points[above])
    while above - below > 1:
        middle = (below + above) // 2
        if np.clip(target - points[middle], lower, upper).sum() >= total:
            below = middle
        else:
            above = middle
    if not len(points):
        return np.zeros(0)
    nu = (points[below] + points[above]) / 2
    full, empty = target - nu >= upper, target - nu <= lower
    free = ~(full | empty)
    if free.any():
        held = upper[full].sum() + lower[empty & ~full].sum()
        nu = (target[free].sum() + held - total) / free.sum()
    x: np.ndarray = np.clip(target - nu, lower, upper)
    return x


def round_to_total(
    x: Float64[np.ndarray, "k"], lower: Int64[np.ndarray, "k"], upper: Int64[np.ndarray, "k"], total: int
) -> Int64[np.ndarray, "k"]:
    """Largest remainder: floor(x), and 1 more for the largest fractions until Σ is exactly total.

    x: (k,) within the bounds and Σx = total, both up to the rounding of floats. Each result is floor or ceil
    of its x, so within the bounds. Equal fractions: the lowest index. Cost O(k log k).
    Raises DataError for bounds that cannot hold total, and for |Σx − total| >= 0.5.
    """
    _check_bounds(lower, upper, total)
    inside: np.ndarray = np.clip(x, lower, upper)
    if not abs(inside.sum() - total) < 0.5:
        raise DataError(f"x must be within its bounds and sum to {total}, but sums to {inside.sum()} in them")
    whole: np.ndarray = np.floor(inside).astype(np.int64)
    missing = total - int(whole.sum())
    largest_first = np.argsort(whole - inside, kind="stable")
    whole[largest_first[:missing]] += 1
    return whole


def quotas(
    size: Int64[np.ndarray, "k"],
    complexity: Float64[np.ndarray, "k"],
    total: int,
    temperature: float = 0.1,
    balance: float = 0.0,
) -> tuple[Float64[np.ndarray, "k"], Int64[np.ndarray, "k"]]:
    """share P = softmax(C / tau) and quota: P · total projected on [lb, size], in whole numbers, Σ = total.

    size: int64 (k,) members M_j. total: samples to keep, 0 to Σ size.
    balance: b in [0, 1]; 0, the paper's best, gives lb_j = min(1, M_j − 1), else
        min(int(total / k · b), M_j − 1); at least 0 in both. Where Σ lb > total (more clusters than samples
        asked), all lb are dropped to 0: the samples go to the largest shares.
    The published code rounds each quota by itself and misses total by up to 0.2 %; this does not.
    Raises DataError for a total outside [0, Σ size], tau <= 0, or balance outside [0, 1].
    """
    if not 0 <= balance <= 1:
        raise DataError(f"the balance must be from 0 to 1, got {balance}; 0 means none")
    floor = int(total / max(1, len(size)) * balance) if balance > 0 else 1
    lower = np.maximum(np.minimum(floor, size - 1), 0)
    if lower.sum() > total:
        lower = np.zeros_like(size)
    p = share(complexity, temperature)
    x = project(p * total, lower.astype(np.float64), size.astype(np.float64), float(total))
    return p, round_to_total(x, lower, size, total)


def _check_bounds(lower: np.ndarray, upper: np.ndarray, total: float | int) -> None:
    if not (lower <= upper).all():
        j = np.flatnonzero(~(lower <= upper))[0]
        raise DataError(f"bounds must be lower <= upper, but cluster {j} has {lower[j]} and {upper[j]}")
    least, most = lower.sum(), upper.sum()
    if not least <= total <= most:
        raise DataError(
            f"the clusters must be able to hold the total, got {total:.15g} and their bounds sum to "
            f"{least:.15g} and {most:.15g} over {len(lower)} clusters; ask for a total between these"
        )
