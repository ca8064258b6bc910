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

REPEATED = "repeated-uid"
"""Kind of the reject for a sample with the uid of an earlier sample."""

LIKE = "like"
"""Entry in the summary of a shard that cannot be read: the URL of a readable shard, from which it has its columns."""

FAILED = "failed"
"""Entry in the summary of such a shard of vectors, and in the report of all: how many could not be read."""

NO_VECTORS = "vectors-unreadable"
"""Kind of the reject for each sample of a shard whose samples can be read, and whose vectors cannot."""


def rejects_report(totals: Totals) -> Summary:
    """Counts over all shards: kept (samples that stay), rejected, and rejects by kind."""
    kinds = totals.by_name("rejects")
    return {"kept": totals.number("kept"), "rejected": kinds.total(), "rejects": dict(sorted(kinds.items()))}


def vectors_report(totals: Totals) -> Summary:
    """`rejects_report`, and how many shards could not be read."""
    return {**rejects_report(totals), FAILED: totals.by_name(FAILED).total()}


def samples_report(totals: Totals) -> Summary:
    """`rejects_report`, and uids by source."""
    return {**rejects_report(totals), "named": dict(sorted(totals.by_name("named").items()))}


def write_rejects(out: Artifact, index: int, rejects: Sequence[Reject]) -> None:
    """Commit the rejects of one shard. The shard's own file, which is written later, has their counts by kind."""
    rows = [{name: getattr(reject, name) for name in REJECTS.names} for reject in rejects]
    write_table(out.rejects(index), pa.Table.from_pylist(rows, REJECTS))


def read_rejects(out: Artifact, index: int) -> pa.Table:
    """The rejects of one shard, columns REJECTS; empty if there are none."""
    if not out.summary(index)["rejects"]:
        return REJECTS.empty_table()
    return read_table(out.rejects(index))
