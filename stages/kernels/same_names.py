"""Finds, for each of many 128-bit names, the first one that is the same."""

import numpy as np
from jaxtyping import Int64, Shaped


def first_of_name(names: Shaped[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """For each name the index of the first equal one: int64 (n,); its own index for the first.

    names: (n,) of dtype UID, in any order. Cost: one sort, two if different names share their high half.
    """
    order = np.argsort(names["f0"], kind="stable")
    ordered = names[order]
    new = _differs(ordered)
    if (new[1:] & (ordered["f0"][1:] == ordered["f0"][:-1])).any():
        order = np.lexsort((names["f1"], names["f0"]))
        new = _differs(names[order])
    first = np.empty(len(names), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]  # both sorts are stable, so the first of each run is the lowest index
    return first


def _differs(ordered: np.ndarray) -> np.ndarray:
    """Which names differ from the one before: bool (n,), True for the first."""
    new = np.ones(len(ordered), bool)
    high, low = ordered["f0"], ordered["f1"]
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return new
