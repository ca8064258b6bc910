"""Compares the sizes of clusters with those of the run that their centroids come from: how a pool has drifted."""

import numpy as np
from jaxtyping import Float, Int64

from winnow.pipeline import storage
from winnow.pipeline.artifact import array_if_whole
from winnow.pipeline.stage import Summary

_META = ".meta"
_MOST = 3  # clusters to name


def drift_from(centroids: str, name: str, sizes: Int64[np.ndarray, "k"]) -> Summary:
    """What a report says of the drift: `drift` and `told`; {} if the centroids are no other run's, or either is empty.

    centroids: the file that they come from; `name`, in the same folder, has that run's members of every cluster.
    `drift.distance` is the total variation distance ½ Σ|q − p| of the shares p before and q now: the share of samples
    that would have to lie in another cluster for the shares to be as before. `drift.most`: the clusters whose shares
    changed the most, as [cluster, before, now].
    """
    folder = storage.parent_of(centroids)
    before = array_if_whole(storage.join(folder, name)) if folder.endswith(_META) else None
    if before is None or before.shape != sizes.shape or not (before.sum() and sizes.sum()):
        return {}
    shares = [_shares(before), _shares(sizes)]
    change = np.abs(shares[1] - shares[0])
    most = [j for j in np.argsort(-change, kind="stable")[:_MOST].tolist() if change[j] > 0]
    distance = float(change.sum() / 2)
    named = [f"{j} ({100 * shares[0][j]:.2f} % before, {100 * shares[1][j]:.2f} % now)" for j in most]
    run = storage.name_of(folder).removesuffix(_META)
    told = f"the clusters drifted by {100 * distance:.1f} % from those of {run}"
    told += f"; most of all cluster {', '.join(named)}" if named else ""
    drift = {"from": run, "distance": distance, "most": [[j, float(shares[0][j]), float(shares[1][j])] for j in most]}
    return {"drift": drift, "told": told}


def _shares(sizes: Int64[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    found: np.ndarray = sizes / sizes.sum()
    return found
