"""The pixels of `preprocess: fast`: JPEG decoded at 1/2, 1/4 or 1/8, resized by torch; refuses nothing, gives up.

What it does not know how to do it leaves to PIL: a transform that is no resize and crop, a file that libjpeg warns of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

_MARGIN = 1.125
"""Scaled decoding leaves at least this many times the resized sides, so that 512 px is decoded at 1/2 for 224 px
(256), and nothing is decoded to the wanted side itself, where means of blocks would stand for the model's filter."""

_FILTERS: dict[InterpolationMode, Callable[..., torch.Tensor]] = {
    InterpolationMode.BICUBIC: torch.ops.aten._upsample_bicubic2d_aa.default,
    InterpolationMode.BILINEAR: torch.ops.aten._upsample_bilinear2d_aa.default,
}
"""PIL's filters with its weights, on uint8: within 2 of 255 of PIL at a fifth of its time."""


@dataclass(frozen=True)
class Plan:
    """A model's resize and crop as numbers.

    side: of the short side in pixels, or the (height, width) that the whole image is squashed to.
    crop: (height, width) of the middle that stays, or None for all of it.
    """

    side: int | tuple[int, int]
    filter: InterpolationMode
    crop: tuple[int, int] | None

    @classmethod
    def of(cls, steps: Sequence[object]) -> "Plan | None":
        """The plan of a transform's PIL steps, or None where they are no resize, perhaps with a crop behind it."""
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
        """uint8 (h, w, 3) of an image of this (width, height), which was decoded at 1/factor to uint8 (H, W, 3).

        Sides that the factor does not divide were rounded up: the last pixel sticks out of the image, and what counts
        is the image's own width / factor, or the picture would shift by up to half a pixel.
        """
        height, width = self.resized(size)
        if (height, width) != pixels.shape[:2]:
            scales = height * factor / size[1], width * factor / size[0]
            batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # channels last, not copied: twice as fast
            made = _FILTERS[self.filter](batch, [height, width], False, *scales)
            pixels = made.permute(0, 2, 3, 1)[0].numpy()
        if self.crop is not None and self.crop != (height, width):
            top, left = (round((a - b) / 2) for a, b in zip((height, width), self.crop, strict=True))
            pixels = pixels[top : top + self.crop[0], left : left + self.crop[1]]
        return np.ascontiguousarray(pixels)


def _side(size: int | Sequence[int]) -> int | tuple[int, int]:
    sides = (size,) if isinstance(size, int) else tuple(size)
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def decoded(plans: Sequence[Plan], image: Image.Image, data: bytes | memoryview) -> tuple[np.ndarray, int] | None:
    """uint8 (h, w, 3) and the factor it was decoded at, of an image that PIL opened from `data` and has not loaded.

    None where PIL must do it all: the image has another mode than RGB, or is a JPEG that libjpeg does not decode
    without a warning. So PIL alone rejects, and what is decoded here PIL would have decoded too. Releases the GIL.
    """
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        factor = _factor(plans, image.size)
        pixels = _decoded(data, image.size, factor)
        return None if pixels is None else (pixels, factor)
    image.load()
    return (np.array(image), 1) if image.mode == "RGB" else None


def _factor(plans: Sequence[Plan], size: tuple[int, int]) -> int:
    """8, 4, 2 or 1: the largest that leaves every plan `_MARGIN` times what it resizes to."""
    least = min(min(size[1] / h, size[0] / w) for h, w in (plan.resized(size) for plan in plans))
    return next((factor for factor in (8, 4, 2) if least >= factor * _MARGIN), 1)


def _decoded(data: bytes | memoryview, size: tuple[int, int], factor: int) -> np.ndarray | None:
    """uint8 (ceil(height / factor), ceil(width / factor), 3) RGB, or None where libjpeg refuses or warns."""
    width, height = (-(-side // factor) for side in size)
    # never more memory than the header that PIL read asks for
    room = np.empty(height * width * 3, np.uint8)
    try:
        pixels = simplejpeg.decode_jpeg(data, min_height=height, min_width=width, buffer=room)
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None
