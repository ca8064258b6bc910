"""Pixels: bit-equal to open_clip's and timm's own transforms, for every mode an image may have."""

import io
import struct
import zlib
from collections.abc import Iterator
from random import Random

import numpy as np
import open_clip
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from tests.stages.encoders.conftest import encoded, photo
from winnow.pipeline.errors import ModelError, SampleError
from winnow.stages.encoders import Timm, clip, timm_image
from winnow.stages.encoders.pixels.decoding import Preprocess, decode, decode_all, pil_pieces
from winnow.stages.encoders.pixels.scaled import plain_size

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
def test_the_pixels_are_those_of_open_clips_own_transform(cfg: PreprocessCfg) -> None:
    own, ours = image_transform_v2(cfg, is_train=False), preprocess_of(cfg)
    for name, data in odd_images().items():
        with Image.open(io.BytesIO(data)) as image:
            expected = own(image)
            size = image.size
        found_size, (pixels,) = decode(data, [ours], False)
        assert found_size == size, name
        assert pixels.dtype == np.uint8
        assert torch.equal(ours.tensor([pixels], CPU)[0], expected), name


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
        assert torch.equal(ours.tensor([pixels], CPU)[0], expected), name


def test_dinov2_keeps_its_crop_and_takes_another_size() -> None:
    towers = timm_image.load_timm(Timm("test_vit", "random", image_size=96), CPU)
    assert towers.preprocess.resize(photo(0)).shape == (96, 96, 3)
    assert towers.preprocess.scale == (101, 101)  # crop_pct 0.95 of the model


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_batch_of_tensors_is_bit_equal_to_its_rows(batch: int, side: int, seed: int) -> None:
    ours = preprocess_of(PreprocessCfg(size=side))
    pixels = np.random.default_rng(seed).integers(0, 256, (batch, side, side, 3), np.uint8)
    own = image_transform_v2(PreprocessCfg(size=side), is_train=False)
    expected = torch.stack([own.transforms[-1](own.transforms[-2](Image.fromarray(row))) for row in pixels])
    assert torch.equal(ours.tensor(list(pixels), CPU), expected)


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda cfg: f"{cfg.resize_mode}-{cfg.size}")
def test_fast_differs_by_two_at_most_where_it_decodes_at_full_size(cfg: PreprocessCfg) -> None:
    ours = preprocess_of(cfg)  # all files here are smaller than 2.25 times the wanted size
    for name, data in odd_images().items():
        size, (pixels,) = decode(data, [ours], True)
        exact_size, (exact,) = decode(data, [ours], False)
        assert size == exact_size, name
        assert pixels.shape == exact.shape, name
        assert np.abs(pixels.astype(int) - exact).max() <= 2, name


def test_each_encoder_gets_what_it_gets_alone_and_as_small_as_it_allows() -> None:
    small, large = preprocess_of(PreprocessCfg(size=32)), preprocess_of(PreprocessCfg(size=100))
    data = encoded(photo(3, 1000, 800), quality=95)
    size, pixels = decode(data, [small, large], fast=True)
    assert size == (1000, 800)
    assert [p.shape for p in pixels] == [(32, 32, 3), (100, 100, 3)]
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (250, 200))  # 1/4: 1/8 would leave 100, the wanted side itself
        quarter = np.asarray(large.resize(image))
    assert np.abs(pixels[1].astype(int) - quarter).max() <= 2
    for one, alone in zip(pixels, (small, large), strict=True):
        assert np.array_equal(one, decode(data, [alone], fast=True)[1][0])


@pytest.mark.parametrize("cfg", [CONFIGS[0], CONFIGS[1]], ids=["shortest", "squash"])
def test_a_scaled_picture_does_not_move_where_its_sides_are_odd(cfg: PreprocessCfg) -> None:
    ours = preprocess_of(cfg)
    ramp = np.add.outer(np.linspace(0, 127, 577), np.linspace(0, 127, 577)).astype(np.uint8)
    data = encoded(Image.fromarray(ramp).convert("RGB"), quality=98, subsampling=0)  # at 1/8: 73 pixels for 72.1
    _, (exact,) = decode(data, [ours], False)
    _, (fast,) = decode(data, [ours], True)
    assert abs((fast.astype(float) - exact).mean()) < 0.2  # one column too wide would darken the ramp by 1.6


@pytest.mark.parametrize("cfg", [CONFIGS[2], CONFIGS[3]], ids=["pads", "not square"])
def test_fast_is_exact_where_it_has_no_plan(cfg: PreprocessCfg) -> None:
    ours, known = preprocess_of(cfg), preprocess_of(CONFIGS[0])
    assert ours.plan is None
    data = encoded(photo(3, 1000, 800))
    for fast in (False, True):  # and leaves what others get as it is
        both = decode(data, [known, ours], fast)[1]
        assert np.array_equal(both[0], decode(data, [known], fast)[1][0])
        assert np.array_equal(both[1], decode(data, [ours], False)[1][0])
    assert np.array_equal(decode(data, [ours], True)[1][0], decode(data, [ours], False)[1][0])


