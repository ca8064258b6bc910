"""How often each text occurs in the pool: the counts of shards meet in an exchange by a hash of the text."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.columns import column, split_table
from winnow.pipeline.uid import UID_ARROW, content_hash, uids_from_bytes
from winnow.stages.kernels.uid_hash import hash64

_COUNTED = pa.schema([("hash", UID_ARROW), ("count", pa.int64()), ("shard", pa.int64())])


def scatter_counts(texts: pa.DictionaryArray, shard: int, parts: int) -> Mapping[int, pa.Table]:
    """For each part the hash, count and shard of the different texts of a shard. Nulls are not counted."""
    hashes = _hashes(texts)
    count = np.bincount(np.asarray(texts.indices.drop_null()), minlength=len(hashes))
    table = pa.table([hashes, pa.array(count, pa.int64()), pa.array(np.full(len(hashes), shard))], schema=_COUNTED)
    part = (hash64(uids_from_bytes(table["hash"]), 0) % np.uint64(parts)).astype(np.int64)
    return split_table(table, part)


def sizes_of(tables: Sequence[pa.Table]) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Of one part: all rows that were sent, the number of the text of each (n,), and the count of each text (m,)."""
    table = pa.concat_tables(tables)
    _, text = np.unique(uids_from_bytes(table["hash"]), return_inverse=True)
    size = np.zeros(int(text.max(initial=-1)) + 1, np.int64)
    np.add.at(size, text, column(table, "count"))
    return table, text, size


def answers_of(table: pa.Table, columns: Mapping[str, pa.Array]) -> Mapping[int, pa.Table]:
    """What each shard is told of its texts. table: of `sizes_of`; columns: a value for each of its rows."""
    answers = pa.table({"hash": table["hash"], **columns})
    return split_table(answers, column(table, "shard"))


def told_of(texts: pa.DictionaryArray, tables: Sequence[pa.Table], name: str) -> pa.Array:
    """Column `name` of the answers for every row of a shard (n,), null where the text is."""
    if not tables:
        return pa.nulls(len(texts), pa.int64())
    told = pa.concat_tables(tables)
    by_text = told[name].combine_chunks().take(pc.index_in(_hashes(texts), told["hash"].combine_chunks()))
    return by_text.take(texts.indices)


def _hashes(texts: pa.DictionaryArray) -> pa.Array:
    """The hash of each different text, in the order of the dictionary."""
    return pa.array([content_hash(text.encode()) for text in texts.dictionary.to_pylist()], UID_ARROW)
