"""Joins rows of a file that another program made to samples, by uid, by key and shard, or by url."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column, split_table
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.fingerprint import IF_GIVEN
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.uid import UID_ARROW, content_hash, uids_from_bytes, uids_from_pairs, uids_to_bytes
from winnow.stages.kernels.uid_hash import hash64
from winnow.stages.pools.columns import uid_bytes_of
from winnow.stages.survivors import Survivors

_PART_ROWS = 2_000_000  # of (name, place): 32 bytes each
_PLACED = pa.schema([("name", UID_ARROW), ("shard", pa.int64()), ("row", pa.int64())])
_SAME = pa.schema([("row", pa.int64()), ("first_shard", pa.int64())])


@dataclass(frozen=True)
class Names:
    """The columns of a score file that say which sample a row belongs to.

    uid: column of uids. hashed: whether the pool's uids are hashes of the values of a column, so that the file may have
    those values. key: column of keys, in place of uids. shard: column of the shard of each key, as its path, its name,
    its name without ending, or its number; None if no two samples have the same key. url: column of links, in place of
    both.
    """

    uid: str
    hashed: bool
    key: str | None = None
    shard: str | None = None
    url: str | None = field(default=None, metadata=IF_GIVEN)

    @classmethod
    def of(cls, survivors: Survivors, uid: str, key: str | None, shard: str | None) -> "Names":
        """The names from a cut's options. Raises JobError for a shard without a key, and for both a uid and a key."""
        if shard is not None and key is None:
            raise JobError(f"shard needs key, got shard = {shard} without key; name the column of keys too")
        if key is not None and uid != "uid":
            raise JobError(f"samples are named by uid or by key, got uid = {uid} and key = {key}; give one of them")
        return cls(uid, getattr(survivors.reader, "uid", "auto") != "auto", key, shard)

    @property
    def what(self) -> str:
        """What identifies a sample, for messages."""
        if self.url is not None:
            return "url"
        if self.key is None:
            return "uid"
        return "key" if self.shard is None else "key of a shard"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the score file that name a sample."""
        if self.url is not None:
            return (self.url,)
        found = (self.uid,) if self.key is None else (self.key, self.shard)
        return tuple(name for name in found if name is not None)

    def of_file(self, table: pa.Table, url: str) -> np.ndarray:
        """The name of every row: (n,) of dtype UID. Raises DataError for a row without one."""
        if self.url is not None:
            return hashed([text.strip() for text in _texts(table[self.url], self.url, url)])
        if self.key is None:
            return uids_in(table[self.uid], self.hashed, url)
        keys = _texts(table[self.key], self.key, url)
        if self.shard is None:
            return hashed(keys)
        kind = table.schema.field(self.shard).type
        shards = table[self.shard].cast(pa.string()) if pa.types.is_integer(kind) else table[self.shard]
        named = [stem_of(shard) for shard in _texts(shards, self.shard, url)]
        return hashed([f"{shard}/{key}" for shard, key in zip(named, keys, strict=True)])

    def of_pool(self, survivors: Survivors, item: ShardItem) -> np.ndarray:
        """The name of every row of a shard of the pool: (n,) of dtype UID; one of its own for a row without a url."""
        if self.url is not None:
            said = survivors.said(item.index, item.url, "url")
            return hashed([_link(value) or f"\0{item.index}/{row}" for row, value in enumerate(said)])
        if self.key is None:
            return survivors.uids(item.index)
        keys = survivors.table(item.index, ["key"])["key"].to_pylist()
        before = "" if self.shard is None else f"{stem_of(item.url)}/"
        return hashed([f"{before}{key}" for key in keys])

    def check_distinct(self, run: Run, survivors: Survivors, out: Artifact) -> None:
        """Raises DataError if two survivors have the same name. Cost: an exchange for `out`; none for uids."""
        if self.key is None and self.url is None:
            return
        stems: dict[str, str] = {}
        for item in run.items if self.shard is not None else ():
            other = stems.setdefault(stem_of(item.url), item.url)
            if other != item.url:
                raise DataError(f"shards must have different names, got {other} and {item.url}; join by uid")
        parts = max(1, -(-survivors.count() // _PART_ROWS))
        again: dict[int, Mapping[str, Any]] = {}

        def told(index: int, summary: Summary) -> None:
            if summary["repeated"] and index < min(again, default=len(run.items)):
                again.clear()
                again[index] = summary

        totals = run.exchange(_Repeats(self, survivors, parts), f"scores: {self.what}", out, [told])
        for first in again.values():  # of the first shard that has any
            urls = " and ".join(run.items[first[name]].url for name in ("other", "shard"))
            more = "name their shards by shard, or join by uid"
            if self.shard is not None or self.url is not None:
                more = "join by uid" if self.url is None else "join by key or by uid"
            raise DataError(
                f"a {self.what} must belong to one sample, but {totals.number('repeated')} samples repeat that of "
                f"another, first {first['key']!r} of {urls}; {more}"
            )


def stem_of(shard: str) -> str:
    """The name of a shard without folders and endings; numbers lose leading zeros: data/00017.tar becomes 17."""
    stem = storage.name_of(shard.rstrip("/")).partition(".")[0]
    return str(int(stem)) if stem.isascii() and stem.isdigit() else stem


def hashed(names: Sequence[str]) -> np.ndarray:
    """The xxh3-128 of each text: (n,) of dtype UID."""
    raw = b"".join(content_hash(name.encode("utf-8", "surrogatepass")) for name in names)
    pairs = np.frombuffer(raw, ">u8").reshape(-1, 2)
    return uids_from_pairs(pairs[:, 0], pairs[:, 1])


def _link(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _texts(values: pa.ChunkedArray, name: str, url: str) -> list[str]:
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DataError(f"{url}: column {name} must be text, with leading zeros as in the pool, but it is {kind}")
    if values.null_count:
        raise DataError(f"{url}: column {name} must have a text in every row, but {values.null_count} are null")
    return list(values.to_pylist())


def uids_in(values: pa.ChunkedArray, named: bool, url: str) -> np.ndarray:
    """The uids of a column: (n,) of dtype UID. named: whether other values count by their hash. Raises DataError."""
    raw, known = uid_bytes_of(values, named)
    if not known.all():
        first = values[int(np.flatnonzero(~known)[0])].as_py()
        more = "" if named else "; join samples with other names by key, or name their column in pool.uid"
        raise DataError(
            f"{url}: a uid must be 32 hex digits, a UUID or 16 bytes, but {(~known).sum()} are not, first {first!r}"
            f"{more}"
        )
    pairs = raw.view(">u8")  # (n, 16) bytes -> (n, 2)
    return uids_from_pairs(pairs[:, 0], pairs[:, 1])


@dataclass(frozen=True)
class _Repeats:
    """The exchange that brings samples of one name together, and reports all but the first to their shards."""

    names: Names
    survivors: Survivors
    parts: int

    def scatter(self, item: ShardItem) -> Mapping[int, pa.Table]:
        rows = np.flatnonzero(self.survivors.mask(item.index))
        names = self.names.of_pool(self.survivors, item)[rows]
        shard = pa.array(np.full(len(rows), item.index))
        placed = pa.table([uids_to_bytes(names), shard, pa.array(rows)], schema=_PLACED)
        part = (hash64(names, 0) % np.uint64(self.parts)).astype(np.int64)
        return split_table(placed, part)

    def decide(self, part: int, tables: Sequence[pa.Table]) -> Mapping[int, pa.Table]:
        table = pa.concat_tables(tables).combine_chunks()
        names, shard, row = uids_from_bytes(table["name"]), column(table, "shard"), column(table, "row")
        order = np.lexsort((row, shard, names["f1"], names["f0"]))
        again = np.flatnonzero(names[order][1:] == names[order][:-1]) + 1
        found = pa.table([pa.array(row[order[again]]), pa.array(shard[order[again - 1]])], schema=_SAME)
        return split_table(found, shard[order[again]])

    def settle(self, item: ShardItem, tables: Sequence[pa.Table]) -> Summary:
        found = pa.concat_tables([_SAME.empty_table(), *tables]).sort_by("row")
        if not len(found):
            return {"rows": 0, "repeated": 0}
        first, other = (found[name][0].as_py() for name in _SAME.names)
        key = self.survivors.table(item.index, ["key"])["key"][first].as_py()
        return {"rows": 0, "repeated": len(found), "key": key, "shard": item.index, "other": other}
