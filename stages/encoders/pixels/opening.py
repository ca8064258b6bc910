"""Opens an encoded image with PIL; guards against decompression bombs and formats that run programs."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from winnow.pipeline.errors import SampleError

MAX_PIXELS = 178_956_970
"""Most pixels of an image, original or resized: PIL's own limit against decompression bombs."""


@contextmanager
def open_image(data: bytes | memoryview) -> Iterator[Image.Image]:
    """One encoded image with its header read and nothing decoded yet. Errors in the `with` block count as the file's.

    Raises: SampleError of kind `image-empty`, `image-too-large` (from the header, before decoding) or
        `image-decode`.
    """
    if not data:
        raise SampleError("image-empty", "an image has bytes, but none came")
    with image_errors(data):
        image = Image.open(io.BytesIO(data))
        size = image.size
        if size[0] * size[1] > MAX_PIXELS:
            raise too_large(f"{size[0]}x{size[1]}", size[0] * size[1])
        if image.format == "EPS":
            raise SampleError("image-decode", "an image is data, but EPS came, which is a program")
        yield image


@contextmanager
def image_errors(data: bytes | memoryview) -> Iterator[None]:
    """Errors in the `with` block count as those of the image file `data`: SampleErrors, as `open_image` raises."""
    try:
        yield
    except (SampleError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SampleError("image-too-large", str(error)) from error
    except UnidentifiedImageError as error:
        # PIL's own message has a memory address, and rejects must be the same in every run
        begins = bytes(data[:12])
        raise SampleError("image-decode", f"no image format that PIL knows begins with {begins!r}") from error
    except Exception as error:
        # PIL's plugins raise OSError, SyntaxError, struct.error and more for a bad file
        raise SampleError("image-decode", f"{type(error).__name__}: {error}") from error


def too_large(what: str, pixels: int) -> SampleError:
    """The error for an image with too many pixels."""
    return SampleError("image-too-large", f"an image has at most {MAX_PIXELS} pixels, but {what} has {pixels}")
