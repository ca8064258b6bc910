"""The contract of a pool format: how its shards are read, previewed, read again by place, and checked.

The smallest reader of images is a frozen dataclass of its options with `kind`, `suffix` and `samples`. The smallest
reader of precomputed vectors has `kind`, `suffix`, `encoders`, `table` and `stored`. All other methods have defaults
that work for any format. A format overrides a default if it has a cheaper or better way.

Longer than 300 lines because it is the whole contract, with the default of every method.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float16, Int64

from winnow.pipeline import storage
from winnow.pipeline.columns import column
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.uid import stated_uid
from winnow.stages.pools.fields import Values, caption_column, columns_at
from winnow.stages.pools.precomputed.blocks import Blocks, array_blocks, squared_norms, unit_rows
from winnow.stages.pools.precomputed.rows import (
    BY_VECTOR,
    Faults,
    brought_uids,
    captions_of,
    hashed_vectors,
    known_encoder,
    row_table,
)
from winnow.stages.pools.precomputed.widths import same_width
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.preview.head import Head, table_head
from winnow.stages.results.tar_shard import TarShard
from winnow.stages.results.training_members import CAPTION, PICTURES, Entry

Tower = Literal["image", "text"]

TABLE = ".parquet"
"""Suffix of parquet shards, whose rows any format can read by place."""

_TAR_KEY = re.compile(r"[\w-]+(?:/[\w-]+)*")


@dataclass(frozen=True)
class Original:
    """A kept sample as it must be in a training shard.

    members: suffixes and contents, in order. blocks: the bytes of whole tar members that are copied as they are; b"" if
    the members are written anew.
    """

    members: Sequence[Entry]
    blocks: bytes = b""


class Reader:
    """One pool format: a frozen dataclass of its options, and everything that is special about the format.

    kind: its name in a job file. suffix: suffix of shards in a folder. mapped: whether local shards are mapped into
    memory; the system does not count that as reading. movable: whether the samples of a shard and their uids are the
    same under another name of its files, so that a renamed shard is not read again.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str]
    mapped: ClassVar[bool] = False
    movable: ClassVar[bool] = False

    # what the pool has

    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders whose vectors the pool brings; () for a pool of images."""
        return ()

    @property
    def has_images(self) -> bool:
        """Whether the pool has images to embed and to train on."""
        return not self.encoders()

    @property
    def has_text(self) -> bool:
        """Whether the pool brings vectors of the captions too."""
        return False

    def companions(self, url: str) -> list[str]:
        """Further files that belong to a shard. Raises PoolError for a name that no shard can have."""
        del url
        return []

    def lacking(self, lost: Sequence[str]) -> str:
        """What to do if these files do not exist, as the end of a sentence; "" if there is no advice."""
        del lost
        return ""

    # images

    def samples(self, url: str) -> Iterator[Sample | Reject]:
        """Every sample of a shard once, in the order of their positions. The caller may keep image bytes.

        Raises PoolError if the shard does not fit the options, ShardError if it is broken.
        """
        raise self._without("images")

    def members(self, url: str, positions: Int64[np.ndarray, "n"]) -> Iterator[tuple[str, list[Entry]]]:
        """Key and (suffix, bytes) members of the samples at these positions, for training. The picture comes first.

        positions: of readable samples, ascending, repeats allowed. Default: the shard is read up to the last position.
        Raises DataError for positions out of order or range, or of a reject; else as `samples`.
        """
        if len(positions) and (np.any(np.diff(positions) < 0) or positions[0] < 0):
            raise DataError(f"{url}: positions must ascend and be at least 0; sort them")
        wanted = positions.tolist()
        done = 0
        for sample in self.samples(url) if wanted else ():
            while done < len(wanted) and wanted[done] == sample.position:
                yield written(sample)
                done += 1
            if done == len(wanted):
                return
        if done < len(wanted):
            raise DataError(f"{url}: each position must be that of a sample, but position {wanted[done]} has none")

    # the samples of a shard, read again by their places in the samples file

    def place_columns(self, there: Collection[str]) -> list[str]:
        """The columns of a samples file that the methods below need. there: the columns that it has."""
        del there
        return ["position", "key"] if self.has_images else ["position"]

    def again(self, url: str, places: pa.Table, gap_bytes: int | None = None) -> Iterator[tuple[str, Sequence[Entry]]]:
        """Key and members of the samples at these places, as `members`.

        places: their rows of the samples file with `place_columns`, ascending. gap_bytes: gaps up to this size are
        read through, not skipped; None for the default of the storage. Raises ShardError if the shard has changed.
        """
        del gap_bytes
        return self.members(url, column(places, "position"))

    def append(self, writer: TarShard, url: str, places: pa.Table, gap_bytes: int | None = None) -> None:
        """Append the samples to a tar; arguments and errors as `again`."""
        for key, members in self.again(url, places, gap_bytes):
            writer.add_members(key, members)

    def images(self, url: str, places: pa.Table) -> Iterator[bytes | None]:
        """The encoded image of each sample, None if something else is in its place now. Raises as `again`."""
        for _, members in self.again(url, places):
            yield members[0][1]

    def field_name(self, source: str) -> str:
        """How `fields` names what a job has under pool.fields. Raises JobError for what the format cannot have."""
        if not source or source.startswith("json:"):
            raise JobError(f"pool.fields must name columns of the pool, got {source!r}; only tars have json")
        return source

    def fields(self, url: str, places: pa.Table, names: Sequence[str]) -> Mapping[str, Values]:
        """Further fields of the samples: those of `names` that the shard has, each with a value for every place.

        places: as `again`. Default: the columns of a parquet shard; no fields for other shards.
        """
        return columns_at(url, places, names) if self.suffix == TABLE else {}

    def originals(self, url: str, facts: Sequence[Mapping[str, Any]]) -> Iterator[Original]:
        """What a training shard must hold of each sample, read in another way than `append` does, if there is one.

        facts: rows of the samples file, with position, key, caption, offset, size and extra_ranges.
        """
        positions = np.array([fact["position"] for fact in facts], np.int64)
        return (Original(members) for _, members in self.members(url, positions))

    def uid_again(self, fact: Mapping[str, Any], described: Any, image: bytes) -> bytes | None:
        """The uid of a training sample, computed anew from its members by the options; None if that is impossible.

        described: its parsed json, None if it has none. fact: as in `originals`.
        """
        del fact, image
        return stated_uid(described.get("uid")) if isinstance(described, dict) else None

    # vectors that were computed before

    def table(self, url: str) -> pa.Table:
        """One row for each vector: any of the columns uid (as `uids_of` reads it), key, caption, url, width, height."""
        raise self._without("vectors")

    def stored(self, url: str, encoder: str, tower: Tower) -> np.ndarray:
        """The vectors of all rows as they are stored, float16, float32 or float64 (n, d), of any norm."""
        raise self._without("vectors")

    def rows(self, url: str) -> tuple[pa.Table, list[Reject]]:
        """Table (schema precomputed.ROWS) of the readable rows, and a reject for each of the others.

        The uid of a row without its own is a hash of the first encoder's image vector and the caption; no other vector
        is read here, see `checked`. Kinds: no-caption, caption-not-utf8, and for a row that such a vector names
        vector-not-finite and vector-zero. Raises PoolError for columns of other types.
        """
        meta = self.table(url)
        faults = Faults(len(meta))
        names = brought_uids(meta, meta.schema, None, faults, url)
        captions = captions_of(meta, "caption" if "caption" in meta.column_names else None, faults, url)
        unnamed = ~names.known
        first = self.encoders()[0]
        opened = partial(self.blocks, url, first, "image")
        stored = hashed_vectors(opened, f"{first}.image", faults, unnamed, url)
        names.hash(stored, unnamed, captions, BY_VECTOR)
        return row_table(meta, names, captions, faults)

    def sound(self, url: str, encoders: Sequence[str]) -> tuple[pa.Table, list[Reject]]:
        """`rows` with only those that have a vector of each of these encoders, and a reject for each other row."""
        table, rejects = self.rows(url)
        count = len(table) + len(rejects)
        for name in encoders if len(table) else ():
            clean = (faults := self.checked(url, name, count)[0]).clean[column(table, "position")]
            lost = table.filter(pa.array(~clean))
            rejects = [*rejects, *faults.rejects_at(column(lost, "position"), lost["key"].to_pylist())]
            table = table.filter(pa.array(clean))
        return table, sorted(rejects, key=lambda reject: reject.position)

    def checked(self, url: str, encoder: str, rows: int) -> tuple[Faults, int]:
        """What is wrong with one encoder's vectors of a shard with so many rows, rejects among them; and their width.

        Kinds: vector-not-finite, vector-zero. Raises ShardError if there are not as many vectors as rows, or if text
        and image vectors differ in width; else as `blocks`.
        """
        faults = Faults(rows)
        towers: tuple[Tower, ...] = ("image", "text") if self.has_text else ("image",)
        seen: dict[str, Blocks] = {}
        for tower in towers:
            name = f"{encoder}.{tower}"
            with self.blocks(url, encoder, tower) as blocks:
                faults.mark_norms(squared_norms(blocks), url, name)
                seen[name] = blocks
        same_width(seen, url)
        return faults, seen[f"{encoder}.image"].width

    def blocks(self, url: str, encoder: str, tower: Tower) -> AbstractContextManager[Blocks]:
        """The vectors as stored, block by block. Raises JobError for an encoder or tower the pool does not have."""
        known_encoder(encoder, self.encoders(), url)
        if tower == "text" and not self.has_text:
            raise JobError(f"{url}: the pool must have text vectors for this job, but {self.kind} has none")
        return nullcontext(array_blocks(self.stored(url, encoder, tower), f"{url}: {encoder}.{tower}"))

    def vectors(
        self, url: str, encoder: str, tower: Tower, positions: Int64[np.ndarray, "n"] | None
    ) -> Float16[np.ndarray, "n d"]:
        """Unit vectors of the rows at `positions` (None: of every row), in their order.

        Raises JobError for an encoder or tower that the pool does not have, DataError for rows that are rejects,
        PoolError for a missing column, ShardError for a broken file.
        """
        with self.blocks(url, encoder, tower) as blocks:
            return unit_rows(blocks, positions, url)

    # a few samples, to look at and to measure on

    def head(self, url: str, rows: int, folder: Path) -> Head:
        """The first samples of a shard as a small shard: about `rows`, or all. It costs a few requests.

        Default: a copy of the first rows of parquet and of the arrays beside it. Any other shard is used as it is.
        """
        more = self.companions(url)
        if self.suffix == TABLE and all(name.endswith((".npz", ".npy")) for name in more):
            return table_head(url, more, rows, folder)
        size = sum(found.size for found in storage.identify([url, *more]))
        return Head(url, url, (), 0, size, 0, size)

    def caption_from(self, url: str, table: pa.Table) -> str | None:
        """The column of a shard of vectors from which the captions of a row table come; None if not known."""
        return caption_column(url, table) if self.suffix == TABLE else None

    def head_samples(self, head: Head) -> Iterable[Sample | Reject]:
        """The samples of a head, without a sample that the end of the head cuts off."""
        return self.samples(head.url)

    def cut(self, url: str, rows: int, folder: Path) -> Head:
        """A shard of exactly the first `rows` samples, with their number; all samples if the shard cannot be cut."""
        head = self.head(url, rows, folder)
        if head.rows:
            return head
        count = sum(1 for _ in self.samples(url)) if self.has_images else self._all_rows(url)
        return Head(url, url, (), count, head.bytes, count, head.whole_bytes)

    def _all_rows(self, url: str) -> int:
        table, rejects = self.rows(url)
        return int(table.num_rows) + len(rejects)

    def others(self, head: Head, kinds: Collection[str]) -> Iterator[Mapping[str, object]]:
        """Options to try if hardly any sample of a head can be read, most likely first. kinds: those of its rejects."""
        del head, kinds
        return iter(())

    def _without(self, what: str) -> Exception:
        return JobError(f"a pool of format {self.kind} has no {what}, so none can be read from it")


def written(sample: Sample | Reject) -> tuple[str, list[Entry]]:
    """Key and members of a sample that is written anew: the picture, `txt`, and a `json` with the uid.

    A key that would break a tar (empty, dots, odd slashes) is replaced by the uid. Raises DataError for a reject.
    """
    if isinstance(sample, Reject):
        raise DataError(f"row {sample.position} must be readable to be written, but: {sample.message}")
    described = json.dumps({"uid": sample.uid.hex()}).encode()
    members = [(PICTURES[0], bytes(sample.image)), (CAPTION, sample.caption.encode()), ("json", described)]
    return tar_key(sample), members


def tar_key(sample: Sample) -> str:
    """The key of a sample if a tar can have it, else its uid in hex digits."""
    return sample.key if _TAR_KEY.fullmatch(sample.key) else sample.uid.hex()
