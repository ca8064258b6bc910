"""The files of one step of semantic deduplication: the links of each sample, and its status so far.

Each input shard has one `links/NNNNN.parquet` and one `state/NNNNN.parquet`. docs/semantic.md explains both.
"""

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import read_table, shard_name, write_table
from winnow.pipeline.columns import column, places_in
from winnow.pipeline.order import KEY_ARROW
from winnow.pipeline.stage import Summary

WAITING, KEPT, REMOVED, CUT_OFF = 0, 1, 2, 3
"""The status of a sample.

WAITING: it depends on samples that are not decided. KEPT, REMOVED: final. CUT_OFF: all samples that its links name are
removed, but its list of links was full, so it may be close to more samples.
"""

STATE = pa.schema(
    [
        ("row", pa.int64()),
        ("key", KEY_ARROW),
        ("cell", pa.int32()),
        ("status", pa.int8()),
        ("named", KEY_ARROW),
        ("cosine", pa.float32()),
    ]
)
"""One row for each sample of a shard that has a link; all others are KEPT. named: whom a removed sample repeats."""

LINKS = pa.schema(
    [
        ("row", pa.int64()),
        ("key", KEY_ARROW),
        ("cell", pa.int32()),
        ("other", KEY_ARROW),
        ("other_cell", pa.int32()),
        ("cosine", pa.float32()),
        ("asked", pa.bool_()),
    ]
)
"""Links and questions of the samples of one shard.

Link (`asked` is false): the sample `row` is close to the better sample `other`. Question (`asked` is true): some worse
sample whose home is `other_cell` has a link to the sample `row`, so that cell must be told the status of `row`.
"""


def read_links(folder: str, index: int) -> pa.Table:
    """Columns LINKS of one shard."""
    return read_table(storage.join(folder, "links", shard_name(index))).cast(LINKS)


def read_state(folder: str | None, index: int) -> pa.Table:
    """Columns STATE of one shard; empty if folder is None, which is so before the first step."""
    if folder is None:
        return STATE.empty_table()
    return read_table(storage.join(folder, "state", shard_name(index))).cast(STATE)


def write_state(folder: str, index: int, state: pa.Table) -> Summary:
    """Commit the state of one shard; the summary counts samples: `waiting` those WAITING, `cut` those CUT_OFF."""
    write_table(storage.join(folder, "state", shard_name(index)), state)
    status = column(state, "status")
    return {"rows": len(status), "waiting": int((status == WAITING).sum()), "cut": int((status == CUT_OFF).sum())}


def statuses(folder: str | None, index: int, rows: np.ndarray) -> np.ndarray:
    """Status of the samples at rows (m,) of a shard: int8 (m,). If folder is None, before the first step, all wait."""
    if folder is None:
        return np.full(len(rows), WAITING, np.int8)
    state = read_state(folder, index)
    known = np.r_[column(state, "status"), np.int8(KEPT)]  # the last entry, index -1, is for samples without a link
    found: np.ndarray = known[places_in(column(state, "row"), rows)]
    return found
