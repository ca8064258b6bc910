"""The rejects of a shard: samples that cannot be read or embedded, a row each with its kind and message."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

import pyarrow as pa

from winnow.pipeline.artifact import Artifact, read_table, write_table
from winnow.pipeline.stage import Summary, total
from winnow.stages.pools.sample import Reject

REJECTS = pa.schema(
    [
        ("position", pa.int64()),
        ("key", pa.string()),
        ("offset", pa.int64()),
        ("kind", pa.string()),
        ("message", pa.string()),
    ]
)
"""Columns of a rejects file; offset is -1 if the shard is no tar."""

UNREADABLE = "shard-unreadable"
"""Kind of the one reject that stands for a shard that cannot be read, however many samples it has."""

LIKE = "like"
"""In the summary of such a shard: the URL of one that can be read, whose vectors are as wide."""


def report(summaries: list[Summary]) -> Summary:
    """Counts over all shards: kept (readable samples), rejected, rejects by kind, and the sources of the uids."""
    kinds, named = Counter[str](), Counter[str]()
    for summary in summaries:
        kinds.update(cast(Mapping[str, int], summary["rejects"]))
        named.update(cast(Mapping[str, int], summary.get("named", {})))
    return {
        "kept": total(summaries, "rows"),
        "rejected": kinds.total(),
        "rejects": dict(sorted(kinds.items())),
        "named": dict(sorted(named.items())),
    }


def write_rejects(out: Artifact, index: int, rejects: Sequence[Reject]) -> None:
    """Commit the rejects of one shard; the shard's own file, which comes after it, counts them by kind."""
    rows = [{name: getattr(reject, name) for name in REJECTS.names} for reject in rejects]
    write_table(out.rejects(index), pa.Table.from_pylist(rows, REJECTS))


def read_rejects(out: Artifact, index: int) -> pa.Table:
    """The rejects of one shard, columns REJECTS; empty where there are none."""
    if not out.summary(index)["rejects"]:
        return REJECTS.empty_table()
    return read_table(out.rejects(index))
