"""The files of vectors that another program made, read in parts: what names each row, and its unit vectors."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.columns import vector_column
from winnow.pipeline.errors import PoolError, ShardError
from winnow.stages.pools.brought import brought_groups, brought_schema, check_names, read_brought
from winnow.stages.pools.precomputed.blocks import Blocks, array_blocks, squared_norms, unit_rows
from winnow.stages.pools.precomputed.rows import Faults
from winnow.stages.pools.precomputed.widths import same_width
from winnow.stages.pools.reader import Reader, Tower
from winnow.stages.pools.sample_names import Names

_PART_BYTES = 128 << 20  # of the float16 vectors that a worker reads at once


@dataclass(frozen=True)
class VectorFiles:
    """A pool of vectors: its shards, each with the identities of its companions, and how they are read."""

    shards: tuple[storage.Identity, ...]
    reader: Reader

    @property
    def encoder(self) -> str:
        """What the files call the encoder."""
        return self.reader.encoders()[0]

    @property
    def towers(self) -> tuple[Tower, ...]:
        """Which vectors a row has."""
        return ("image", "text") if self.reader.has_text else ("image",)


@dataclass(frozen=True)
class VectorPart:
    """Rows `first` to `stop` of a file. width: of its vectors, 0 if it has none. number: as an item of the exchange."""

    url: str
    first: int
    stop: int
    width: int
    number: int = 0


@dataclass(frozen=True)
class ToParts:
    """The parts of one file of vectors, in order; reads its footer and the headers of its vectors.

    called: the encoder in the job, for messages.
    """

    files: VectorFiles
    names: Names
    called: str

    def __call__(self, shard: storage.Identity) -> list[VectorPart]:
        """See the class. Raises DataError for missing columns, and PoolError or ShardError for unfit vectors."""
        try:
            return self._parts(shard)
        except PoolError as error:  # a reader calls its options by their place under `pool`
            raise PoolError(str(error).replace("pool.", f"embeddings.{self.called}.from.")) from error

    def _parts(self, shard: storage.Identity) -> list[VectorPart]:
        url, files = shard.url, self.files
        check_names(brought_schema(url), self.names.columns, url)
        rows, seen = sum(brought_groups(url)), dict[str, Blocks]()
        for tower in files.towers:
            with files.reader.blocks(url, files.encoder, tower) as blocks:
                seen[tower] = blocks
            if blocks.rows != rows:
                raise ShardError(
                    f"{url}: vectors and rows must be as many, but there are {blocks.rows:,} {tower} vectors and "
                    f"{rows:,} rows; the files do not belong together",
                    lasting=True,
                )
        same_width(seen, url)
        width = max((0 if blocks.empty else blocks.width) for blocks in seen.values())
        step = max(1, _PART_BYTES // (2 * max(1, width) * len(files.towers)))
        return [VectorPart(url, first, min(first + step, rows), width) for first in range(0, rows, step)]


def names_of(part: VectorPart, names: Names) -> np.ndarray:
    """What names each row of a part: (n,) of dtype UID. Raises DataError for a row without a name."""
    table = read_brought(part.url, names.columns).slice(part.first, part.stop - part.first)
    return names.of_file(table, part.url)


def vectors_of(part: VectorPart, files: VectorFiles, rows: np.ndarray, width: int) -> pa.Table:
    """The vectors of some rows of a part, with what is wrong with them.

    rows: ascending numbers in the part (m,). width: of every file. Columns kind and message, null for a sound vector,
    and for each tower float16 (m, width), unit vectors, zero where something is wrong.
    """
    faults, stored = Faults(len(rows)), {}
    for tower in files.towers:
        stored[tower] = _stored(part, files, tower, rows, width)
        what = f"{files.encoder}.{tower}"
        faults.mark_norms(squared_norms(array_blocks(stored[tower], part.url)), part.url, what)
    clean = np.flatnonzero(faults.clean)
    bad = {reject.position: reject for reject in faults.rejects([""] * (len(rows) - len(clean)))}
    found = {
        "kind": pa.array([bad[row].kind if row in bad else None for row in range(len(rows))], pa.string()),
        "message": pa.array([bad[row].message if row in bad else None for row in range(len(rows))], pa.string()),
    }
    for tower, values in stored.items():
        unit = np.zeros((len(rows), width), np.float16)
        if len(clean):
            unit[clean] = unit_rows(array_blocks(values, part.url), clean, part.url)
        found[tower] = vector_column(unit)
    return pa.table(found)


def _stored(part: VectorPart, files: VectorFiles, tower: Tower, rows: np.ndarray, width: int) -> np.ndarray:
    """Vectors as they are stored: (m, width) of any float type; NaN if the file has none."""
    wanted, found, start = part.first + rows, list[np.ndarray](), 0
    with files.reader.blocks(part.url, files.encoder, tower) as blocks:
        if blocks.empty or not len(rows):
            return np.full((len(rows), width), np.nan, np.float32)
        for block in blocks.parts:
            low, high = np.searchsorted(wanted, [start, start + len(block)])
            if high > low:
                found.append(np.array(block[wanted[low:high] - start]))
            start += len(block)
            if high == len(wanted):
                break
    return np.concatenate(found)


def look_at(files: VectorFiles, names: Names, called: str) -> str:
    """What the files hold, in words, from the first of them. Raises as ToParts does."""
    shard = files.shards[0]
    parts = ToParts(files, names, called)(shard)
    rows = parts[-1].stop if parts else 0
    more = f" and {len(files.shards) - 1:,} more" if len(files.shards) > 1 else ""
    kinds = " and ".join(files.towers)
    width = f" of {parts[0].width} numbers" if parts else ""
    by = " and ".join(names.columns)
    return f"{kinds} vectors{width} by {by}, {rows:,} rows in {storage.name_of(shard.url)}{more}; no model runs"


def first_name(part: VectorPart, names: Names) -> str:
    """What names the first row of a part, as the file has it, for messages."""
    table = read_brought(part.url, names.columns)
    return "/".join(str(value) for value in table.slice(part.first, 1).to_pylist()[0].values())
