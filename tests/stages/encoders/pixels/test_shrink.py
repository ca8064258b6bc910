"""Pictures made smaller: the shorter side as asked, the aspect kept, small ones untouched, broken ones refused."""

import io

import numpy as np
import pytest
from PIL import Image

from winnow.pipeline.errors import SampleError
from winnow.stages.encoders.pixels.shrink import shrunk


def picture(width: int, height: int, kind: str = "JPEG") -> bytes:
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "after"),
    [((224, 224), (96, 96)), ((400, 100), (384, 96)), ((100, 1000), (96, 960)), ((97, 97), (96, 96))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_shorter_side_is_as_asked(size: tuple[int, int], after: tuple[int, int], kind: str) -> None:
    found = Image.open(io.BytesIO(shrunk(picture(*size, kind), 96)))
    assert (found.format, found.size, found.mode) == ("JPEG", after, "RGB")
    pixels = np.asarray(found).astype(int)
    left, right = pixels[:, : after[0] // 4].mean((0, 1)), pixels[:, -after[0] // 4 :].mean((0, 1))
    np.testing.assert_allclose(left, (255, 0, 0), atol=12)
    np.testing.assert_allclose(right, (0, 0, 255), atol=12)


@pytest.mark.parametrize("size", [(96, 96), (96, 500), (20, 30)])
def test_a_small_one_keeps_its_bytes(size: tuple[int, int]) -> None:
    content = picture(*size)
    assert shrunk(content, 96) == content


def test_a_broken_one_is_refused() -> None:
    with pytest.raises(SampleError, match="Truncated"):
        shrunk(picture(200, 200)[:100], 96)
