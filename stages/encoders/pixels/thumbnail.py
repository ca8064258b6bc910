"""Makes a small WebP of an image for people to look at; imports no torch."""

import io

from PIL import Image

from winnow.pipeline.errors import SampleError
from winnow.stages.encoders.pixels.opening import open_image

_MAX_DECODED = 32_000_000
"""Most pixels to decode: half a second. JPEG of any size is decoded at 1/8 and stays below."""


def thumbnail(data: bytes | memoryview, side: int, quality: int = 60) -> bytes:
    """A WebP file whose longer side is at most `side` pixels. It contains no bytes of the original file.

    Transparent parts become white. EXIF orientation is not applied, because no encoder applies it.
    Raises: SampleError as `open_image`, and `image-too-large` for more than 32 million pixels that must be decoded.
    """
    with open_image(data) as image:
        image.draft("RGB", (2 * side, 2 * side))
        if image.width * image.height > _MAX_DECODED:
            raise SampleError(
                "image-too-large",
                f"a thumbnail is of at most {_MAX_DECODED} pixels, but {image.width}x{image.height} came",
            )
        image.thumbnail((side, side))
        flat = Image.new("RGB", image.size, "white")
        if image.has_transparency_data:
            layers = image.convert("RGBA")
            flat.paste(layers, mask=layers)
        else:
            flat.paste(image.convert("RGB"))
        buffer = io.BytesIO()
        flat.save(buffer, "WEBP", quality=quality)
        return buffer.getvalue()
