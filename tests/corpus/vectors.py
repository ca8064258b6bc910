"""Precomputed vectors in their three layouts, and .npy files that say anything."""

import io
import zipfile
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from tests.corpus.case import BAD, Case
from tests.corpus.rows import carried, not_utf8, parquet
from tests.corpus.tars import zipped


class Planted:
    """An object that leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


WITNESS = "/tmp/winnow-unpickled"
"""The file that a pickled array of the corpus would leave behind if anybody unpickled it."""


def npy(array: np.ndarray) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npy_of(header: str, content: bytes = b"", version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """A .npy file that says anything."""
    text = header.encode().ljust(118) + b"\n"
    stated = (len(text) if length is None else length).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + stated + text + content


def stating(shape: str, kind: str = "'<f2'") -> str:
    """A .npy header."""
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"


def arrays() -> list[tuple[str, bytes, tuple[str, ...], str | None]]:
    """Name, .npy file of three image vectors, outcomes, and the error where there are none."""
    rng = np.random.default_rng(3)
    unit = rng.standard_normal((3, 8)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    whole = npy(unit.astype(np.float16))
    every = ("first", "mid", "last")
    layout, fits = "vectors must be float16, float32 or float64 of shape", "rows must follow the header"

    def odd(value: float) -> bytes:
        changed = unit.astype(np.float16)
        changed[1, 3:] = value
        changed[1, :3] = 0 if value == 0 else changed[1, :3]
        return npy(changed)

    def bad(kind: str) -> tuple[str, ...]:
        return ("first", f"{BAD}{kind}", "last")

    return [
        ("sound", whole, every, None),
        ("float32", npy(unit), every, None),
        ("float64", npy(unit.astype(np.float64)), every, None),
        ("other ends first", npy(unit.astype(">f4")), every, None),
        ("vectors of any length", npy(unit * 37), every, None),
        ("NaN", odd(np.nan), bad("vector-not-finite"), None),
        ("infinity", odd(np.inf), bad("vector-not-finite"), None),
        ("zeros", odd(0), bad("vector-zero"), None),
        ("too few vectors", npy(unit[:2]), (), "vectors and rows must be as many"),
        ("too many vectors", npy(np.vstack([unit, unit])), (), "vectors and rows must be as many"),
        ("whole numbers", npy(unit.astype(np.int8)), (), layout),
        ("quantised", npy((unit * 100).astype(np.uint8)), (), "quantised vectors: multiply by their scale"),
        ("bfloat16", npy((unit.view(np.uint32) >> 16).astype(np.uint16).view("V2")), (), "V2 is most likely bfloat16"),
        ("float8", npy(unit.astype(np.float16).view(np.uint8)[:, ::2].copy().view("V1")), (), "most likely float8"),
        ("a batch of one a row", npy(unit[:, None, :]), every, None),
        ("numbers in a row each", npy(unit[:, :, None]), every, None),
        ("vectors of patches", npy(np.stack([unit, unit], axis=1)), (), layout),
        ("complex numbers", npy(unit.astype(np.complex64)), (), "but complex64 of shape"),
        ("texts", npy(unit.astype("U8")), (), "but '<U8' of shape"),
        ("one long row", npy(unit.ravel()), (), layout),
        ("no width", npy(unit[:, :0]), (), layout),
        ("columns first", npy(np.asfortranarray(unit)), (), "Fortran order"),
        ("records", npy(np.zeros(3, [("a", "f4")])), (), "vectors must be floats"),
        ("a pickle", npy(np.array([[Planted(WITNESS)] * 8] * 3, object)), (), "but object of shape"),
        ("cut off", whole[:-1], (), fits),
        ("no bytes", b"", (), "must be whole and readable"),
        ("only the magic", whole[:8], (), "must be whole and readable"),
        ("html", b"<html>503</html>" * 9, (), "must be whole and readable"),
        ("more rows than bytes", npy_of(stating("(1099511627776, 8)"), bytes(48)), (), fits),
        ("rows wider than bytes", npy_of(stating("(3, 1099511627776)"), bytes(48)), (), fits),
        ("rows without width", npy_of(stating("(1099511627776, 0)")), (), layout),
        ("a negative shape", npy_of(stating("(-3, 8)"), bytes(48)), (), "vectors must be floats"),
        ("a header of four gigabytes", npy_of("{", version=(2, 0), length=2**32 - 1), (), "the header must be"),
        ("a header that is a program", npy_of("__import__('os').abort()"), (), "its header is not"),
        ("a header of brackets", npy_of("(" * 9000), (), "its header is not"),
        ("version 9", npy_of(stating("(3, 8)"), bytes(48), (9, 0)), (), "of version 1 to 3"),
    ]


def facts(name: str, **columns: Any) -> dict[str, Any]:
    """Columns of three rows, with uids like no other's."""
    seed = sum(ord(letter) * (at + 1) for at, letter in enumerate(name))
    return {
        "uid": [f"{seed * 4 + n:032x}" for n in range(3)],
        "text": [f"row {n} of {name}" for n in range(3)],
        "key": ["first", "mid", "last"],
        **columns,
    }


