"""Draws the sample that k-means sees: each worker commits the drawn rows of many shards in one file."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_schema, read_table, shard_name, write_tables
from winnow.pipeline.columns import matrix, vector_column
from winnow.pipeline.errors import DataError, TornError
from winnow.pipeline.keep_top import Thresholds, kept
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.uid import uids_from_bytes, uids_to_bytes
from winnow.stages.cuts.keeping import UidHash, select
from winnow.stages.survivors import Survivors, Tower

_FILES = 2048  # of a sample at most: two for each of a thousand workers, and few for the one that reads them
_SHARDS_A_FILE = 8  # or fewer, where they have more than these rows together; more, where there would be more files
_ROWS_A_FILE = 1024
_GROUP_ROWS = 8192  # drawn rows that a worker holds before it writes them: 8 MB for vectors of 512 numbers
READERS = 8
"""Files that are read at once."""


def draw_sample(
    run: Run, survivors: Survivors, by: str, seed: int, wanted: int, out: Artifact, tower: Tower = "image"
) -> None:
    """Commit the rows with the highest hashes of uid and seed; neighbouring shards share a file, see files_of_sample.

    wanted: rows. Whole files of an earlier run stay; damaged ones are made again. Which rows are drawn depends on
    nothing but the uids.
    """
    blocks = _blocks(run.items, wanted)
    urls = [found.url for found in storage.listing(out.meta("sample"))]
    with ThreadPoolExecutor(READERS) as pool:
        there = {url for url, whole in zip(urls, pool.map(_is_whole, urls), strict=True) if whole}
    missing = [block for block in blocks if _url(out, block.number, block.count) not in there]
    if not missing:
        return
    source = UidHash(survivors, seed)
    drawn = select(run, source, np.array([wanted], np.int64), "clusters: draw a sample")
    for _ in run.each(_Draw(survivors, by, source, drawn, out, tower), missing, "clusters: read the sample"):
        pass


def _is_whole(url: str) -> bool:
    try:
        read_schema(url)
    except TornError:
        return False
    return True


def read_sample(out: Artifact, shards: int, wanted: int) -> np.ndarray:
    """The sample, rows of all shards in the order of their uids: float32 (wanted, d).

    Each row is copied once, straight to its place. Raises DataError if rows are missing.
    """
    count = files_of_sample(shards, wanted)
    urls = [_url(out, number, count) for number in range(count)]
    with ThreadPoolExecutor(READERS, "sample") as readers:
        parts = list(readers.map(_uids_of, urls))
        uids = np.concatenate(parts)
        if len(uids) != wanted:
            raise DataError(
                f"{out.meta('sample')} must hold {wanted} rows, but has {len(uids)}; delete that folder and run again"
            )
        # (wanted,): the rank of each row's uid. k-means depends on the order of rows, and shards must not set it.
        place = np.empty(len(uids), np.int64)
        place[np.lexsort((uids["f1"], uids["f0"]))] = np.arange(len(uids))
        starts = np.cumsum([0, *map(len, parts)])
        filled = np.flatnonzero(np.diff(starts))
        if not len(filled):
            return np.empty((0, 0), np.float32)
        # an empty file does not know the width of the vectors
        width = read_schema(urls[filled[0]]).field("vector").type.list_size
        vectors = np.empty((len(uids), width), np.float32)
        for _ in readers.map(partial(_fill, urls, starts, place, vectors), filled):
            pass
    return vectors


def files_of_sample(shards: int, wanted: int) -> int:
    """Number of files for a sample of `wanted` rows: one for eight shards or for 1,024 rows, 2,048 at most."""
    return min(shards, _FILES, max(-(-shards // _SHARDS_A_FILE), -(-wanted // _ROWS_A_FILE)))


def _uids_of(url: str) -> np.ndarray:
    return uids_from_bytes(read_table(url, ["uid"])["uid"])


def _fill(urls: Sequence[str], starts: np.ndarray, place: np.ndarray, vectors: np.ndarray, number: int) -> None:
    """Copy the vectors of one file to their places."""
    done = int(starts[number])
    for part in read_table(urls[number], ["vector"])["vector"].chunks:
        vectors[place[done : done + len(part)]] = matrix(part)
        done += len(part)


@dataclass(frozen=True)
class _Block:
    """Neighbouring shards whose drawn rows lie in one file: number `number` of `count`."""

    number: int
    count: int
    shards: tuple[ShardItem, ...]

    @property
    def url(self) -> str:
        """The first shard's: what an error calls the block."""
        return self.shards[0].url


def _blocks(items: Sequence[ShardItem], wanted: int) -> list[_Block]:
    count = files_of_sample(len(items), wanted)
    edges = [len(items) * number // count for number in range(count + 1)]
    return [_Block(i, count, tuple(items[edges[i] : edges[i + 1]])) for i in range(count)]


def _url(out: Artifact, number: int, count: int) -> str:
    # the name has the count: files of another division of the shards are not taken for these
    return out.meta(f"sample/{shard_name(number, f'-of-{count:05d}.parquet')}")


@dataclass(frozen=True)
class _Draw:
    """Commits the sampled rows of one block: uid and vector."""

    survivors: Survivors
    by: str
    source: UidHash
    drawn: Thresholds
    out: Artifact
    tower: Tower

    def __call__(self, block: _Block) -> Summary:
        return {"rows": write_tables(_url(self.out, block.number, block.count), self._groups(block))}

    def _groups(self, block: _Block) -> Iterator[pa.Table]:
        """The drawn rows of all shards in order, some thousand at a time; one empty table if there are none."""
        waiting, rows, written = list[pa.Table](), 0, False
        for shard in block.shards:
            if (table := self._rows(shard)) is None:
                continue
            waiting.append(table)
            rows += table.num_rows
            if rows >= _GROUP_ROWS:
                yield pa.concat_tables(waiting)
                waiting, rows, written = [], 0, True
        if waiting or not written:
            yield pa.concat_tables(waiting) if waiting else _table(self.survivors.uids(block.shards[0].index)[:0])

    def _rows(self, shard: ShardItem) -> pa.Table | None:
        rows = self.source.rows(shard)
        chosen = np.flatnonzero(kept(rows, self.drawn))
        if not len(chosen):  # most shards of a large pool of small ones: their vectors are not read
            return None
        vectors = self.survivors.vectors(shard.index, shard.url, self.by, self.tower, chosen)
        return _table(rows.uid[chosen], vectors)


def _table(uids: np.ndarray, vectors: np.ndarray | None = None) -> pa.Table:
    return pa.table(
        {
            "uid": uids_to_bytes(uids),
            "vector": vector_column(np.empty((0, 1), np.float16) if vectors is None else vectors),
        }
    )
