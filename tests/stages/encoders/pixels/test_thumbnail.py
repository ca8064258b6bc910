"""Thumbnails: small, of the right shape and colour, made anew, and refused for what would take long."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.stages.encoders.conftest import encoded, photo
from tests.stages.encoders.pixels.test_decoding import odd_images
from winnow.pipeline.errors import SampleError
from winnow.stages.encoders.pixels.thumbnail import thumbnail


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("name", odd_images())
def test_every_mode_becomes_a_small_webp(name: str) -> None:
    small = opened(thumbnail(odd_images()[name], 48))
    assert (small.format, small.mode) == ("WEBP", "RGB")
    assert max(small.size) <= 48


def test_it_is_the_same_picture_and_nothing_else_of_the_file() -> None:
    image = photo(1, 300, 200)
    exif = Image.Exif()
    exif[0x010E] = "<script>alert(1)</script>"
    data = encoded(image, exif=exif) + b"<script>alert(2)</script>"
    made = thumbnail(data, 60, quality=90)
    assert b"script" not in made
    assert opened(made).size == (60, 40)
    near = np.asarray(image.resize((60, 40)), np.float64) - np.asarray(opened(made), np.float64)
    assert np.abs(near).mean() < 8


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert np.asarray(opened(thumbnail(encoded(clear, "PNG"), 20))).min() > 250


def test_a_large_jpeg_is_decoded_small_and_another_is_refused() -> None:
    wide = Image.new("L", (6000, 6000))
    assert opened(thumbnail(encoded(wide), 48)).size == (48, 48)
    with pytest.raises(SampleError, match="6000x6000 came"):
        thumbnail(encoded(wide, "PNG"), 48)


@pytest.mark.parametrize("data", [b"", b"<html>", encoded(photo(1, 64, 64))[:200], b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_a_reject(data: bytes) -> None:
    with pytest.raises(SampleError):
        thumbnail(data, 48)
