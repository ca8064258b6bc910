"""Precomputed vectors in three layouts: the same rows, rejects and unit vectors from each."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from winnow.pipeline.errors import DataError, JobError, PoolError, ShardError, StorageError
from winnow.pipeline.executors.retries import is_lasting
from winnow.pipeline.uid import content_hash, named_uid, stated_uid
from winnow.stages.pools.clip_retrieval import ClipRetrieval
from winnow.stages.pools.columns import uid_bytes_of
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.precomputed.blocks import BLOCK_ROWS, unit_parts
from winnow.stages.pools.precomputed.rows import ROWS
from winnow.stages.pools.sample import Reject
from winnow.stages.pools.vectors import Vectors

Reader = Datacomp | ClipRetrieval | Vectors
Write = Callable[[Path, dict[str, Any], np.ndarray, np.ndarray], tuple[Reader, str]]


def unit(rows: int, width: int = 8, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def meta(rows: int) -> dict[str, Any]:
    return {
        "uid": [f"{n + 1:032x}" for n in range(rows)],
        "url": [f"http://x/{n}" for n in range(rows)],
        "text": [f"caption {n}" for n in range(rows)],
    }


def as_datacomp(folder: Path, columns: dict[str, Any], image: np.ndarray, text: np.ndarray) -> tuple[Reader, str]:
    pq.write_table(pa.table(columns), folder / "p.parquet")
    broken = np.full((3, 2), np.nan)  # never read: it would be refused
    np.savez(folder / "p.npz", b32_img=broken, l14_img=image, l14_txt=text)
    return Datacomp(use=("l14",)), str(folder / "p.parquet")


def as_clip_retrieval(folder: Path, columns: dict[str, Any], image: np.ndarray, text: np.ndarray) -> tuple[Reader, str]:
    for name in ("metadata", "img_emb", "text_emb"):
        (folder / name).mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "metadata/metadata_07.parquet")
    np.save(folder / "img_emb/img_emb_07.npy", image)
    np.save(folder / "text_emb/text_emb_07.npy", text)
    return ClipRetrieval(encoder="l14"), str(folder / "metadata/metadata_07.parquet")


def as_vectors(folder: Path, columns: dict[str, Any], image: np.ndarray, text: np.ndarray) -> tuple[Reader, str]:
    table = pa.table(columns)
    table = table.append_column("i", pa.FixedSizeListArray.from_arrays(pa.array(image.ravel()), image.shape[1]))
    offsets = pa.array(np.arange(len(text) + 1, dtype=np.int32) * text.shape[1])
    table = table.append_column("t", pa.ListArray.from_arrays(offsets, pa.array(text.ravel())))
    pq.write_table(table, folder / "v.parquet", row_group_size=1500)
    return Vectors(image="i", text="t", encoder="l14"), str(folder / "v.parquet")


WRITERS = pytest.mark.parametrize("write", [as_datacomp, as_clip_retrieval, as_vectors])


@WRITERS
def test_good_rows_come_whole_and_vectors_bit_by_bit(tmp_path: Path, write: Write) -> None:
    image, text = unit(5000), unit(5000, seed=1)
    reader, url = write(tmp_path, meta(5000), image, text)
    table, rejects = reader.sound(url, reader.encoders())
    assert rejects == []
    assert table.schema == ROWS
    assert table["position"].to_pylist() == list(range(5000))
    assert table["caption"].to_pylist() == meta(5000)["text"]
    assert table["url"].to_pylist() == meta(5000)["url"]
    assert table["key"].to_pylist() == meta(5000)["uid"]
    assert [uid.hex() for uid in table["uid"].to_pylist()] == meta(5000)["uid"]
    assert table["width"].null_count == 5000
    assert reader.encoders() == ("l14",)
    assert all(Path(companion).exists() for companion in reader.companions(url))
    for tower, wanted in (("image", image), ("text", text)):
        found = reader.vectors(url, "l14", tower, None)  # type: ignore[arg-type]  # a Literal
        assert found.dtype == np.float16
        assert np.array_equal(found, wanted)


@WRITERS
def test_any_positions_come_in_their_order(tmp_path: Path, write: Write) -> None:
    image = unit(9000)
    reader, url = write(tmp_path, meta(9000), image, image)
    positions = np.random.default_rng(2).integers(0, 9000, 700)
    for asked in (positions, np.array([8999, 0, 4096, 4095, 0]), np.arange(4100), np.array([], np.int64)):
        assert np.array_equal(reader.vectors(url, "l14", "image", asked), image[asked])
    for outside in (-1, 9000):
        with pytest.raises(DataError, match=r"positions must be in 0\.\.8999"):
            reader.vectors(url, "l14", "text", np.array([outside]))


@WRITERS
def test_each_bad_row_is_one_reject_and_the_others_stay(tmp_path: Path, write: Write) -> None:
    image, text = unit(6), unit(6, seed=1)
    image[1, 3], image[2], text[3, 0], text[4] = np.nan, 0, np.inf, -0.0
    columns = {**meta(6), "text": [None, None, *meta(6)["text"][2:]]}
    reader, url = write(tmp_path, columns, image, text)
    table, rejects = reader.sound(url, reader.encoders())
    assert table["position"].to_pylist() == [5]
    wanted = ["no-caption", "no-caption", "vector-zero", "vector-not-finite", "vector-zero"]
    assert [item.kind for item in rejects] == wanted
    assert [item.position for item in rejects] == [0, 1, 2, 3, 4]
    assert [item.key for item in rejects] == columns["uid"][:5]
    assert np.array_equal(reader.vectors(url, "l14", "text", np.array([5])), text[5:])
    with pytest.raises(DataError, match="the vector of row 1 is zero or not finite"):
        reader.vectors(url, "l14", "image", None)


@WRITERS
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors_of_any_length_and_width_come_as_unit_float16(
    tmp_path: Path, write: Write, dtype: type[np.floating[Any]]
) -> None:
    x = (np.random.default_rng(3).standard_normal((50, 8)) * 7).astype(dtype)
    reader, url = write(tmp_path, meta(50), x, x)
    assert reader.sound(url, reader.encoders())[1] == []
    found = reader.vectors(url, "l14", "image", None)
    exact = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    assert np.abs(found.astype(np.float64) - exact).max() < 2**-11
    some = np.array([7, 7, 31])
    assert np.array_equal(reader.vectors(url, "l14", "image", some), found[some])


@WRITERS
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("length", [1, 7])
def test_parts_are_the_same_numbers_as_float32(
    tmp_path: Path, write: Write, dtype: type[np.floating[Any]], length: int
) -> None:
    """Over several blocks, all rows, every third, the last, and repeats that are more than a block holds."""
    rows = 2 * BLOCK_ROWS + 90
    x = (unit(rows).astype(np.float32) * length).astype(dtype)
    reader, url = write(tmp_path, meta(rows), x, x)
    every = reader.vectors(url, "l14", "image", None)
    repeats = np.repeat([5, rows - 1], BLOCK_ROWS + 1)
    for asked in (np.arange(rows), np.arange(0, rows, 3), np.array([rows - 1]), repeats, np.array([], np.int64)):
        with reader.blocks(url, "l14", "image") as blocks:
            parts = [(half.copy(), wide.copy()) for half, wide in unit_parts(blocks, asked, url)]
        assert len(parts) <= 3
        found = np.concatenate([np.empty((0, x.shape[1]), np.float16), *[half for half, _ in parts]])
        assert np.array_equal(found, every[asked])
        assert all(wide.dtype == np.float32 and np.array_equal(wide, half) for half, wide in parts)
        assert np.array_equal(reader.vectors(url, "l14", "image", asked[::-1]), every[asked[::-1]])


@WRITERS
def test_an_empty_shard_has_no_rows(tmp_path: Path, write: Write) -> None:
    columns = {name: pa.array([], pa.string()) for name in ("uid", "url", "text")}
    reader, url = write(tmp_path, columns, unit(0), unit(0))
    assert reader.sound(url, reader.encoders())[0].num_rows == 0
    assert len(reader.vectors(url, "l14", "image", None)) == 0


@WRITERS
def test_an_encoder_that_the_pool_has_not_is_named(tmp_path: Path, write: Write) -> None:
    reader, url = write(tmp_path, meta(2), unit(2), unit(2))
    with pytest.raises(JobError, match="must have vectors of h14, but it has those of l14"):
        reader.vectors(url, "h14", "image", None)


@pytest.mark.parametrize("write", [as_datacomp, as_clip_retrieval])
def test_files_that_do_not_match_are_refused(tmp_path: Path, write: Write) -> None:
    for image, message in (
        (unit(3), "has 3 vectors and the parquet 4 rows"),
        (np.ones((4, 8), np.int8), r"must be float16, float32 or float64 .* but int8 of shape \(4, 8\)"),
        (np.ones(4), r"but float64 of shape \(4,\)"),
        (np.asfortranarray(unit(4)), "Fortran"),
        (np.array([[None] * 8] * 4), "but object"),
        (unit(4, width=9), r"as wide, but are \[9, 8\]"),
    ):
        reader, url = write(tmp_path, meta(4), image, unit(4))
        with pytest.raises(ShardError, match=message) as error:
            reader.sound(url, reader.encoders())
        assert is_lasting(error.value)


def test_files_that_are_cut_or_missing_are_refused(tmp_path: Path) -> None:
    reader, url = as_clip_retrieval(tmp_path, meta(4), unit(4), unit(4))
    array = Path(reader.companions(url)[1])
    array.write_bytes(array.read_bytes()[:-1])
    with pytest.raises(ShardError, match="4 rows must follow the header, but the file ends in row 3") as error:
        reader.sound(url, reader.encoders())
    assert not is_lasting(error.value)
    array.write_bytes(b"junk")
    with pytest.raises(ShardError, match="must be whole and readable"):
        reader.sound(url, reader.encoders())
    array.unlink()
    with pytest.raises(StorageError, match="no such file"):
        reader.sound(url, reader.encoders())
    reader, url = as_datacomp(tmp_path, meta(4), unit(4), unit(4))
    np.savez(tmp_path / "p.npz", b32_img=unit(4), l14_img=unit(4))
    with pytest.raises(ShardError, match="the archive must hold l14_txt, but holds b32_img, l14_img") as error:
        reader.sound(url, reader.encoders())
    assert is_lasting(error.value)
    archive = tmp_path / "p.npz"
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(ShardError, match="must be whole and readable"):
        reader.sound(url, reader.encoders())


def test_datacomp_sides_uids_and_texts(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 4, [None, pa.py_buffer(np.arange(5, dtype=np.int32)), pa.py_buffer(b"ab\xffd")]
    )
    columns = {
        "uid": ["A" * 32, "x" * 32, "1" * 32, "2" * 31],
        "text": broken,
        "url": broken,
        "original_width": [640.0, float("nan"), 3e10, None],
        "original_height": [480, 0, -1, 7],
        "width": [1, 1, 1, 1],
    }
    reader, url = as_datacomp(tmp_path, columns, unit(4), unit(4))
    table, rejects = reader.sound(url, reader.encoders())
    assert table.drop_columns(["uid", "key", "named"]).to_pylist() == [
        {"position": 0, "caption": "a", "width": 640, "height": 480, "url": "a"}
    ]
    assert table["uid"].to_pylist() == [b"\xaa" * 16]
    assert [item.kind for item in rejects] == ["no-uid", "caption-not-utf8", "no-uid"]
    with pytest.raises(PoolError, match="there is no text; there are uid"):
        Datacomp(use=("l14",)).rows(as_datacomp(tmp_path, {"uid": []}, unit(0), unit(0))[1])
    with pytest.raises(JobError, match="list of b32 and l14"):
        Datacomp(use=("h14",))


def test_clip_retrieval_names_rows_by_what_tells_them_apart(tmp_path: Path) -> None:
    columns = {
        "url": ["u", None, "w", ""],
        "image_path": ["p", "q", "r", None],
        "TEXT": ["a", "b", "c", "d"],
        "WIDTH": [3, 4, 5, 6],
        "uid": [None, "7", "0" * 32, None],
    }
    image = unit(4)
    reader, url = as_clip_retrieval(tmp_path, columns, image, unit(4))
    table, rejects = reader.sound(url, reader.encoders())
    assert rejects == []
    wanted = [content_hash(b"u", b"a"), content_hash(b"q", b"b"), bytes(16), content_hash(image[3].tobytes(), b"d")]
    assert table["uid"].to_pylist() == wanted
    assert table["named"].to_pylist() == [
        "a hash of url and caption",
        "a hash of image_path and caption",
        "column uid",
        "a hash of the image vector and caption",
    ]
    assert table["url"].to_pylist() == ["u", None, "w", ""]
    assert table["width"].to_pylist() == [3, 4, 5, 6]
    named, _ = ClipRetrieval(uid="image_path").rows(url)
    assert named["uid"].to_pylist() == [content_hash(path) for path in (b"p", b"q", b"r")]


@pytest.mark.parametrize("text", [True, False])
def test_what_clip_retrieval_leaves_without_metadata_names_every_picture(tmp_path: Path, text: bool) -> None:
    """Without --enable_metadata there is no url, and without text no caption."""
    columns = {"image_path": [f"/imgs/{n}.jpg" for n in range(40)]}
    image = np.tile(unit(8), (5, 1))
    _, url = as_clip_retrieval(tmp_path, columns | ({"caption": ["a"] * 40} if text else {}), image, unit(40))
    table, rejects = ClipRetrieval(text=text).rows(url)
    assert (len(set(table["uid"].to_pylist())), rejects) == (40, [])


def test_clip_retrieval_without_text(tmp_path: Path) -> None:
    _, url = as_clip_retrieval(tmp_path, {"url": ["u", "v"], "key": ["1", "2"]}, unit(2), unit(2))
    (tmp_path / "text_emb/text_emb_07.npy").unlink()
    reader = ClipRetrieval(text=False)
    table, _ = reader.sound(url, reader.encoders())
    assert (table["caption"].to_pylist(), table["key"].to_pylist()) == (["", ""], ["1", "2"])
    with pytest.raises(JobError, match="must have text vectors"):
        reader.vectors(url, "clip", "text", None)
    with pytest.raises(PoolError, match=r"must be named …/metadata/metadata_N\.parquet"):
        reader.companions("s3://b/meta/metadata_0.parquet")
    assert reader.companions("s3://b/metadata/metadata_0.parquet") == ["s3://b/img_emb/img_emb_0.npy"]
    assert reader.companions("metadata/metadata_0.parquet") == ["img_emb/img_emb_0.npy"]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 2)])
def test_null_vectors_are_rejects(tmp_path: Path, kind: pa.DataType) -> None:
    rows = [None, [3, 4], [0, 1], None, [1, None], [1, 0]]
    cells = [row and [None if x is None else np.float16(x) for x in row] for row in rows]
    path = str(tmp_path / "v.parquet")
    pq.write_table(pa.table({"v": pa.array(cells, kind), "caption": list("abcdef")}), path)
    reader = Vectors(image="v")
    table, rejects = reader.sound(path, reader.encoders())
    assert [item.position for item in rejects] == [0, 3, 4]
    assert {item.kind for item in rejects} == {"vector-not-finite"}
    assert table["caption"].to_pylist() == ["b", "c", "f"]
    found = reader.vectors(path, "vectors", "image", np.array(table["position"]))
    assert np.array_equal(found, np.array([[0.6, 0.8], [0, 1], [1, 0]], np.float16))
    dtype = kind.value_type.to_pandas_dtype()
    assert table["uid"][0].as_py() == content_hash(np.array([3, 4], dtype).tobytes(), b"b")
    with pytest.raises(JobError, match=r"pool\.text names none"):
        reader.vectors(path, "vectors", "text", None)


def test_vector_columns_that_are_none_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "v.parquet")
    pq.write_table(pa.table({"v": [[1.0, 2.0], [1.0]], "n": [1, 2], "text": [[1.0], [2.0]]}), path)
    with pytest.raises(ShardError, match="vectors must have one length, but 2 and 1 came"):
        Vectors(image="v").sound(path, ("vectors",))
    with pytest.raises(PoolError, match="column n must hold lists of floats, but is int64"):
        Vectors(image="n").sound(path, ("vectors",))
    with pytest.raises(PoolError, match="there is no w; there are v, n, text"):
        Vectors(image="w").sound(path, ("vectors",))
    with pytest.raises(PoolError, match="must name a text column, but text is list"):
        Vectors(image="v", caption="text").sound(path, ("vectors",))
    assert Vectors(image="text").rows(path)[0]["caption"].to_pylist() == ["", ""]
    table, rejects = Vectors(image="text", uid="n").rows(path)
    assert (table["uid"].to_pylist(), rejects) == ([content_hash(b"1"), content_hash(b"2")], [])
    with pytest.raises(PoolError, match="must name a column of texts, bytes or whole numbers, but v is list"):
        Vectors(image="text", uid="v").rows(path)


def test_only_null_vectors_are_all_rejects(tmp_path: Path) -> None:
    path = str(tmp_path / "v.parquet")
    pq.write_table(pa.table({"v": pa.nulls(2, pa.list_(pa.float32())), "uid": ["1" * 32, "2" * 32]}), path)
    _, rejects = Vectors(image="v").sound(path, ("vectors",))
    message = "a vector must be finite and not zero, but vectors.image is missing, or holds NaN or infinity"
    assert rejects[0] == Reject(0, "1" * 32, "vector-not-finite", message)
    assert len(rejects) == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.none() | st.text("0aFg", min_size=30, max_size=33) | st.binary(min_size=16, max_size=16).map(bytes.hex))
)
def test_uids_agree_with_the_obvious_way(texts: list[str | None]) -> None:
    for array in (pa.array(texts, pa.string()), pa.array(["x", *texts], pa.large_string())[1:]):
        uids, known = uid_bytes_of(pa.chunked_array([array[:3], array[3:]]))
        for text, uid, good in zip(texts, uids, known, strict=True):
            hexed = text is not None and len(text) == 32 and set(text) <= set("0123456789abcdefABCDEF")
            assert good == hexed
            assert uid.tobytes() == (bytes.fromhex(text) if hexed and text else bytes(16))


def test_vectors_too_small_for_float32_squares_are_zero(tmp_path: Path) -> None:
    x = np.array([[3e-22, 4e-22], [3e-14, 4e-14], [3e18, 4e18], [3e20, 4e20]], np.float32)
    reader, url = as_vectors(tmp_path, meta(4), x, x)
    table, rejects = reader.sound(url, reader.encoders())
    assert [(item.position, item.kind) for item in rejects] == [(0, "vector-zero"), (3, "vector-not-finite")]
    found = reader.vectors(url, "l14", "image", table["position"].to_numpy())
    assert np.array_equal(found, np.array([[0.6, 0.8]] * 2, np.float16))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(width=64)),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_a_row_is_rejected_or_a_unit_vector(
    tmp_path_factory: pytest.TempPathFactory, x: np.ndarray, dtype: type[np.floating[Any]]
) -> None:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        x = x.astype(dtype)
    reader, url = as_vectors(tmp_path_factory.getbasetemp(), meta(len(x)), x, x)
    table, rejects = reader.sound(url, reader.encoders())
    assert len(table) + len(rejects) == len(x)
    found = reader.vectors(url, "l14", "image", table["position"].to_numpy())
    assert np.allclose(np.linalg.norm(found.astype(np.float64), axis=1), 1, atol=2e-3)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["640", " 640 ", "640.0", None, "wide", "", "-640", "\u0666\u0664"]),
        pa.array([b"640", b"640", b"640", None, b"\xff", b"", b"0", b"1e9999"]),
        pa.array([Decimal("640"), Decimal("640.9"), Decimal("640"), None, Decimal(0), *[Decimal("-1")] * 3]),
        pa.array([640.0, 640.5, 640.0, None, float("nan"), float("inf"), -1.0, 3e10]),
        pa.array([640, 640, 640, None, 0, 0, 2**40, 2**63], pa.uint64()),
        pa.array(["640", "640", "640", None, "x", "x", "x", "x"]).dictionary_encode(),
        pa.array([np.float16(640)] * 3 + [None] * 5, pa.float16()),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize(("width", "height"), [("width", "height"), ("image_width", "image_height")])
def test_sizes_are_read_from_any_numbers_and_texts_of_numbers(
    tmp_path: Path, column: pa.Array, width: str, height: str
) -> None:
    path = str(tmp_path / "v.parquet")
    pq.write_table(pa.table({"v": list(unit(8)), width: column, height: column}), path)
    table, _ = Vectors(image="v").sound(path, ("vectors",))
    assert table["width"].to_pylist() == [640] * 3 + [None] * 5
    assert table["height"].to_pylist() == [640] * 3 + [None] * 5


VALUES = st.none() | st.text(max_size=40) | st.uuids().map(str) | st.uuids().map(lambda uid: uid.hex.upper())


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES), st.lists(st.none() | st.binary(max_size=40)), st.lists(st.none() | st.integers(0, 2**64 - 1)))
def test_a_column_is_named_as_its_values_are_one_by_one(
    texts: list[str | None], raw: list[bytes | None], numbers: list[int | None]
) -> None:
    columns = [
        pa.array(texts, pa.string()),
        pa.array(texts, pa.string_view()),
        pa.array(texts, pa.large_string()).dictionary_encode(),
        pa.array(raw, pa.binary()),
        pa.array(raw, pa.binary_view()),
        pa.array(numbers, pa.uint64()),
    ]
    for column in columns:
        for named, of in ((False, stated_uid), (True, named_uid)):
            uids, known = uid_bytes_of(pa.chunked_array([column[:2], column[2:]]), named)
            expected = [of(value) for value in column.to_pylist()]
            assert [uid.tobytes() if good else None for uid, good in zip(uids, known, strict=True)] == expected
            assert not uids[~known].any()
