"""What a reader yields: a Sample (an image-text pair with its place) or a Reject (why there is none)."""

from dataclasses import dataclass

from winnow.pipeline.errors import SampleError

MAX_IMAGE_BYTES = 1 << 29
"""Most bytes of an encoded image: 512 MiB. In a tar, the size is checked before the image is read."""

MAX_CAPTION_BYTES = 1 << 16
"""Most bytes of a caption: 64 KiB. A longer text is a document, or data in a file with the suffix of a text."""

MAX_JSON_BYTES = 1 << 24
"""Most bytes of a json member: 16 MiB."""

BY_CONTENT = "a hash of image and caption"
"""The source of the uid of a sample that has none of its own."""

NOT_DOWNLOADED = "not-downloaded"
"""Kind of a row for a link that img2dataset could not download: reported and counted, but not a sample."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image-text pair of a shard.

    position: 0-based place in the shard, by the sample's first member or its row.
    key: webdataset key, or the row's key; for messages and for training shards.
    uid: 16 bytes, big-endian.
    image: the encoded image file, not decoded.
    image_hash: xxh3-128 of `image`, 16 bytes.
    caption: text; "" for an empty caption. A sample without a caption is a Reject.
    offset, size: byte range in the tar that covers header, data and padding of the sample's adjacent members; -1 and 0
        if the shard is not a tar.
    extra_ranges: further (offset, size) pairs, flat, for members that lie apart; () nearly always.
    named: the source of `uid`, as text.
    plain: whether training would read exactly this pair from the members as they are in the tar. If False, the members
        are checked again before they are copied.
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
    """One sample that cannot be read. `kind` is one of a fixed set, for counting; `message` says what is wrong."""

    position: int
    key: str
    kind: str
    message: str
    offset: int = -1


def check_caption(text: bytes) -> None:
    """Raises SampleError of kind `caption-too-large` for more than MAX_CAPTION_BYTES."""
    if len(text) > MAX_CAPTION_BYTES:
        message = f"a caption must have at most {MAX_CAPTION_BYTES} bytes, but has {len(text)}"
        raise SampleError("caption-too-large", message)


def check_image(image: bytes) -> None:
    """Raises SampleError of kind `image-too-large` for more than MAX_IMAGE_BYTES."""
    if len(image) > MAX_IMAGE_BYTES:
        raise SampleError(
            "image-too-large", f"an image must have at most {MAX_IMAGE_BYTES} bytes, but has {len(image)}"
        )
