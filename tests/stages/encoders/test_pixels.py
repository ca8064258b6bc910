"""Pixels: bit-equal to open_clip's and timm's own transforms, for every mode an image may have."""

import io
import struct
import zlib

import numpy as np
import open_clip
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from pipeline.errors import ModelError, SampleError
from stages.encoders import Timm, clip, timm_image
from stages.encoders.pixels import Preprocess, decode, pil_pieces
from tests.stages.encoders.conftest import encoded, photo

CPU = torch.device("cpu")


def preprocess_of(cfg: PreprocessCfg) -> Preprocess:
    model = torch.nn.Module()
    model.visual = torch.nn.Module()
    model.visual.preprocess_cfg = vars(cfg)
    return clip._preprocess(model)


def odd_images() -> dict[str, bytes]:
    """Files of every mode and format that a crawl brings."""
    rgb = photo(1, 150, 110)
    frames = [photo(i, 90, 70).convert("P", palette=Image.Palette.ADAPTIVE) for i in range(3)]
    sixteen = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    return {
        "rgb jpeg": encoded(rgb),
        "progressive jpeg": encoded(rgb, progressive=True),
        "jpeg 4:4:4": encoded(rgb, subsampling=0),
        "grey jpeg": encoded(rgb.convert("L")),
        "cmyk jpeg": encoded(rgb.convert("CMYK")),
        "exif orientation": encoded(rgb, exif=rotated),
        "rgb png": encoded(rgb, "PNG"),
        "rgba png": encoded(rgb.convert("RGBA"), "PNG"),
        "grey alpha png": encoded(rgb.convert("LA"), "PNG"),
        "palette png": encoded(rgb.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        "bilevel png": encoded(rgb.convert("1"), "PNG"),
        "16-bit png": encoded(sixteen, "PNG"),
        "animated gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "webp": encoded(rgb, "WEBP"),
        "tiff": encoded(rgb, "TIFF"),
        "bmp": encoded(rgb, "BMP"),
        "one pixel": encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"),
        "tall": encoded(photo(2, 20, 400)),
    }


CONFIGS = [
    PreprocessCfg(size=64),
    PreprocessCfg(size=64, resize_mode="squash", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3),
    PreprocessCfg(size=64, resize_mode="longest", fill_color=127),
    PreprocessCfg(size=(48, 80)),
]


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda cfg: f"{cfg.resize_mode}-{cfg.size}")
@pytest.mark.parametrize("fast", [False, True])
def test_the_pixels_are_those_of_open_clips_own_transform(cfg: PreprocessCfg, fast: bool) -> None:
    # all files here are smaller than twice the wanted size, so fast decodes at full size too
    own, ours = image_transform_v2(cfg, is_train=False), preprocess_of(cfg)
    for name, data in odd_images().items():
        with Image.open(io.BytesIO(data)) as image:
            expected = own(image)
            size = image.size
        found_size, (pixels,) = decode(data, [ours], fast)
        assert found_size == size, name
        assert pixels.dtype == np.uint8
        assert torch.equal(ours.tensor(np.stack([pixels]), CPU)[0], expected), name


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_the_pixels_are_those_of_timms_own_transform(mode: str) -> None:
    model = timm.create_model("test_vit", num_classes=0)
    model.pretrained_cfg["crop_mode"] = mode
    data_config = timm.data.resolve_data_config({}, model=model)
    own = timm.data.create_transform(**data_config, is_training=False)
    ours = timm_image._preprocess(model, {})
    for name, data in odd_images().items():
        with Image.open(io.BytesIO(data)) as image:
            expected = own(image.convert("RGB"))
        _, (pixels,) = decode(data, [ours], False)
        assert torch.equal(ours.tensor(np.stack([pixels]), CPU)[0], expected), name


def test_dinov2_keeps_its_crop_and_takes_another_size() -> None:
    towers = timm_image.load(Timm("test_vit", "random", image_size=96), CPU)
    assert towers.preprocess.resize(photo(0)).shape == (96, 96, 3)
    assert towers.preprocess.scale == (101, 101)  # crop_pct 0.95 of the model


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_batch_of_tensors_is_bit_equal_to_its_rows(batch: int, side: int, seed: int) -> None:
    ours = preprocess_of(PreprocessCfg(size=side))
    pixels = np.random.default_rng(seed).integers(0, 256, (batch, side, side, 3), np.uint8)
    own = image_transform_v2(PreprocessCfg(size=side), is_train=False)
    expected = torch.stack([own.transforms[-1](own.transforms[-2](Image.fromarray(row))) for row in pixels])
    assert torch.equal(ours.tensor(pixels, CPU), expected)


def test_one_decode_serves_all_and_fast_leaves_twice_the_largest_size() -> None:
    small, large = preprocess_of(PreprocessCfg(size=32)), preprocess_of(PreprocessCfg(size=100))
    data = encoded(photo(3, 1000, 800), quality=95)
    size, pixels = decode(data, [small, large], fast=True)
    assert size == (1000, 800)
    assert [p.shape for p in pixels] == [(32, 32, 3), (100, 100, 3)]
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (250, 200))
        half = np.asarray(large.resize(image))
    assert np.array_equal(pixels[1], half)


def test_fast_is_exact_where_the_mode_pads() -> None:
    pads = preprocess_of(PreprocessCfg(size=32, resize_mode="longest"))
    data = encoded(photo(3, 1000, 800))
    assert np.array_equal(decode(data, [pads], True)[1][0], decode(data, [pads], False)[1][0])


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and then ends."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 9) + b"IDAT"


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b"", "image-empty", "none came"),
        (b"<html>404</html>", "image-decode", "begins with b'<html>404</h'"),
        (encoded(photo(0))[:2000], "image-decode", "truncated"),
        (encoded(photo(0), "PNG")[:3000], "image-decode", "truncated"),
        (encoded(photo(0), "EPS"), "image-decode", "program"),
        (png_header(20_000, 20_000), "image-too-large", "400000000"),
        (encoded(Image.new("L", (10_000, 1)), "PNG"), "image-too-large", "short side of 224"),
    ],
    ids=["empty", "html", "cut jpeg", "cut png", "eps", "bomb", "thread"],
)
def test_a_bad_file_is_a_sample_error_of_a_stable_kind(data: bytes, kind: str, says: str, fast: bool) -> None:
    with pytest.raises(SampleError, match=says) as caught:
        decode(data, [preprocess_of(PreprocessCfg(size=224))], fast)
    assert caught.value.kind == kind


def test_a_transform_that_does_not_end_in_tensor_and_normalize_is_refused() -> None:
    own = image_transform_v2(open_clip.transform.PreprocessCfg(size=8), is_train=False)
    with pytest.raises(ModelError, match="must end in ToTensor and Normalize"):
        pil_pieces(own.transforms[:-1])
