"""Writes the vectors of one encoder for one shard: which samples have a direction, vectors of both towers, cosines."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import vector_column
from winnow.pipeline.stage import ShardItem, Summary
from winnow.stages.pools.sample import Reject
from winnow.stages.rejects import write_rejects


def cosine(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Row-wise cosine of unit vectors (n, d) float16: float32 (n,); 0 for a row of zeros.

    float32 holds products of float16 exactly, and they are summed in float64, so blocks and threads change no bit.
    """
    products = image.astype(np.float32) * text.astype(np.float32)  # (n, d)
    cosines: np.ndarray = products.sum(axis=1, dtype=np.float64).astype(np.float32)
    return cosines


def commit_vectors(
    out: Artifact, item: ShardItem, vectors: Mapping[str, np.ndarray], refused: Mapping[int, Reject]
) -> Summary:
    """Commit the vectors of an encoder. vectors: tower → float16 (n, d), zero in refused rows, `image` among them."""
    columns = {tower: vector_column(values) for tower, values in vectors.items()}
    similarity = cosine(vectors["image"], vectors["text"]) if "text" in vectors else None
    return commit_directions(out, item, len(vectors["image"]), similarity, refused, columns)


def commit_directions(
    out: Artifact,
    item: ShardItem,
    rows: int,
    similarity: np.ndarray | None,
    refused: Mapping[int, Reject],
    columns: Mapping[str, pa.Array] | None = None,
    more: Mapping[str, object] | None = None,
) -> Summary:
    """Commit one shard, its rejects first: `kept` (bool), the columns, and `similarity` (float32) if it is known.

    refused: by row, in order. more: further entries of the summary.
    """
    kinds = dict(sorted(Counter(reject.kind for reject in refused.values()).items()))
    if refused:
        write_rejects(out, item.index, list(refused.values()))
    kept = np.ones(rows, bool)
    kept[list(refused)] = False
    table = pa.table({"kept": pa.array(kept), **(columns or {})})
    if similarity is not None:
        table = table.append_column("similarity", pa.array(similarity))
    summary = {"rows": rows, "kept": int(kept.sum()), "rejects": kinds, **(more or {})}
    out.write(item.index, table, summary)
    return summary
