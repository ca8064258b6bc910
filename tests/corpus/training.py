"""Samples that are sound, of which a trainer that reads the tar as it is would see another pair, or none."""

import gzip
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa

from tests.corpus.case import BAD, Case
from tests.corpus.pictures import encoded, picture
from tests.corpus.rows import parquet
from tests.corpus.tars import END, entries, tar
from tests.pools import jpeg

THUMBNAIL = encoded(picture(1, 20, 20), "PNG")
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def saved(array: np.ndarray, **options: Any) -> bytes:
    """A .npy file."""
    np.save(buffer := io.BytesIO(), array, **options)
    return buffer.getvalue()


def archived() -> bytes:
    """A .npz file."""
    np.savez(buffer := io.BytesIO(), a=ARRAY)
    return buffer.getvalue()


SIDE_MEMBERS: dict[str, bytes] = {
    "cls": b"tabby cat",
    "CLS": b"7 \n",
    "cls2": b"",
    "id": b"x17",
    "index": b"17",
    "inx": b"9" * 5000,
    "json": b"",
    "JSON": b'{"a": 1',
    "jsn": b"[NaN, null]",
    "meta.json": b"\xff\xfe\xfd",
    "more.json": b"[" * 100_000,
    "text": b"\xff",
    "transcript": "ünï".encode(),
    "de.txt": "grün".encode("latin-1"),
    "npy": b"no array",
    "a.npy": saved(ARRAY),
    "b.npy": saved(ARRAY)[:-4],
    "c.npy": saved(np.array([{}], object), allow_pickle=True),
    "d.npy": saved(np.zeros((0, 3), np.int8)),
    "npz": b"",
    "a.npz": archived(),
    "b.npz": archived()[:-30],
    "c.npz": b"junk" + archived(),
    "d.npz": saved(ARRAY),
    "pyd": b"\x80\x04N.",
    "pickle": b"cos\nabort\n(tR.",
    "pth": b"",
    "ten": b"~TenBin~",
    "msg": b"\x81\xa1a\x01",
    "cbor": b"\xa0",
    "gz": b"no archive",
    "json.gz": gzip.compress(b"{}", mtime=0),
    "cls.gz": gzip.compress(b"cat", mtime=0),
    "a.txt.gz": gzip.compress(b"words", mtime=0)[:-9],
    "mask.jpg": b"",
    "mask.png": THUMBNAIL,
    "depth.png": THUMBNAIL[:60],
    "seg.tiff": encoded(picture(2), "TIFF"),
    "h5": b"\x89HDF\r\n\x1a\n" + bytes(99),
    "eps": encoded(picture(2), "EPS"),
    "mpg": bytes(99),
    "mp4": bytes(99),
    "wav": b"RIFF",
    "avif": b"none",
    "bin": b"any",
    "html": b"<p>",
    "__key__": b"another",
    "__bad__": b"1",
    "__json__": b"{",
}
"""Members that may lie beside a pair, by suffix: some that webdataset decodes, some where it drops the sample."""


