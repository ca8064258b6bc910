"""Decodes image files to the uint8 pixels and float tensors that a model expects.

An image is decoded once for all encoders. EXIF orientation is not applied, because open_clip does not apply it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from PIL import Image

from winnow.pipeline.errors import ModelError, SampleError
from winnow.stages.encoders.pixels import scaled
from winnow.stages.encoders.pixels.opening import MAX_PIXELS, image_errors, open_image, too_large


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of one encoder, from a decoded image to the input of its model.

    pieces: the model's own PIL steps, resize first. The result of the last is an RGB image of the input's size.
    mode: `shortest` scales the short side and crops, `squash` changes the aspect, `longest` pads.
    scale: (height, width) that `mode` scales to, in pixels, before the crop.
    mean, std: three numbers each, on the scale 0 to 1.
    """

    pieces: tuple[Callable[[Image.Image], Image.Image], ...]
    mode: Literal["shortest", "squash", "longest"]
    scale: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @cached_property
    def plan(self) -> scaled.ResizeCrop | None:
        """What `fast` does in place of the pieces; None if it has no faster way."""
        return scaled.ResizeCrop.of([piece for piece in self.pieces if not _keeps_rgb(piece)])

    def check(self, size: tuple[int, int]) -> None:
        """Raises: SampleError `image-too-large` if an image of this (width, height) is too large before the crop."""
        short, long = sorted(size)
        pixels = max(self.scale) ** 2 * long // short
        if self.mode == "shortest" and pixels > MAX_PIXELS:
            raise too_large(f"{size[0]}x{size[1]} resized to a short side of {max(self.scale)}", pixels)

    def resize(self, image: Image.Image) -> np.ndarray:
        """A decoded image of any mode as uint8 (h, w, 3), bit for bit as the model's own transform makes it.

        Raises: SampleError as `check`.
        """
        self.check(image.size)
        for piece in self.pieces:
            image = piece(image)
        return np.asarray(image)

    def tensor(self, pixels: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
        """float32 (b, 3, h, w) from b arrays uint8 (h, w, 3), bit-equal to ToTensor and Normalize on each image."""
        # torch reuses pinned memory for the next batch; filling new memory takes six times as long
        batch = torch.empty((len(pixels), *pixels[0].shape), dtype=torch.uint8, pin_memory=device.type == "cuda")
        np.stack(pixels, out=batch.numpy())
        batch = batch.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()  # (b, 3, h, w)
        mean = torch.tensor(self.mean, device=device).view(3, 1, 1)
        std = torch.tensor(self.std, device=device).view(3, 1, 1)
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)


def pil_pieces(transform: Sequence[object]) -> tuple[Callable[[Image.Image], Image.Image], ...]:
    """The steps of a torchvision transform before ToTensor and Normalize, which must be its last two.

    Raises: ModelError if they are not, because `Preprocess.tensor` would then differ from the model's own transform.
    """
    names = [type(step).__name__ for step in transform]
    if names[-2:] not in (["MaybeToTensor", "Normalize"], ["ToTensor", "Normalize"]):
        raise ModelError(f"preprocessing must end in ToTensor and Normalize, but is {names}; choose another model")
    return tuple(step for step in transform[:-2] if callable(step))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB."""
    return image.convert("RGB")


def _keeps_rgb(piece: object) -> bool:
    """True for steps that leave an RGB image as it is."""
    return piece is to_rgb or (type(piece).__name__ == "MaybeConvertMode" and getattr(piece, "mode", None) == "RGB")


Picture = tuple[tuple[int, int], list[np.ndarray | SampleError]]
"""Original (width, height), and for each preprocess uint8 (h, w, 3), or why its encoder cannot take this image."""


def decode(
    data: bytes | memoryview, preprocesses: Sequence[Preprocess], fast: bool
) -> tuple[tuple[int, int], list[np.ndarray]]:
    """The picture of one encoded image: its (width, height), and uint8 (h, w, 3) for each preprocess.

    fast: decode and resize as in `scaled.py` for each preprocess that has a plan. The same images are rejected.

    Raises: SampleError of kind `image-empty`, `image-too-large` or `image-decode`, also if one preprocess alone cannot
        take the image.
    """
    [found] = decode_all([data], preprocesses, fast)
    if isinstance(found, SampleError):
        raise found
    size, made = found
    pixels = []
    for each in made:
        if isinstance(each, SampleError):
            raise each
        pixels.append(each)
    return size, pixels


def decode_all(
    files: Sequence[bytes | memoryview], preprocesses: Sequence[Preprocess], fast: bool
) -> list[Picture | SampleError]:
    """The picture of each file, or why it cannot be decoded. No preprocess changes what another one gets.

    With `fast`, images of one size are resized together.
    """
    found = _together(files, preprocesses) if fast else {}
    return [found.get(row) or _alone(data, preprocesses, fast) for row, data in enumerate(files)]


def _together(files: Sequence[bytes | memoryview], preprocesses: Sequence[Preprocess]) -> dict[int, Picture]:
    """Row → the picture of each file that does not need PIL: a plain and valid JPEG, if every encoder has a plan."""
    found: dict[int, Picture] = {}
    plans = [preprocess.plan for preprocess in preprocesses if preprocess.plan is not None]
    if not 0 < len(plans) == len(preprocesses):
        return found
    for size, rows in scaled.alike(plans, files).items():
        every = [files[row] for row in rows]
        pixels: list[np.ndarray] = [np.empty(0)] * len(plans)
        sound = np.ones(len(rows), bool)
        for factor, places in scaled.by_factor(plans, size).items():
            stack, whole = scaled.decoded_jpegs(every, size, factor)
            sound &= whole
            for place in places:
                pixels[place] = plans[place].apply(stack, size, factor)  # (n, h, w, 3)
        found |= {row: (size, [each[i] for each in pixels]) for i, row in enumerate(rows) if sound[i]}
    return found


def _alone(data: bytes | memoryview, preprocesses: Sequence[Preprocess], fast: bool) -> Picture | SampleError:
    try:
        with open_image(data) as image:
            size = image.size
            found = _scaled(image, data, preprocesses) if fast else {}
            if not 0 < len(found) == len(preprocesses):
                image.load()
            return size, [
                found[place] if place in found else _own(preprocess, image, data)
                for place, preprocess in enumerate(preprocesses)
            ]
    except SampleError as error:
        return error


def _scaled(
    image: Image.Image, data: bytes | memoryview, preprocesses: Sequence[Preprocess]
) -> dict[int, np.ndarray | SampleError]:
    """What `fast` makes of an image that is not loaded yet, by number of the preprocess; the others are PIL's."""
    found: dict[int, np.ndarray | SampleError] = {}
    size, plans = image.size, {i: p.plan for i, p in enumerate(preprocesses) if p.plan is not None}
    numbers = list(plans)
    for factor, places in scaled.by_factor(list(plans.values()), size).items():
        decoded = scaled.decoded(image, data, factor)
        if decoded is None:
            continue
        for number in [numbers[place] for place in places]:
            try:
                preprocesses[number].check(size)
                found[number] = plans[number].apply(decoded[0], size, decoded[1])[0]
            except SampleError as error:
                found[number] = error
    return found


def _own(preprocess: Preprocess, image: Image.Image, data: bytes | memoryview) -> np.ndarray | SampleError:
    """What one encoder's own steps make of a decoded image; if they cannot take it, that is no other encoder's."""
    try:
        with image_errors(data):
            return preprocess.resize(image)
    except SampleError as error:
        return error
