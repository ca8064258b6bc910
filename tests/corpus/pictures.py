"""Image files that are broken, dangerous or odd, each with its reject kind or with what it must look like when read."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Picture = tuple[bytes, str | None, Image.Image | None]
"""File, the kind of its reject, and what it must look like where it has none."""


def picture(seed: int = 0, width: int = 150, height: int = 110) -> Image.Image:
    """A smooth colour field, other in each corner."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG that says anything; rows: filter byte and pixels of each."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _sixteen() -> bytes:
    """16 bits a channel, in colour."""
    wide = np.asarray(picture()).astype(">u2") * 257
    return png(150, 110, 16, 2, b"".join(b"\0" + row.tobytes() for row in wide))


def _oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), quality=95, exif=exif)


def _ycck() -> bytes:
    """CMYK as Adobe's programs store it: YCC in place of CMY, all channels inverted, and a segment that tells."""
    ycc = ImageOps.invert(picture()).convert("YCbCr").split()
    cmyk = Image.merge("CMYK", [*(ImageOps.invert(channel) for channel in ycc), Image.new("L", (150, 110), 0)])
    plain = encoded(cmyk, quality=95)
    at = plain.index(b"Adobe") + 11  # how the channels are to be read
    return plain[:at] + b"\2" + plain[at + 1 :]


def _transparent() -> Image.Image:
    image = picture().convert("P", palette=Image.Palette.ADAPTIVE)
    image.info["transparency"] = 3
    return image


def pictures() -> dict[str, Picture]:
    """By name."""
    rgb = picture()
    frames = [picture(n) for n in range(3)]
    several: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    jpg, flat = encoded(rgb, quality=95), encoded(rgb, "PNG")
    progressive = encoded(rgb, quality=95, progressive=True)
    grey = rgb.convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    formats = ("WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
    files = {name: encoded(rgb, name) for name in formats}
    broken: dict[str, tuple[bytes, str]] = {
        "no bytes": (b"", "image-empty"),
        "two bytes": (jpg[:2], "image-decode"),
        "cut in the header": (jpg[:100], "image-decode"),
        "cut in the middle": (jpg[: len(jpg) // 2], "image-decode"),
        "cut near the end": (jpg[:-40], "image-decode"),
        "without its end mark": (jpg[:-2], "image-decode"),
        "a tail of zeros": (jpg[:-300] + bytes(300), "image-decode"),
        "progressive, cut": (progressive[: len(progressive) // 2], "image-decode"),
        "html": (b"<html>404</html>", "image-decode"),
        "a text": (b"This image is no longer available. " * 9, "image-decode"),
        "noise": (np.random.default_rng(0).bytes(4000), "image-decode"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image-decode"),
        "pdf": (b"%PDF-1.4\n" + bytes(99), "image-decode"),
        "eps, which is a program": (encoded(rgb, "EPS"), "image-decode"),
        "png, cut": (flat[: len(flat) // 2], "image-decode"),
        "png, spoiled": (flat[:200] + bytes([flat[200] ^ 1]) + flat[201:], "image-decode"),
        "png of no width": (png(0, 5), "image-decode"),
        "png with a text that unpacks to 100 MB": (
            png(1, 1, rows=b"\0" * 4, more=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100 << 20)))),
            "image-decode",
        ),
        **{f"{name.lower()}, cut": (file[: len(file) // 2], "image-decode") for name, file in files.items()},
        "a bomb of 400 million pixels": (png(20_000, 20_000), "image-too-large"),
        "a bomb of 4 billion by 4 billion": (png(2**31 - 1, 2**31 - 1), "image-too-large"),
        "a bomb of 225 million pixels": (png(15_000, 15_000), "image-too-large"),
    }
    sound: dict[str, tuple[bytes, Image.Image]] = {
        "jpeg": (jpg, rgb),
        "jpeg, progressive": (progressive, rgb),
        "jpeg, no chroma left out": (encoded(rgb, quality=95, subsampling=0), rgb),
        "jpeg with restart marks": (encoded(rgb, quality=95, restart_marker_blocks=2), rgb),
        "jpeg with junk behind it": (jpg + b"junk" * 99, rgb),
        "jpeg with a broken colour profile": (encoded(rgb, quality=95, icc_profile=b"x" * 500), rgb),
        "jpeg, grey": (encoded(grey, quality=95), grey),
        "jpeg, CMYK, inverted": (encoded(rgb.convert("CMYK"), quality=95), rgb),
        "jpeg, YCCK, inverted": (_ycck(), rgb),
        **{f"jpeg, EXIF orientation {n}": (_oriented(n), rgb) for n in range(1, 9)},
        "png named jpg": (flat, rgb),
        "png without its end": (flat[:-12], rgb),
        "png, transparent": (encoded(rgb.convert("RGBA"), "PNG"), rgb),
        "png, grey and transparent": (encoded(grey.convert("LA"), "PNG"), grey),
        "png, a palette": (encoded(rgb.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), rgb),
        "png, a palette with transparency": (encoded(_transparent(), "PNG"), rgb),
        "png of 1 bit": (
            encoded(grey.point(lambda v: 255 * (v > 127)).convert("1"), "PNG"),
            grey.point(lambda v: 255 * (v > 127)),
        ),
        "png of 16 bits, in colour": (_sixteen(), rgb),
        "png of 16 bits, grey": (encoded(wide, "PNG"), Image.new("L", rgb.size, 255)),  # white: what PIL makes of it
        "png, animated": (encoded(frames[0], "PNG", **several), frames[0]),
        "gif, animated": (encoded(frames[0], "GIF", **several), frames[0]),
        "webp, animated": (encoded(frames[0], "WEBP", **several), frames[0]),
        **{f"{name.lower()} named jpg": (file, rgb) for name, file in files.items()},
        "one pixel": (encoded(Image.new("RGB", (1, 1), (9, 200, 7)), "PNG"), Image.new("RGB", (1, 1), (9, 200, 7))),
        "1 by 20,000": (encoded(Image.new("L", (1, 20_000), 99), "PNG"), Image.new("L", (1, 20_000), 99)),
        "20,000 by 1": (encoded(Image.new("L", (20_000, 1), 99), "PNG"), Image.new("L", (20_000, 1), 99)),
    }
    return {
        **{name: (file, kind, None) for name, (file, kind) in broken.items()},
        **{name: (file, None, looks) for name, (file, looks) in sound.items()},
    }


PICTURES = pictures()
