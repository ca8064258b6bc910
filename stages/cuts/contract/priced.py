"""Shrinks the options of a cut for the small run of `plan --price`, so that its cost is in proportion to the job's."""

from dataclasses import fields, replace
from typing import Any, TypeVar, cast

_Cut = TypeVar("_Cut")

_ROOM = 20  # least samples per cluster in the small run; with the job's own number of clusters there would be fewer


def smaller(cut: _Cut, rows: int, samples: float) -> _Cut:
    """The same cut for `rows` samples in place of `samples`, by the names of its options.

    count: shrinks in proportion. clusters, sample_per_cluster: k-means sees the same share of the samples, because each
    of those is read and written once more; a cluster has at least 20 samples. Known centroids and all other options
    stay as they are.
    """
    options = {field.name: getattr(cut, field.name) for field in fields(cast(Any, cut)) if field.init}
    changes: dict[str, int] = {}
    if isinstance(count := options.get("count"), int):
        changes["count"] = max(1, round(count * rows / samples))
    if isinstance(k := options.get("clusters"), int):
        each = options.get("sample_per_cluster")
        seen = rows if each is None else min(1.0, k * each / samples) * rows
        changes["clusters"] = max(2, int(min(k, rows / _ROOM, seen)))
        if each is not None:
            changes["sample_per_cluster"] = max(1, round(seen / changes["clusters"]))
    return replace(cast(Any, cut), **changes) if changes else cut
