"""The pool format `links`: tables of links and captions, as LAION, COYO and DataComp publish them, without images."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.columns import column
from winnow.pipeline.errors import JobError
from winnow.stages.pools import options
from winnow.stages.pools.columns import first_column, need_column, need_once, need_text, open_parquet
from winnow.stages.pools.plain import text_of
from winnow.stages.pools.precomputed.rows import (
    BY_LINK,
    HEIGHT_COLUMNS,
    ROWS,
    WIDTH_COLUMNS,
    Faults,
    brought_uids,
    captions_of,
    row_table,
)
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import Reject
from winnow.stages.preview.head import Head

URLS = ("url", "URL", "image_url", "IMAGE_URL")
"""Columns of links; the first that exists counts, unless the job names one."""

_CAPTIONS = ("caption", "CAPTION", "text", "TEXT")
_OTHERS = ("key", *WIDTH_COLUMNS, *HEIGHT_COLUMNS)
_ROLES = ("url", "caption")
_BATCH_ROWS = 1 << 17


@dataclass(frozen=True)
class Links(Reader):
    """A pool of parquet files with a link and a caption in each row, and neither images nor vectors.

    url, caption: text columns; None for the first of URLS, and of caption, CAPTION, text and TEXT, that exists.
    uid: `auto`: the column `uid` if its value is 32 hex digits, a UUID or 16 bytes, otherwise xxh3-128 of url and
        caption. Or the name of a column, as for Vectors.
    need: what a row must have to be read. A row without a caption that need not have one has the caption "".
    Raises JobError for an empty name, and for another `need`.
    """

    url: str | None = None
    caption: str | None = None
    uid: str = "auto"
    need: tuple[str, ...] = _ROLES
    kind: ClassVar[str] = "links"
    suffix: ClassVar[str] = ".parquet"
    movable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.url == "" or self.caption == "" or not self.uid:
            raise JobError("pool.url, pool.caption and pool.uid must name columns, got an empty name")
        if isinstance(self.need, str) or not set(self.need) <= set(_ROLES):
            raise JobError(f"pool.need must be a list of {' and '.join(_ROLES)}, or empty, got {self.need!r}")
        object.__setattr__(self, "need", tuple(self.need))

    @property
    def has_images(self) -> bool:
        """Always False."""
        return False

    def rows(self, url: str) -> tuple[pa.Table, list[Reject]]:
        """Table (schema precomputed.ROWS) of the readable rows, and a reject for each of the others.

        Kinds: no-url, no-caption, caption-not-utf8, no-uid. Memory: the table, and one batch of rows as it is read.
        Raises PoolError for a missing column or one of another type.
        """
        named = () if self._asked is None else (self._asked,)
        given = tuple(name for name in (self.url, self.caption) if name)
        with open_parquet(url, (*URLS, *_CAPTIONS, "uid", *named, *given, *_OTHERS)) as file:
            schema = file.schema_arrow
            roles = self._columns(schema, url)
            wanted = {*roles.values(), "uid", *named, *_OTHERS} & set(schema.names)
            parts, rejects, start = [ROWS.empty_table()], list[Reject](), 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=sorted(wanted)):
                flat = {name: pa.chunked_array([first_column(batch, name)]) for name in wanted}
                table, lost = self._part(pa.table(flat), schema, roles, url)
                places = pa.array(column(table, "position") + start)
                parts.append(table.set_column(0, "position", places))
                rejects += [replace(reject, position=reject.position + start) for reject in lost]
                start += len(batch)
        return pa.concat_tables(parts).unify_dictionaries(), rejects

    def others(self, head: Head, kinds: Collection[str]) -> Iterator[Mapping[str, object]]:
        """Other columns of text; as a link only those that hold links."""
        _, texts = options.in_table(head.url)
        links = _holding_links(head.url, [str(name) for name in texts])
        if "no-url" in kinds:
            yield from ({"url": name} for name in links)
        yield from options.choices(kinds, (), [name for name in texts if name not in links])

    def caption_from(self, url: str, table: pa.Table) -> str | None:
        """See Reader.caption_from."""
        del table
        with open_parquet(url) as file:
            return self._columns(file.schema_arrow, url).get("caption")

    @property
    def _asked(self) -> str | None:
        """The column of uids that the job names."""
        return None if self.uid == "auto" else self.uid

    def _columns(self, schema: pa.Schema, url: str) -> Mapping[str, str]:
        """The column of the link and that of the caption; a role that a row need not have may lack one."""
        found = {}
        for role, known in zip(_ROLES, (URLS, _CAPTIONS), strict=True):
            given = getattr(self, role)
            candidates = (given,) if given else known
            if given or role in self.need or set(candidates) & set(schema.names):
                found[role] = need_column(schema, candidates, role, url)
                need_text(schema, found[role], role, url)
        need_once(schema, self._asked or "uid", "uid", url)
        return found

    def _part(
        self, meta: pa.Table, schema: pa.Schema, roles: Mapping[str, str], url: str
    ) -> tuple[pa.Table, list[Reject]]:
        """The rows of one batch, with positions in the batch."""
        faults = Faults(len(meta))
        names = brought_uids(meta, schema, self._asked, faults, url)
        links, linked = _links(meta, roles.get("url"))
        if "url" in self.need:
            faults.mark(~linked, "no-url", f"a row must have a link, but {roles['url']} is null, empty or not UTF-8")
        captions = self._captions(meta, roles.get("caption"), faults, url)
        unnamed = ~names.known & (self._asked is None)
        if unnamed.any():
            firsts = links if unnamed.all() else links.filter(pa.array(unnamed))
            names.hash(firsts.fill_null("").cast(pa.binary()).to_pylist(), unnamed, captions, BY_LINK)
        others = {name: meta[name] for name in meta.column_names if name in _OTHERS}
        return row_table(pa.table({**others, "url": links}), names, captions, faults)

    def _captions(self, meta: pa.Table, name: str | None, faults: Faults, url: str) -> pa.ChunkedArray:
        if name is not None and "caption" not in self.need:
            filled = text_of(meta[name])[0].fill_null("")  # bytes that are not UTF-8 are still a reject
            return captions_of(pa.table({name: filled.cast(pa.binary())}), name, faults, url)
        return captions_of(meta, name, faults, url)


def _links(meta: pa.Table, name: str | None) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The links as text, null where there is none, and which rows have one: bool (n,)."""
    if name is None:
        return pa.chunked_array([pa.nulls(len(meta), pa.string())]), np.zeros(len(meta), bool)
    links, broken = text_of(meta[name])
    there = pc.fill_null(pc.greater(pc.binary_length(links), 0), False).to_numpy() & ~broken
    return links if there.all() else pc.if_else(pa.array(there), links, pa.scalar(None, pa.string())), there


def _holding_links(url: str, names: Sequence[str]) -> list[str]:
    """Those of the columns of a small file whose every value is a link."""
    with open_parquet(url, names) as file:
        table = file.read(columns=list(names))
    return [
        name
        for name in names
        if table[name].null_count < len(table)
        and pc.all(pc.match_substring_regex(table[name].cast(pa.string()), "^[a-z]+://")).as_py()
    ]