@pytest.mark.parametrize("fast", [False, True])
def test_files_decoded_together_are_what_each_is_alone(fast: bool) -> None:
    preprocesses = [preprocess_of(CONFIGS[0]), preprocess_of(PreprocessCfg(size=20, resize_mode="squash"))]
    square, wide = ([encoded(photo(i, *size)) for i in range(4)] for size in ((150, 150), (501, 333)))
    broken = [square[3][:1500], b"", b"no picture"]
    files = [*odd_images().values(), wide[0], square[0], broken[0], square[1], broken[1], wide[1], broken[2], square[2]]
    shapes = [(64, 64, 3), (20, 20, 3)]
    for data, found in zip(files, decode_all(files, preprocesses, fast), strict=True):
        [alone] = decode_all([data], preprocesses, fast)
        assert isinstance(found, SampleError) == (data in broken)
        if isinstance(found, SampleError):
            assert repr(found) == repr(alone)
        else:
            assert not isinstance(alone, SampleError)
            assert found[0] == alone[0]
            assert [pixels.shape for pixels in found[1]] == shapes
            assert all(np.array_equal(*pair) for pair in zip(found[1], alone[1], strict=True))
    assert decode_all([], preprocesses, fast) == []


def test_a_size_is_told_where_pil_would_tell_the_same() -> None:
    plain = {"rgb jpeg", "progressive jpeg", "jpeg 4:4:4", "grey jpeg", "tall"}
    files = odd_images() | {"1 x 1": encoded(photo(0, 1, 1)), "comment": encoded(photo(0), comment=b"text")}
    for name, data in files.items():
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
        assert plain_size(data) == (size if name in plain | {"1 x 1", "comment"} else None), name
    data = files["rgb jpeg"]
    frame = data.index(b"\xff\xc0") + 5
    larger, empty = (data[:frame] + sides + data[frame + 4 :] for sides in (b"\x20\0\x20\0", b"\0\0\0\x05"))
    assert plain_size(larger) is plain_size(empty) is None
    assert all(plain_size(data[:cut]) is None for cut in range(data.index(b"\xff\xda")))


@pytest.mark.parametrize("name", [b"JFIF\0", b"Adobe", b"Exif\0\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"MPF\0"])
def test_what_pil_reads_in_a_header_is_left_to_pil(name: bytes) -> None:
    ours, sound = preprocess_of(PreprocessCfg(size=32)), encoded(photo(0))
    rejected = 0
    for kind, more in ((kind, more) for kind in (0xE0, 0xE1, 0xE2, 0xED, 0xEE) for more in range(12)):
        segment = bytes([255, kind]) + struct.pack(">H", 2 + len(name) + more) + name + bytes(more)
        outcomes = [found_in(sound[:2] + segment + sound[2:], ours, fast) for fast in (False, True)]
        assert outcomes[0] == outcomes[1], (kind, more)
        rejected += outcomes[0] != (320, 240)
    assert rejected or name in (b"Exif\0\0", b"Photoshop 3.0\0", b"MPF\0")  # libjpeg alone would read them all


def found_in(data: bytes, ours: Preprocess, fast: bool) -> tuple[object, ...]:
    """(width, height), or the kind and words of the reject."""
    try:
        return decode(data, [ours], fast)[0]
    except SampleError as error:
        return error.kind, str(error)


def spoiled(seed: int) -> Iterator[bytes]:
    """JPEG files with a byte changed, bytes lost or put in, marks in wrong places, or an end missing."""
    random = Random(seed)
    kinds = ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2})
    sound = [encoded(photo(seed, 90, 70), quality=90, **kind) for kind in kinds]
    for turn in range(100):
        data = bytearray(sound[turn % len(sound)])
        at = random.randrange(700 if turn % 2 else len(data))
        mark = bytes([255, random.choice([0xC0, 0xC4, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xE0, 0xFE])])
        changes = ((at, at + 1, random.randbytes(1)), (at, at + 5, b""), (at, at, mark), (at, len(data), b""))
        first, last, new = changes[turn // 4 % len(changes)]
        data[first:last] = new
        yield bytes(data)


@pytest.mark.parametrize("seed", range(3))
def test_fast_rejects_what_exact_rejects_in_the_same_words(seed: int) -> None:
    ours = preprocess_of(PreprocessCfg(size=32))
    outcomes = [(found_in(data, ours, False), found_in(data, ours, True)) for data in spoiled(seed)]
    assert all(exact == fast for exact, fast in outcomes)
    assert 20 < sum(isinstance(exact[0], int) for exact, _ in outcomes) < 90  # some are read, some are not


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
        (encoded(Image.new("L", (10_000, 1))), "image-too-large", "short side of 224"),
    ],
    ids=["empty", "html", "cut jpeg", "cut png", "eps", "bomb", "thread", "jpeg thread"],
)
def test_a_bad_file_is_a_sample_error_of_a_stable_kind(data: bytes, kind: str, says: str, fast: bool) -> None:
    with pytest.raises(SampleError, match=says) as caught:
        decode(data, [preprocess_of(PreprocessCfg(size=224))], fast)
    assert caught.value.kind == kind


def test_a_transform_that_does_not_end_in_tensor_and_normalize_is_refused() -> None:
    own = image_transform_v2(open_clip.transform.PreprocessCfg(size=8), is_train=False)
    with pytest.raises(ModelError, match="must end in ToTensor and Normalize"):
        pil_pieces(own.transforms[:-1])
