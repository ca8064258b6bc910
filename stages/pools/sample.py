"""What a reader yields: a Sample (an image-text pair with its place) or a Reject (why there is none)."""

from dataclasses import dataclass

from winnow.pipeline.errors import SampleError

MAX_IMAGE_BYTES = 1 << 29
"""Most bytes of an encoded image: 512 MiB, seen before they are read where the shard is a tar."""

MAX_CAPTION_BYTES = 1 << 16
"""Most bytes of a caption: 64 KiB. What is longer is a document, or a file of data under the name of a text."""

MAX_JSON_BYTES = 1 << 24
"""Most bytes of a json member: 16 MiB."""

BY_CONTENT = "a hash of image and caption"
"""What names a sample that brings no uid."""

NOT_DOWNLOADED = "not-downloaded"
"""Kind of a row that img2dataset wrote for a link that it could not download: told and counted, but no sample."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image-text pair as it lies in its shard.

    position: 0-based order in the shard (of the sample's first member, or of its row).
    key: webdataset key, or the row's key; for people and for training shards.
    uid: 16 bytes, big-endian.
    image: the encoded image file, not decoded.
    image_hash: xxh3-128 of `image`, 16 bytes.
    caption: text, never empty of meaning to the reader: an absent caption is a Reject, an empty one is "".
    offset, size: byte range in the tar that covers header, data and padding of the sample's members, when
        they are adjacent; -1 and 0 where the shard is no tar.
    extra_ranges: further (offset, size) pairs, flat, for members that lie apart; () nearly always.
    named: what `uid` comes from, in words.
    plain: whether training reads this very pair of the members as they lie in the tar; where not, or nobody looked,
        they are looked at again before they are copied.
    """

    position: int
    key: str
    uid: bytes
    image: bytes | memoryview
    image_hash: bytes
    caption: str
    offset: int = -1
    size: int = 0
    extra_ranges: tuple[int, ...] = ()
    named: str = BY_CONTENT
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Reject:
    """One sample that cannot be read: `kind` is stable and countable, `message` says what came."""

    position: int
    key: str
    kind: str
    message: str
    offset: int = -1


def check_caption(text: bytes) -> None:
    """Raises SampleError of kind `caption-too-large`."""
    if len(text) > MAX_CAPTION_BYTES:
        message = f"a caption must have at most {MAX_CAPTION_BYTES} bytes, but has {len(text)}"
        raise SampleError("caption-too-large", message)


def check_image(image: bytes) -> None:
    """Raises SampleError of kind `image-too-large`."""
    if len(image) > MAX_IMAGE_BYTES:
        raise SampleError(
            "image-too-large", f"an image must have at most {MAX_IMAGE_BYTES} bytes, but has {len(image)}"
        )