def vectors() -> list[Case]:
    """Precomputed pools in their three layouts."""
    return [*_clip_retrieval(), *_datacomp(), *_lists()]


def _clip_retrieval() -> list[Case]:
    text = npy(np.tile(np.eye(1, 8, dtype=np.float16), (3, 1)))

    def one(name: str, array: bytes, outcomes: tuple[str, ...], failed: str | None, **columns: Any) -> Case:
        table = parquet(
            pa.table(
                {name: c for name, c in facts(name, **columns).items() if name != "text"}
                | {"caption": facts(name, **columns)["text"]}
            )
        )
        files = {"metadata/metadata_0.parquet": table, "img_emb/img_emb_0.npy": array, "text_emb/text_emb_0.npy": text}
        return Case(f"npy: {name}", "clip-retrieval", files, outcomes, failed)

    sound_array, every = arrays()[0][1], ("first", "mid", "last")
    return [
        *[one(*found) for found in arrays()],
        one("a null caption", sound_array, ("first", f"{BAD}no-caption", "last"), None, text=["a", None, "c"]),
        one(
            "no UTF-8",
            sound_array,
            ("first", f"{BAD}caption-not-utf8", "last"),
            None,
            text=not_utf8([b"a", b"\xff", b"c"]),
        ),
        one("a uid of another form", sound_array, every, None, uid=["5" * 32, "x", None]),
    ]


def _datacomp() -> list[Case]:
    wanted = {
        "float64",
        "NaN",
        "zeros",
        "too few vectors",
        "whole numbers",
        "a pickle",
        "columns first",
        "cut off",
        "more rows than bytes",
    }
    text = npy(np.tile(np.eye(1, 8, dtype=np.float16), (3, 1)))
    sound_array, every = arrays()[0][1], ("first", "mid", "last")

    def one(name: str, archive: bytes, outcomes: tuple[str, ...], failed: str | None = None, **columns: Any) -> Case:
        named = {f"{key}": value for key, value in facts(name, **columns).items() if key != "key"}
        files = {"p.parquet": parquet(pa.table(named)), "p.npz": archive}
        uids = [str(uid) for uid in named["uid"]]
        keys = dict(zip(every, uids, strict=True))
        return Case(
            f"npz: {name}", "datacomp", files, tuple(keys.get(o, o) for o in outcomes), failed, {"use": ("l14",)}
        )

    whole = zipped({"l14_img.npy": sound_array, "l14_txt.npy": text})
    deflated = zipped({"l14_img.npy": sound_array, "l14_txt.npy": text}, zipfile.ZIP_DEFLATED)
    lying = npy_of(stating("(100000000, 8)"), bytes(48))
    central = whole.rindex(b"PK\1\2")
    return [
        *[
            one(name, zipped({"l14_img.npy": array, "l14_txt.npy": text}), outcomes, failed)
            for name, array, outcomes, failed in arrays()
            if name in wanted
        ],
        one("sound", whole, every),
        one("deflated", deflated, every),
        one(
            "a bzip2 archive",
            zipped({"l14_img.npy": sound_array, "l14_txt.npy": text}, zipfile.ZIP_BZIP2),
            (),
            "must be stored or deflated",
        ),
        one(
            "rows that would not even fit deflated",
            zipped({"l14_img.npy": lying, "l14_txt.npy": text}, zipfile.ZIP_DEFLATED),
            (),
            "rows must follow the header",
        ),
        one("no text vectors", zipped({"l14_img.npy": sound_array}), (), "the archive must hold l14_txt"),
        one("a cut archive", whole[:-30], (), "must be whole and readable"),
        one(
            "a spoiled directory",
            whole[:central] + b"\xff" * 20 + whole[central + 20 :],
            (),
            "must be whole and readable",
        ),
        one("a spoiled array", whole.replace(sound_array[130:140], b"\x01" * 10), (), "must be whole and readable"),
        one("no archive", b"<html>", (), "must be whole and readable"),
        one(
            "a path out of the folder",
            zipped({"../../../l14_img.npy": sound_array, "l14_txt.npy": text}),
            (),
            "the archive must hold l14_img",
        ),
        one("a uid of another form", whole, ("first", f"{BAD}no-uid", "last"), uid=["7" * 32, "x" * 32, "8" * 32]),
        one("a null caption", whole, ("first", f"{BAD}no-caption", "last"), text=["a", None, "c"]),
    ]


