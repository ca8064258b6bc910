"""The rejects of a shard: samples that cannot be read or embedded, a row each with its kind and message."""

from collections.abc import Sequence

import pyarrow as pa

from winnow.pipeline.artifact import Artifact, read_table, write_table
from winnow.pipeline.stage import Summary
from winnow.pipeline.totals import Totals
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
"""Kind of the single reject for a shard that cannot be read, whatever the number of its samples."""

LIKE = "like"
"""Entry in the summary of such a shard: the URL of a readable shard, from which it has its columns and widths."""


def embedding_report(totals: Totals) -> Summary:
    """Counts over all shards: kept (readable samples), rejected, rejects by kind, and uids by source."""
    kinds, named = totals.by_name("rejects"), totals.by_name("named")
    return {
        "kept": totals.number("rows"),
        "rejected": kinds.total(),
        "rejects": dict(sorted(kinds.items())),
        "named": dict(sorted(named.items())),
    }


def write_rejects(out: Artifact, index: int, rejects: Sequence[Reject]) -> None:
    """Commit the rejects of one shard. The shard's own file, which is written later, has their counts by kind."""
    rows = [{name: getattr(reject, name) for name in REJECTS.names} for reject in rejects]
    write_table(out.rejects(index), pa.Table.from_pylist(rows, REJECTS))


def read_rejects(out: Artifact, index: int) -> pa.Table:
    """The rejects of one shard, columns REJECTS; empty if there are none."""
    if not out.summary(index)["rejects"]:
        return REJECTS.empty_table()
    return read_table(out.rejects(index))
