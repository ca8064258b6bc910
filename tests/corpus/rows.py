"""Parquet files of images, three rows each where they can be read: first, mid, last."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.case import BAD, Case
from tests.pools import jpeg

UID = "0123456789abcdef" * 2


def parquet(table: pa.Table, **options: Any) -> bytes:
    """A parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def not_utf8(texts: Sequence[bytes], kind: pa.DataType | None = None) -> pa.Array:
    """A text column that holds these bytes, valid or not."""
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    plain = pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))])
    return plain.cast(kind) if kind else plain


def rows() -> list[Case]:
    """Parquet files of images, three rows each where they can be read: first, mid, last."""

    def one(name: str, kind: str | None = None, options: Any = None, **columns: Any) -> Case:
        """columns: whole ones; a list of one is the middle of a column whose ends are sound."""
        seed = sum(map(ord, name))
        ends = {
            "image": (jpeg(seed), jpeg(seed + 1)),
            "caption": (f"the first of {name}", f"the last of {name}"),
        }
        table: dict[str, Any] = {"image": [jpeg(7)], "caption": ["words"], "key": ["first", "mid", "last"], **columns}
        for column, (first, last) in ends.items():
            if len(table[column]) == 1:
                table[column] = [first, *table[column], last]
        outcomes = ("first", f"{BAD}{kind}" if kind else "mid", "last")
        return Case(f"row: {name}", "parquet", {"p.parquet": parquet(pa.table(table))}, outcomes, None, options or {})

    def failed(name: str, content: bytes, says: str) -> Case:
        return Case(f"row: {name}", "parquet", {"p.parquet": content}, failed=says)

    three = [jpeg(91), jpeg(92), jpeg(93)]
    texts, keys = ["one text", "two texts", "three texts"], ["first", "mid", "last"]
    whole = parquet(pa.table({"image": three, "caption": texts, "key": keys}), compression="none")
    spoiled = whole.replace(three[1], bytes(len(three[1])))
    struct = pa.array([{"bytes": b, "path": "x"} for b in (three[0], None, three[2])])
    flat = {"image": three, "key": keys}
    return [
        one("sound"),
        one("a null image", "no-image", image=[None]),
        one("an image of no bytes", "image-empty", image=[b""]),
        one("an image of null bytes", "image-decode", image=[bytes(999)]),
        one("an image cut off", "image-decode", image=[jpeg(7)[:300]]),
        one("a struct without bytes", "no-image", image=struct),
        one("a null caption", "no-caption", caption=[None]),
        one("an empty caption", caption=[""]),
        one("a caption of a megabyte", "caption-too-large", caption=["words " * 180_000]),
        one("a caption with NUL", caption=["a\0b words"]),
        one("no UTF-8", kind="caption-not-utf8", caption=not_utf8([b"one", b"a\xff", b"three"])),
        one("texts by dictionary", caption=pa.array(["one", "two", "one"]).dictionary_encode()),
        one("large texts", caption=pa.array(["one", "two", "three"], pa.large_string())),
        one("text views", caption=pa.array(["one", "two", "three"], pa.string_view())),
        one("large images", image=pa.array(three, pa.large_binary())),
        one("image views", image=pa.array(three, pa.binary_view())),
        one("uids of other forms", uid=["1", UID, None]),
        one("no uid", kind="no-uid", options={"uid": "id"}, id=["a" * 32, "b", "c" * 32]),
        one("one column is nested", more=[[1], [2], [3]]),
        Case("row: a spoiled page", "parquet", {"p.parquet": spoiled}, ("first", f"{BAD}image-decode", "last")),
        Case(
            "row: no rows",
            "parquet",
            {"p.parquet": parquet(pa.table({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}))},
        ),
        failed("a footer cut off", whole[:-9], "must be whole and readable"),
        failed("a footer that is spoiled", whole[:-60] + b"\xff" * 40 + whole[-20:], "must be whole and readable"),
        failed("html", b"<html>503</html>" * 99, "must be whole and readable"),
        failed("nothing", b"", "must be whole and readable"),
        failed("an encrypted footer", whole[:-4] + b"PARE", "must be whole and readable"),
        failed("no image column", parquet(pa.table({"img": three, "caption": texts})), "there is no image"),
        failed("no caption column", parquet(pa.table(flat)), "there is no caption or text or TEXT"),
        failed(
            "images that are numbers", parquet(pa.table({**flat, "image": [1, 2, 3], "caption": texts})), "not int64"
        ),
        failed("images in lists", parquet(pa.table({"image": [[b] for b in three], "caption": texts})), "not list"),
        failed("captions that are numbers", parquet(pa.table({**flat, "caption": [1, 2, 3]})), "caption is int64"),
        failed("captions in lists", parquet(pa.table({**flat, "caption": [[t] for t in texts]})), "caption is list"),
    ]
