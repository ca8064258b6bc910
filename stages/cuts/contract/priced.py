"""Asks a cut of fewer samples, so that a miniature of a job costs in proportion what the whole job will."""

from dataclasses import fields, replace
from typing import Any, TypeVar, cast

_Cut = TypeVar("_Cut")

_ROOM = 20  # samples of a cluster in the miniature, where the job's own clusters would be emptier


def smaller(cut: _Cut, rows: int, samples: float) -> _Cut:
    """The same cut for `rows` samples in place of `samples`, by the names that its options have.

    count: shrinks as the samples do. clusters, sample_per_cluster: k-means sees the same share of the samples, for each
    of them is read and written once more; a cluster has 20 samples or more. Known centroids stay, as all else does.
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
