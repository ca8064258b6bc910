"""Columns become arrays and columns again, whatever chunks and offsets they come in."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from winnow.pipeline.columns import column, matrix, scattered, vector_column
from winnow.pipeline.errors import DataError

SHAPES = st.tuples(st.integers(0, 12), st.integers(1, 5))
VECTORS = st.one_of(hnp.arrays(dtype, SHAPES, elements={"allow_nan": False}) for dtype in (np.float16, np.float32))


@given(VECTORS)
def test_vectors_come_back_as_they_were(vectors):
    back = matrix(vector_column(vectors))
    assert back.dtype == vectors.dtype
    assert np.array_equal(back, vectors)


@given(VECTORS, st.integers(0, 12), st.integers(0, 12))
def test_a_slice_of_a_column_is_a_slice_of_the_rows(vectors, start, length):
    array = vector_column(vectors).slice(min(start, len(vectors)), length)
    expected = vectors[start : start + length]
    assert np.array_equal(matrix(array), expected)
    assert np.array_equal(matrix(pa.chunked_array([array])), expected)
    assert np.array_equal(matrix(pa.chunked_array([array, array])), np.vstack([expected, expected]))


def test_a_column_without_chunks_has_its_width():
    assert matrix(pa.chunked_array([], pa.list_(pa.float16(), 4))).shape == (0, 4)


def test_a_row_without_vector_is_refused():
    rows = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    for vectors in (rows, pa.chunked_array([rows])):
        with pytest.raises(DataError, match="every row must have its vector here, got 1 nulls"):
            matrix(vectors)


@given(st.lists(st.one_of(st.none(), st.integers(-9, 9)), max_size=12), st.integers(0, 12))
def test_nulls_are_refused_or_filled(values, start):
    table = pa.table({"v": pa.array(values, pa.int64())}).slice(min(start, len(values)))
    rest = values[start:]
    assert column(table, "v", null=-100).tolist() == [-100 if v is None else v for v in rest]
    if None in rest:
        with pytest.raises(DataError, match=f"column v must have no nulls here, got {rest.count(None)}"):
            column(table, "v")
    else:
        assert column(table, "v").tolist() == rest


@pytest.mark.parametrize("values", [[True, False], ["a", "b"], [0.5, -1.5], []])
def test_columns_of_every_kind(values):
    assert column(pa.table({"v": values}), "v").tolist() == values


@given(st.data(), st.integers(0, 12))
def test_scattered_values_lie_at_their_rows(data, length):
    rows = data.draw(st.permutations(range(length)))[: data.draw(st.integers(0, length))]
    values = np.arange(len(rows), dtype=np.float32) + 0.5
    expected: list[float | None] = [None] * length
    for value, row in zip(values.tolist(), rows, strict=True):
        expected[row] = value
    found = scattered(values, np.array(rows, np.int64), length)
    assert found.type == pa.float32()
    assert found.to_pylist() == expected
