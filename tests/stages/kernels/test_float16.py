"""Every float16 there is, against numpy; buffers are used and not outgrown."""

import numpy as np
import pytest

from winnow.stages.kernels.float16 import widened


def test_every_number_is_as_numpy_has_it() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    for part in (every, every.T, every[::-3, 5:9], every[:0]):
        assert widened(part).tobytes() == part.astype(np.float32).tobytes()  # the bits of NaN too
    for row in every[:, None]:  # most without NaN and infinity, some of nothing else
        assert widened(row).tobytes() == row.astype(np.float32).tobytes()


def test_blocks_are_joined() -> None:
    x = np.random.default_rng(0).normal(size=(700, 512)).astype(np.float16)
    x[600, 3] = np.nan
    assert widened(x).tobytes() == x.astype(np.float32).tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_buffer_is_written_and_returned_in_part(dtype: type) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(dtype)
    buffer = np.full((8, 3), 7, np.float32)
    found = widened(x, buffer)
    assert np.shares_memory(found, buffer)
    assert found.tolist() == x.astype(np.float32).tolist()
    assert (buffer[5:] == 7).all()


def test_beyond_float32_is_infinite() -> None:
    assert widened(np.array([[1e300, -1e300, np.nan]])).tolist()[0][:2] == [np.inf, -np.inf]
