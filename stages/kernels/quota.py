"""Decides how many samples each cluster keeps, from its complexity; the quotas sum exactly.

Density-based pruning (Abbas et al. 2024, arXiv 2401.04578): complexity → softmax share → Euclidean projection
on what each cluster can give → whole numbers. Everything is float64 and closed form.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64

from winnow.pipeline.errors import DataError

_SCORE_CELLS = 1 << 24  # float32 cosines at once: 64 MB
_BLOCK_ROWS = 256  # centroids of one block of inter_distance: 256 l d float64, 42 MB for l = 20, d = 1024


def complexity(
    d_intra: Float64[np.ndarray, "k"], d_inter: Float64[np.ndarray, "k"], size: Int64[np.ndarray, "k"]
) -> Float64[np.ndarray, "k"]:
    """C_j = d_inter_j · d_intra_j, how much there is to learn in a cluster.

    d_intra: float64 (k,), mean over members of 1 − cosine with their centroid; may be NaN where size < 2.
    d_inter: float64 (k,), from `inter_distance`. size: int64 (k,), members.
    A cluster of 0 or 1 members has no spread, so it gets the mean of all defined C. If no C is defined, all are 1.
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
    Returns float64 (k,) in [0, 2]; zeros for k = 1. A float32 product finds the neighbours, and their cosines are
    summed in float64. Cost: O(k² d) time, 46 core seconds for k = 50,000 and d = 512. Memory: at most 192 MB of scores
    and their indices, and 2 · 256 l d float64.
    Raises DataError for neighbours < 1.
    """
    if neighbours < 1:
        raise DataError(f"neighbours must be at least 1, got {neighbours}; 20 is usual")
    k = len(centroids)
    nearest = min(neighbours, k - 1)
    mean = np.zeros(k)
    if nearest < 1:
        return mean
    step = min(_BLOCK_ROWS, max(1, _SCORE_CELLS // k))
    for start in range(0, k, step):
        own = centroids[start : start + step]
        scores = own @ centroids.T  # (b, d) @ (d, k) = (b, k)
        scores[np.arange(len(own)), np.arange(start, start + len(own))] = -np.inf  # not its own neighbour
        # argpartition leaves the l nearest in any order; sorting their indices fixes the order of the sum below
        near = np.sort(np.argpartition(scores, k - nearest, axis=1)[:, k - nearest :], axis=1)  # (b, l)
        cosine = np.vecdot(centroids[near].astype(np.float64), own[:, None].astype(np.float64))  # (b, l, d), (b, 1, d)
        mean[start : start + step] = np.clip(1 - cosine, 0, 2).mean(axis=1)
    return mean


def share(complexity: Float64[np.ndarray, "k"], temperature: float) -> Float64[np.ndarray, "k"]:
    """P = softmax(C / tau), float64 (k,), Σ = 1. The largest exponent is 0, so exp cannot overflow.

    temperature: tau > 0; 0.1 in the paper, usually 0.02 to 1. Raises DataError for tau <= 0.
    """
    if not temperature > 0:
        raise DataError(f"temperature must be > 0, got {temperature}; the paper uses 0.1")
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
    x_j(nu) = clip(target_j − nu, lower_j, upper_j). If Σx(nu) = total, x(nu) is the answer: for every y within the
    bounds that sums to total, the Lagrangian equals the objective, and it is larger than at x(nu). Σx(nu) is continuous
    and falls from Σ upper to Σ lower, so such a nu exists, and all of them give the same x. Σx(nu) is linear between
    the 2 k points target − upper and target − lower, where a coordinate leaves or meets its bound. So we bisect the
    sorted points and solve the one linear piece. The overflow of full clusters spreads additively, not in proportion.
    Cost: O(k log k). Ties and lower = upper need no special case.
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
    nu = (points[below] + points[above]) / 2  # inside the piece, where it is clear which coordinates are at a bound
    full, empty = target - nu >= upper, target - nu <= lower
    free = ~(full | empty)
    if free.any():  # solve Σ(target − nu) over the free ones = total − held; else any nu of the piece gives the same x
        held = upper[full].sum() + lower[empty & ~full].sum()
        nu = (target[free].sum() + held - total) / free.sum()
    x: np.ndarray = np.clip(target - nu, lower, upper)
    return x


def round_to_total(
    x: Float64[np.ndarray, "k"], lower: Int64[np.ndarray, "k"], upper: Int64[np.ndarray, "k"], total: int
) -> Int64[np.ndarray, "k"]:
    """Largest remainder: floor(x), and 1 more for the largest fractions until Σ is exactly total.

    x: float64 (k,), within the bounds and Σx = total, both up to the rounding of floats. Each result is the floor or
    the ceiling of its x, so it is within the bounds. Equal fractions: the lowest index first. Cost: O(k log k).
    Raises DataError for bounds that cannot hold total, and for |Σx − total| >= 0.5.
    """
    _check_bounds(lower, upper, total)
    inside: np.ndarray = np.clip(x, lower, upper)
    if not abs(inside.sum() - total) < 0.5:
        raise DataError(
            f"x must be within its bounds and sum to {total}, but clipped to them it sums to {inside.sum()}"
        )
    whole: np.ndarray = np.floor(inside).astype(np.int64)
    missing = total - int(whole.sum())  # below k, because each floor takes away less than 1
    largest_first = np.argsort(whole - inside, kind="stable")  # whole − inside is minus the fraction
    whole[largest_first[:missing]] += 1
    return whole


def quotas(
    size: Int64[np.ndarray, "k"],
    complexity: Float64[np.ndarray, "k"],
    total: int,
    temperature: float = 0.1,
    balance: float = 0.0,
) -> tuple[Float64[np.ndarray, "k"], Int64[np.ndarray, "k"]]:
    """share P = softmax(C / tau), and quota: P · total projected on [lb, size], in whole numbers, Σ = total.

    size: int64 (k,), members M_j. total: samples to keep, 0 to Σ size.
    balance: b in [0, 1]. b = 0, the paper's best, gives lb_j = min(1, M_j − 1); otherwise lb_j =
        min(int(total / k · b), M_j − 1). lb_j is at least 0 in both cases. If Σ lb > total (fewer samples asked for
        than clusters), all lb are 0 and the samples go to the largest shares.
    The published code rounds each quota by itself and misses total by up to 0.2 %; this does not.
    Raises DataError for a total outside [0, Σ size], tau <= 0, or balance outside [0, 1].
    """
    if not 0 <= balance <= 1:
        raise DataError(f"balance must be from 0 to 1, got {balance}; the paper uses 0")
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
            f"the clusters must be able to hold the total, got {total:.15g}, but the bounds of {len(lower)} clusters "
            f"sum to {least:.15g} and {most:.15g}; ask for a total between these"
        )
