"""What a reader yields: one Sample (an image-text pair with its place) or one Reject (why there is none)."""

from dataclasses import dataclass


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


@dataclass(frozen=True, slots=True)
class Reject:
    """One sample that cannot be read: `kind` is stable and countable, `message` says what came."""

    position: int
    key: str
    kind: str
    message: str
    offset: int = -1