def training() -> list[Case]:
    """Samples with other members, other pictures, and other names for them."""

    def one(name: str, members: dict[str, bytes], *outcomes: str, **more: Any) -> Case:
        middle = entries(*((f"mid.{suffix}", content) for suffix, content in members.items()))
        return tar(f"training: {name}", middle, *(outcomes or ("mid",)), **more)

    pair = {"jpg": jpeg(7), "txt": b"words"}
    other = {"webp": encoded(picture(3), "WEBP"), "png": THUMBNAIL, "jpg": b"no picture", "txt": b"words"}
    order = {"image": ("png", "jpg")}
    own = {"image": ("input.jpg", "img", "gif", "bmp", "tif", "avif", "jp2", "jpg")}
    formats = {"gif": "GIF", "bmp": "BMP", "tif": "TIFF", "avif": "AVIF", "jp2": "JPEG2000"}
    return [
        *[one(f"a member {suffix}", {**pair, suffix: content}) for suffix, content in SIDE_MEMBERS.items()],
        one("all members", {**pair, **{s: c for s, c in SIDE_MEMBERS.items() if s not in ("CLS", "JSON")}}),
        one("a thumbnail before the picture", {"png": THUMBNAIL, "jpeg": jpeg(7), "txt": b"words"}),
        one("a png that is none", {"png": b"none", "jpeg": jpeg(7), "txt": b"words"}),
        one("its place is taken", {"png": b"none", "png.bin": b"mine", "jpeg": jpeg(7), "txt": b"words"}),
        one("all four", {"webp": THUMBNAIL, "jpeg": b"", "png": THUMBNAIL, **pair}),
        one("webp alone", {"webp": encoded(picture(4), "WEBP"), "txt": b"words"}),
        one("capitals and order", {"PNG": THUMBNAIL, "Jpeg": jpeg(7), "TXT": b"words"}),
        one("the order of the job", other, options=order),
        one("the order of the job, in capitals", {s.upper(): content for s, content in other.items()}, options=order),
        one("a suffix of one's own", {"input.jpg": jpeg(7), "jpg": THUMBNAIL, "txt": b"words"}, options=own),
        one("a suffix without a format", {"IMG": THUMBNAIL, "txt": b"words", "webp": b"none"}, options=own),
        *[
            one(f"a picture {suffix}", {suffix: encoded(picture(5), format), "txt": b"words"}, options=own)
            for suffix, format in formats.items()
        ],
        _captions_of_ones_own(),
        tar(
            "training: a folder of webdataset's own",
            entries(("__a__/mid.jpg", jpeg(7)), ("__a__/mid.txt", b"a")),
            "__a__/mid",
        ),
        tar(
            "training: a line break in a folder",
            entries(("a.b\n/mid.jpg", jpeg(7)), ("a.b\n/mid.txt", b"a")),
            "a.b\n/mid",
        ),
        tar("training: hidden files between", _hidden(), "a/mid"),
        *_dots(),
        _formats(),
    ]


def _captions_of_ones_own() -> Case:
    def told(key: str, number: int, **more: bytes) -> bytes:
        members = {"jpg": jpeg(number), "outputs.txt": f"the {key} caption".encode(), **more}
        return entries(*((f"{key}.{suffix}", content) for suffix, content in members.items()))

    same = told("same", 11, txt=b"the same caption", cls=b"word")
    whole = told("first", 12) + told("mid", 13, txt=b"another", json=b"{") + same + END
    captions = {key: f"the {key} caption" for key in ("first", "mid", "same")}
    options = {"caption": "outputs.txt"}
    return Case(
        "training: captions of one's own",
        "webdataset",
        {"0.tar": whole},
        ("first", "mid", "same"),
        None,
        options,
        captions,
    )


def _dots() -> list[Case]:
    """Names with dots before the suffix, whose key ends at the first."""
    lost, says = f"{BAD}no-image", {"no-image": "a key ends at the first dot of the file's name"}
    pairs = entries(*((f"v1.2/{key}.{s}", c) for key in ("2.05", "2.07") for s, c in (("jpg", jpeg(7)), ("txt", b"a"))))
    apart = entries(
        ("2.05.jpg", jpeg(7)), ("2.0.jpg", jpeg(8)), ("2.05.txt", b"a"), ("2.0.txt", b"b"), ("2.json", b"{}")
    )
    caption = entries(("mid.jpg", jpeg(7)), ("mid.en.txt", b"words"))
    told = {"no-caption": "rename the files so that no other dot comes before the suffix"}
    return [
        tar("dots in names", pairs, lost, lost, says=says),
        tar("dots in names that lie apart", apart, lost, lost, says=says),
        tar("a dot before the caption's suffix", caption, f"{BAD}no-caption", says=told),
    ]


def _formats() -> Case:
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
    table = {
        "image": [encoded(picture(20 + n), kind) for n, kind in enumerate(kinds)],
        "caption": [f"a picture of format {kind}" for kind in kinds],
        "key": [f"__own__/{kind}" for kind in kinds],
        "facts": [float("nan")] * len(kinds),
        "about": [json.dumps({"kind": kind}) for kind in kinds],
    }
    keys = tuple(str(key) for key in table["key"])
    return Case("training: pictures of every format", "parquet", {"p.parquet": parquet(pa.table(table))}, keys)


def _hidden() -> bytes:
    """Files without a name before the dot, which webdataset takes for a sample of its own."""
    return entries(("a/mid.jpg", jpeg(7)), ("a/.DS_Store", b"x"), ("a/._mid.txt", b"x"), ("a/mid.txt", b"a"))
