"""Makes copies, wrong captions and irrelevant pictures, with a seed, for a noisy pool."""

import io
from collections.abc import Sequence
from random import Random

from PIL import Image, ImageEnhance

CAPTION_TEMPLATES = (
    "a photo of a {}",
    "a blurry photo of a {}",
    "a photo of the small {}",
    "a picture of one {}",
    "this is a {} i saw",
    "my {} on a good day",
    "the {} in the middle",
    "look at this {}",
    "a close view of a {}",
    "{} seen from the side",
    "an old picture of the {}",
    "here we see a {}",
)
"""True captions; three words or more each."""

UNINFORMATIVE_CAPTIONS = (
    "image {:d}.jpg",
    "IMG_{:04d}.jpg",
    "DSC{:05d}",
    "untitled",
    # long enough to pass a rule on the number of words
    "picture number {:d} of the album",
    "click here to enlarge the image",
    "no description is available",
)
NEAR_CHANGES = ("recompressed", "cropped", "shifted", "brightness")
IRRELEVANT = ("noise", "flat", "gradient", "blocks")
DAMAGE_QUALITY = 90


def caption_of(name: str, rng: Random) -> str:
    """A true caption of a picture of the named class, by one of CAPTION_TEMPLATES."""
    return rng.choice(CAPTION_TEMPLATES).format(name)


def wrong_caption(label: int, classnames: Sequence[str], sizes: Sequence[float], rng: Random) -> str:
    """A caption of another class than `label`, drawn in proportion to `sizes`."""
    others = [name for at, name in enumerate(classnames) if at != label]
    weights = [size for at, size in enumerate(sizes) if at != label]
    return caption_of(rng.choices(others, weights)[0], rng)


def useless_caption(rng: Random) -> str:
    """A caption that describes no picture."""
    return rng.choice(UNINFORMATIVE_CAPTIONS).format(rng.randint(1, 9999))


def near_copy(image: bytes, how: str, rng: Random) -> bytes:
    """A near copy as JPEG of the same size: the same picture to people. how: one of NEAR."""
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    width, height = picture.size
    quality = DAMAGE_QUALITY
    if how == "recompressed":
        quality = rng.randint(50, 75)
    elif how == "cropped":
        edge = max(1, min(width, height) // 24)
        left, top = rng.randint(0, edge), rng.randint(0, edge)
        box = (left, top, width - edge + left, height - edge + top)
        picture = picture.crop(box).resize((width, height), Image.Resampling.BICUBIC)
    elif how == "shifted":
        x, y = rng.choice([(1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, -1)])
        scale = max(1, min(width, height) // 32)
        shifted = picture.copy()  # the uncovered border keeps the pixels of the original
        shifted.paste(picture, (x * scale, y * scale))
        picture = shifted
    else:
        picture = ImageEnhance.Brightness(picture).enhance(rng.choice((0.9, 0.95, 1.05, 1.1)))
    return _jpeg(picture, quality)


def irrelevant_picture(how: str, size: tuple[int, int], rng: Random) -> bytes:
    """A JPEG that shows nothing. size: (width, height) in pixels. how: one of IRRELEVANT."""
    width, height = size
    if how == "noise":
        picture = Image.frombytes("RGB", size, rng.randbytes(3 * width * height))
    elif how == "flat":
        picture = Image.new("RGB", size, _colour(rng))
    elif how == "gradient":
        ramp = Image.linear_gradient("L").resize(size).rotate(rng.choice((0, 90, 180, 270)))
        picture = Image.composite(Image.new("RGB", size, _colour(rng)), Image.new("RGB", size, _colour(rng)), ramp)
    else:
        few = rng.randint(2, 5)
        picture = Image.frombytes("RGB", (few, few), rng.randbytes(3 * few * few)).resize(
            size, Image.Resampling.NEAREST
        )
    return _jpeg(picture, DAMAGE_QUALITY)


def size_of(image: bytes) -> tuple[int, int]:
    """(width, height) in pixels, from the image's header."""
    return Image.open(io.BytesIO(image)).size


def suffix_of(image: bytes) -> str:
    """`png`, `webp` or `jpg`, by the first bytes of an encoded image."""
    if image.startswith(b"\x89PNG"):
        return "png"
    return "webp" if image[:4] == b"RIFF" else "jpg"


def _colour(rng: Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
