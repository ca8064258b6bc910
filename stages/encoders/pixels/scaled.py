"""`preprocess: fast`: decodes JPEGs at 1/2, 1/4 or 1/8 size, and resizes them with torch.

It leaves the rest to PIL: transforms other than resize and crop, and files about which libjpeg warns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

_MARGIN = 1.125
"""Scaled decoding leaves at least this many times the resized sides. So 512 px is decoded at 1/2 for 224 px (256), and
no image is decoded to the wanted side itself, because block means would then replace the model's filter."""

_FILTERS: dict[InterpolationMode, Callable[..., torch.Tensor]] = {
    InterpolationMode.BICUBIC: torch._C._nn._upsample_bicubic2d_aa,
    InterpolationMode.BILINEAR: torch._C._nn._upsample_bilinear2d_aa,
}
"""PIL's filters with its weights, on uint8: within 2 of 255 of PIL in a fifth of its time. torch's public function
takes either a size or scales, and an image whose sides were rounded up needs both."""

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_LEAST = {0xC4: 2, 0xDB: 2, 0xDD: 2, 0xFE: 2, 0xE0: 14, 0xEE: 14}
"""Segments that a plain JPEG may have, and the least length of each: Huffman and quantization tables, restarts,
comments; JFIF and Adobe, of which PIL reads 9 bytes."""

_SCAN = 0xDA

_LARGE = 1 << 24
"""Most pixels, original and resized, of an image that is decoded and resized together with others."""


@dataclass(frozen=True)
class ResizeCrop:
    """A model's resize and crop as numbers.

    side: pixels of the short side, or the (height, width) to which the whole image is squashed.
    crop: (height, width) of the centre crop, or None for no crop.
    """

    side: int | tuple[int, int]
    filter: InterpolationMode
    crop: tuple[int, int] | None

    @classmethod
    def of(cls, steps: Sequence[object]) -> "ResizeCrop | None":
        """The plan of a transform's PIL steps; None unless they are a resize, alone or followed by a centre crop."""
        resize, crop = (*steps, None, None)[:2]
        if len(steps) > 2 or not isinstance(resize, Resize) or resize.max_size is not None:
            return None
        if resize.interpolation not in _FILTERS or not isinstance(crop, CenterCrop | None):
            return None
        side = _side(resize.size)
        window = None if crop is None else (int(crop.size[0]), int(crop.size[1]))
        if window is not None and any(np.array(window) > side):
            return None  # such a crop pads
        return cls(side, resize.interpolation, window)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) before the crop of an image of this (width, height), rounded as torchvision rounds."""
        if not isinstance(self.side, int):
            return self.side
        width, height = size
        if width <= height:
            return int(self.side * height / width), self.side
        return self.side, int(self.side * width / height)

    def apply(self, pixels: np.ndarray, size: tuple[int, int], factor: int) -> np.ndarray:
        """Resize and crop n images to uint8 (n, h, w, 3).

        pixels: uint8 (n, H, W, 3), images of this (width, height) decoded at 1/factor. Decoding rounds sides up that
        the factor does not divide, so the last pixel reaches beyond the image. The scale is computed from the exact
        width / factor; otherwise the picture would shift by up to half a pixel.
        """
        height, width = self.resized(size)
        if (height, width) != pixels.shape[1:3]:
            scales = height * factor / size[1], width * factor / size[0]
            batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels last, not copied: twice as fast
            pixels = _FILTERS[self.filter](batch, (height, width), False, *scales).permute(0, 2, 3, 1).numpy()
        if self.crop is not None and self.crop != (height, width):
            top, left = (round((a - b) / 2) for a, b in zip((height, width), self.crop, strict=True))
            pixels = pixels[:, top : top + self.crop[0], left : left + self.crop[1]]
        return np.ascontiguousarray(pixels)


def _side(size: int | Sequence[int]) -> int | tuple[int, int]:
    sides = (size,) if isinstance(size, int) else tuple(size)
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def plain_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) of a JPEG that PIL opens as RGB or L, from its segments alone; None if PIL must open the file.

    PIL opens a file in 17 microseconds, and in 30 after a decoder has run; this takes 2. Everything unusual is left to
    PIL: Exif and profiles, which it reads, bytes between segments, and rare sizes.
    """
    at, size = 2, None
    if data[:2] != b"\xff\xd8":
        return None
    while at + 12 < len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if kind == _SCAN:
            return size
        if kind in _FRAMES and size is None:
            bits, layers = data[at + 4], data[at + 9]
            size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            if bits != 8 or layers not in (1, 3) or not 0 < size[0] * size[1] <= _LARGE:
                return None
        elif length < _LEAST.get(kind, 1 << 16):
            return None
        at += 2 + length
    return None


def alike(plans: Sequence[ResizeCrop], files: Sequence[bytes | memoryview]) -> dict[tuple[int, int], list[int]]:
    """(width, height) → the rows of files with that `plain_size`. Other files, and very large images, are left out."""
    found: dict[tuple[int, int], list[int]] = {}
    for row, data in enumerate(files):
        if (size := plain_size(data)) is not None:
            found.setdefault(size, []).append(row)
    return {size: rows for size, rows in found.items() if all(prod(plan.resized(size)) <= _LARGE for plan in plans)}


def decoded_jpegs(
    files: Sequence[bytes | memoryview], size: tuple[int, int], factor: int
) -> tuple[np.ndarray, list[bool]]:
    """Decode n JPEGs whose headers have this (width, height) at 1/factor: uint8 (n, h, w, 3), and a flag for each.

    The flag is True if libjpeg decoded the file without a warning. The pixels of other files are undefined, and PIL
    must decode them. So only PIL rejects files, and PIL would decode every file that is decoded here. Releases the GIL.
    """
    width, height = (-(-side // factor) for side in size)
    room = np.empty((len(files), height, width, 3), np.uint8)  # never more memory than the header asks for
    return room, [_decoded(data, pixels) for data, pixels in zip(files, room, strict=True)]


def _decoded(data: bytes | memoryview, room: np.ndarray) -> bool:
    """Fill uint8 (h, w, 3) with RGB; False if libjpeg fails, warns, or finds another size."""
    try:
        pixels = simplejpeg.decode_jpeg(data, min_height=room.shape[0], min_width=room.shape[1], buffer=room)
    except ValueError:
        return False
    whole: bool = pixels.shape == room.shape
    return whole


def decoded(image: Image.Image, data: bytes | memoryview, factor: int) -> tuple[np.ndarray, int] | None:
    """An image that PIL opened from `data` and has not loaded: uint8 (1, h, w, 3), and the factor of decoding.

    None if PIL must do everything: a mode other than RGB, or a JPEG about which libjpeg warns.
    """
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        pixels, [sound] = decoded_jpegs([data], image.size, factor)
        return (pixels, factor) if sound else None
    image.load()
    return (np.array(image)[None], 1) if image.mode == "RGB" else None


def by_factor(plans: Sequence[ResizeCrop], size: tuple[int, int]) -> dict[int, list[int]]:
    """Factor → the numbers of the plans that want an image of this (width, height) decoded at 1/factor."""
    found: dict[int, list[int]] = {}
    for number, plan in enumerate(plans):
        found.setdefault(_factor(plan, size), []).append(number)
    return found


def _factor(plan: ResizeCrop, size: tuple[int, int]) -> int:
    """8, 4, 2 or 1: the largest factor that leaves the plan at least `_MARGIN` times its resized sides."""
    height, width = plan.resized(size)
    least = min(size[1] / height, size[0] / width)
    return next((factor for factor in (8, 4, 2) if least >= factor * _MARGIN), 1)
