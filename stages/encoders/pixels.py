"""Encoded image files to the uint8 pixels and float tensors a model expects; refuses bombs and programs.

An image is decoded once for all encoders. EXIF orientation is not applied, as open_clip does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from pipeline.errors import ModelError
from stages.encoders.opening import MAX_PIXELS, opened, too_large

_MARGIN = 2
"""Scaled decoding leaves at least this many times the wanted size. Measured against exact decoding of 896 px
photos to 224: 2 gives 55 dB PSNR at 2.1 times the speed, 1.5 gives 53 dB at 2.2, 1 gives 47 dB at 4.6."""


@dataclass(frozen=True)
class Preprocess:
    """One encoder's way from a decoded image to its input.

    pieces: the model's own PIL steps, resize first; the last one leaves an RGB image of the input's size.
    mode: `shortest` scales the short side and crops, `squash` changes the aspect, `longest` pads.
    scale: (height, width) that `mode` scales to, in pixels, before the crop.
    mean, std: three numbers each, on the scale 0 to 1.
    """

    pieces: tuple[Callable[[Image.Image], Image.Image], ...]
    mode: Literal["shortest", "squash", "longest"]
    scale: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resize(self, image: Image.Image) -> np.ndarray:
        """uint8 (h, w, 3) of a decoded image of any mode.

        Raises: SampleError `image-too-large` where a thin image would blow up before the crop.
        """
        short, long = sorted(image.size)
        pixels = max(self.scale) ** 2 * long // short
        if self.mode == "shortest" and pixels > MAX_PIXELS:
            raise too_large(f"{image.width}x{image.height} resized to a short side of {max(self.scale)}", pixels)
        for piece in self.pieces:
            image = piece(image)
        return np.asarray(image)

    def tensor(self, pixels: np.ndarray, device: torch.device) -> torch.Tensor:
        """float32 (b, 3, h, w) of uint8 (b, h, w, 3): bit-equal to ToTensor and Normalize one by one."""
        batch = torch.from_numpy(pixels)
        if device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()  # (b, 3, h, w)
        mean = torch.tensor(self.mean, device=device).view(3, 1, 1)
        std = torch.tensor(self.std, device=device).view(3, 1, 1)
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)


def pil_pieces(transform: Sequence[object]) -> tuple[Callable[[Image.Image], Image.Image], ...]:
    """The steps of a torchvision transform before ToTensor and Normalize, which must be its last two.

    Raises: ModelError where they are not, for then `Preprocess.tensor` would not be the model's own.
    """
    names = [type(step).__name__ for step in transform]
    if names[-2:] not in (["MaybeToTensor", "Normalize"], ["ToTensor", "Normalize"]):
        raise ModelError(f"preprocessing must end in ToTensor and Normalize, but is {names}; choose another model")
    return tuple(step for step in transform[:-2] if callable(step))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB."""
    return image.convert("RGB")


def decode(
    data: bytes | memoryview, preprocesses: Sequence[Preprocess], fast: bool
) -> tuple[tuple[int, int], list[np.ndarray]]:
    """Original (width, height), and uint8 (h, w, 3) for each preprocess, of one encoded image.

    fast: JPEG is decoded at 1/2, 1/4 or 1/8 where every encoder has `_MARGIN` times its size left, and none
        has mode `longest`. PIL's own scaled decoding is libjpeg-turbo's, and it rejects the same files.

    Raises: SampleError of kind `image-empty`, `image-too-large` (from the header, before decoding) or
        `image-decode`.
    """
    with opened(data) as image:
        size = image.size
        if fast and all(preprocess.mode != "longest" for preprocess in preprocesses):
            _scale_jpeg(image, preprocesses)
        image.load()
        return size, [preprocess.resize(image) for preprocess in preprocesses]


def _scale_jpeg(image: Image.Image, preprocesses: Sequence[Preprocess]) -> None:
    """Let a JPEG not yet loaded decode smaller; other formats have no draft and stay as they are."""
    height = _MARGIN * max(preprocess.scale[0] for preprocess in preprocesses)
    width = _MARGIN * max(preprocess.scale[1] for preprocess in preprocesses)
    factor = min(image.width / width, image.height / height)
    if factor > 1:
        image.draft(None, (int(image.width / factor), int(image.height / factor)))
