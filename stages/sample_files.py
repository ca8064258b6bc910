"""Writes the samples of one shard: places, captions, sizes and hashes, and before them the rejects."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.stage import ShardItem, Summary
from winnow.pipeline.uid import UID_ARROW
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.rejects import write_rejects

_PLACE = pa.schema(
    [
        ("position", pa.int64()),
        ("key", pa.string()),
        ("uid", pa.string()),
        ("caption", pa.string()),
        ("image_hash", UID_ARROW),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("extra_ranges", pa.list_(pa.int64())),
        ("plain", pa.bool_()),
    ]
)


def commit_samples(
    out: Artifact, item: ShardItem, samples: Sequence[Sample], sides: np.ndarray, rejects: Sequence[Reject]
) -> Summary:
    """Commit the samples of a shard of images. sides: int32 (2, n), width and height in pixels."""
    rows = {name: [getattr(sample, name) for sample in samples] for name in _PLACE.names if name != "uid"}
    table = pa.Table.from_pydict({**rows, "uid": [sample.uid.hex() for sample in samples]}, _PLACE)
    table = table.append_column("width", pa.array(sides[0])).append_column("height", pa.array(sides[1]))
    return commit(out, item, table, rejects, {"named": dict(Counter(sample.named for sample in samples))})


def commit(
    out: Artifact, item: ShardItem, table: pa.Table, rejects: Sequence[Reject], more: Mapping[str, object]
) -> Summary:
    """Commit one shard: its rejects first, then its samples. So if the file of samples exists, both are complete.

    more: further entries of its summary.
    """
    kinds = dict(sorted(Counter(reject.kind for reject in rejects).items()))
    if rejects:
        write_rejects(out, item.index, rejects)
    summary = {"rows": table.num_rows, "kept": table.num_rows, "rejects": kinds, **more}
    out.write(item.index, table, summary)
    return summary
