"""Parquet files of images, three rows each where they can be read: first, mid, last."""

import gzip
import io
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.case import BAD, Case
from tests.corpus.tars import END, entry
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


def arrow(table: pa.Table) -> bytes:
    """The stream that datasets' save_to_disk leaves."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def tensors(shape: tuple[int, ...], kind: type[np.generic]) -> pa.Array:
    """A column of tensors, as Arrow's own extension type."""
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones(shape, kind))


def img2dataset(middle: str) -> dict[str, list[str | None]]:
    """What it writes beside each link."""
    return {"status": ["success", middle, "success"], "error_message": [None, "HTTP Error 404: Not Found", None]}


def carried() -> dict[str, pa.Array]:
    """Columns of types that Python has no object for, or that json does not know."""
    late = 1_770_000_000_000_000_000
    return {
        "years after 9999": pa.array([late, 0, None], pa.timestamp("us")),
        "years before 1": pa.array([-late, 0, None], pa.timestamp("us")),
        "years after 9999 in a zone": pa.array([late, 0, None], pa.timestamp("us", "Europe/Berlin")),
        "an unknown zone": pa.array([late, 0, None], pa.timestamp("us", "Mars/Olympus")),
        "nanoseconds": pa.array([late + 1, 1, None], pa.timestamp("ns")),
        "times of nanoseconds": pa.array([1, 2, None], pa.time64("ns")),
        "days after 9999": pa.array([2**30, 0, None], pa.date32()),
        "long durations": pa.array([2**62, 0, None], pa.duration("s")),
        "wide decimals": pa.array([Decimal("1e50"), Decimal("0.5"), None], pa.decimal256(70, 2)),
        "halves": pa.array(np.array([np.nan, np.inf, 1], np.float16)),
        "UUIDs": pa.array([bytes(16), b"x" * 16, None], pa.uuid()),
        "json": pa.array(['{"a": 1}', "2", None], pa.json_()),
        "bools of 8 bits": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8())),
        "tensors": tensors((3, 2, 2), np.float32),
        "maps": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int32())),
        "nulls": pa.nulls(3),
        "categories of bytes": pa.array([b"\xff", b"b", None]).dictionary_encode(),
        "categories of dates": pa.array([late, 0, None], pa.timestamp("us")).dictionary_encode(),
        "texts that are no UTF-8": not_utf8([b"a", b"\xff", b"c"]),
        "large texts that are no UTF-8": not_utf8([b"a", b"\xff", b"c"], pa.large_string()),
        "list views": pa.array([[1.0], [], None], pa.list_view(pa.float32())),
        "structs with two fields of one name": pa.StructArray.from_arrays(
            [pa.array([1, 2, 3]), pa.array([1, 2, 3])], names=["a", "a"]
        ),
    }


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

    def failed(name: str, content: bytes, says: str, **options: str) -> Case:
        return Case(f"row: {name}", "parquet", {"p.parquet": content}, failed=says, options=options)

    def twice(name: str) -> bytes:
        seed = sum(map(ord, name))
        flat = {
            "image": pa.array([jpeg(seed + n) for n in range(3)]),
            "caption": pa.array([f"{text} beside {name} and {name}" for text in texts]),
            "key": pa.array(keys),
        }
        columns = [*flat.items(), (name, flat.get(name, flat["key"])), *([] if name in flat else [(name, flat["key"])])]
        return parquet(pa.Table.from_arrays([column for _, column in columns], names=[name for name, _ in columns]))

    three = [jpeg(91), jpeg(92), jpeg(93)]
    texts, keys = ["one text", "two texts", "three texts"], ["first", "mid", "last"]
    whole = parquet(pa.table({"image": three, "caption": texts, "key": keys}), compression="none")
    spoiled = whole.replace(three[1], bytes(len(three[1])))
    struct = pa.array([{"bytes": b, "path": "x"} for b in (three[0], None, three[2])])
    flat = {"image": three, "key": keys}
    whole_names = parquet(pa.table({**flat, "caption": texts, "abcdefgh": keys}), store_schema=False)
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
        one("no uid", kind="no-uid", options={"uid": "id"}, id=["a" * 32, None, "c" * 32]),
        one("an empty uid", kind="no-uid", options={"uid": "id"}, id=["a" * 32, "", "c" * 32]),
        one("uids of any text", options={"uid": "id"}, id=["a" * 32, "b", "c" * 31]),
        one("uids that are numbers", options={"uid": "id"}, id=pa.array([2**64 - 1, 7, 8], pa.uint64())),
        one("uids that are decimals", options={"uid": "id"}, id=pa.array([1, 2, 3], pa.decimal128(30, 0))),
        one("UUIDs", options={"uid": "id"}, id=pa.array([bytes([n]) * 16 for n in (1, 2, 3)], pa.uuid())),
        one("uids that are no UTF-8", options={"uid": "id"}, id=not_utf8([b"\xff1", b"\xff2", b"\xff3"])),
        one("one column is nested", more=[[1], [2], [3]]),
        one("captions in bytes", caption=pa.array([b"one", b"two", b"three"])),
        one("captions in bytes, no UTF-8", kind="caption-not-utf8", caption=pa.array([b"one", b"a\xff", b"three"])),
        one("images by dictionary", image=pa.array(three).dictionary_encode()),
        one("a link that was dead", kind="not-downloaded", image=[None], **img2dataset("failed_to_download")),
        one("a link that was not, yet no image", kind="no-image", image=[None], **img2dataset("success")),
        one("a status of anybody", kind="no-image", image=[None], status=["a", "failed", "b"]),
        *[one(f"carried: {name}", more=column) for name, column in carried().items()],
        Case("row: two columns of no use of one name", "parquet", {"p.parquet": twice("more")}, tuple(keys)),
        *[failed(f"two columns {name}", twice(name), "but 2 are called") for name in ("image", "caption", "uid")],
        failed("a name that is no UTF-8", whole_names.replace(b"abcdefgh", b"\xff\xfecdefgh"), "must be UTF-8"),
        failed("paths for images", parquet(pa.table({**flat, "image": keys, "caption": texts})), "paths or links"),
        failed(
            "tensors for images",
            parquet(pa.table({**flat, "image": tensors((3, 4, 4), np.uint8), "caption": texts})),
            "decoded pixels",
        ),
        failed(
            "uids that are fractions",
            parquet(pa.table({**flat, "caption": texts, "id": [0.5, 1.5, 2.5]})),
            "of texts, bytes or whole numbers, but id is double",
            uid="id",
        ),
        Case("row: a spoiled page", "parquet", {"p.parquet": spoiled}, ("first", f"{BAD}image-decode", "last")),
        Case(
            "row: no rows",
            "parquet",
            {"p.parquet": parquet(pa.table({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}))},
        ),
        failed("a footer cut off", whole[:-9], "must be whole and readable"),
        failed("a footer that is spoiled", whole[:-60] + b"\xff" * 40 + whole[-20:], "must be whole and readable"),
        failed("a tar", entry("a.jpg", three[0]) + END, "it is a tar: say pool.format: webdataset"),
        failed("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        failed("an Arrow stream", arrow(pa.table({"image": three, "caption": texts})), "save_to_disk leaves"),
        failed("a parquet file, compressed", gzip.compress(whole, mtime=0), "compressed with gzip: unpack it"),
        failed("lines of JSON", b'{ "image": "YQ==" }\n' * 9, "it is JSON: write parquet of it"),
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