def _lists() -> list[Case]:
    every = ("first", "mid", "last")

    def one(name: str, vectors: Any, *outcomes: str, failed: str | None = None, **columns: Any) -> Case:
        content = parquet(pa.table(facts(name, image=vectors, **columns)))
        return Case(f"list: {name}", "vectors", {"p.parquet": content}, outcomes, failed)

    a, b = [0.6, 0.8], [0.0, 1.0]
    bad, zero = f"{BAD}vector-not-finite", f"{BAD}vector-zero"
    return [
        one("sound", [a, b, a], *every),
        one(
            "halves",
            pa.FixedSizeListArray.from_arrays(pa.array(np.array([0, 1] * 3, np.float16)), 2),
            *every,
        ),
        one("a null vector", [a, None, b], "first", bad, "last"),
        one("an empty vector", [a, [], b], "first", bad, "last"),
        one("a null number", [a, [None, 1.0], b], "first", bad, "last"),
        one("NaN", [a, [float("nan"), 1.0], b], "first", bad, "last"),
        one("zeros", [a, [0.0, 0.0], b], "first", zero, "last"),
        one("vectors of any length", [a, [30.0, 40.0], b], *every),
        one("vectors of several lengths", [a, [1.0], b], failed="vectors must have one length"),
        one("whole numbers", [[1, 2], [3, 4], [5, 6]], failed="must hold lists of floats"),
        one("numbers alone", [1.0, 2.0, 3.0], failed="must hold lists of floats"),
        one("quantised", pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int8())), failed="quantised vectors"),
        one("text", ["[1.0, 2.0]"] * 3, failed="a vector written as text is no vector"),
        one("bytes", [b"\0" * 8] * 3, failed="the bytes of an array, or an image"),
        one("decimals", pa.array([[Decimal(1), Decimal(2)]] * 3), failed="cast the numbers to float32"),
        one("tensors", pa.FixedShapeTensorArray.from_numpy_ndarray(np.float32([a, b, a])), *every),
        one("tensors of one row", pa.FixedShapeTensorArray.from_numpy_ndarray(np.float32([[a], [b], [a]])), *every),
        one(
            "tensors of patches",
            pa.FixedShapeTensorArray.from_numpy_ndarray(np.float32([[a, b]] * 3)),
            failed="vectors of patches or tokens",
        ),
        one("lists of one list", [[a], [b], [a]], *every),
        one("lists of one list, one null", [[a], None, [b]], "first", bad, "last"),
        one("lists of one list, one empty", [[a], [], [b]], "first", bad, "last"),
        one("lists of one null", [[a], [None], [b]], "first", bad, "last"),
        one("lists of lists", [[a, b], [b, a], [a, b]], failed="must hold one vector a row"),
        one("large lists", pa.array([a, b, a], pa.large_list(pa.float64())), *every),
        one("list views", pa.array([a, b, a], pa.list_view(pa.float32())), *every),
        one("large list views", pa.array([a, None, b], pa.large_list_view(pa.float32())), "first", bad, "last"),
        one("uids that are UUIDs", [a, b, a], *every, uid=pa.array([bytes([n]) * 16 for n in b"abc"], pa.uuid())),
        one(
            "a key that is no UTF-8",
            [a, b, a],
            *(n.hex() for n in (b"d" * 16, b"e" * 16, b"f" * 16)),
            key=not_utf8([b"a", b"\xff", b"c"]),
            uid=[b"d" * 16, b"e" * 16, b"f" * 16],
        ),
        *[one(f"a url of {name}", [a, b, a], *every, url=column) for name, column in carried().items()],
        *[one(f"sizes of {name}", [a, b, a], *every, width=column) for name, column in carried().items()],
        one(
            "a caption that is no UTF-8",
            [a, b, a],
            "first",
            f"{BAD}caption-not-utf8",
            "last",
            text=not_utf8([b"a", b"\xff", b"c"]),
        ),
    ]
