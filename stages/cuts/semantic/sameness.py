"""What makes two samples exact duplicates: the bytes of their images, or their captions, each by its hash."""

from typing import Literal

import pyarrow as pa

from winnow.pipeline.uid import UID_ARROW, content_hash
from winnow.stages.survivors import Survivors

What = Literal["bytes", "caption"]


def hashes_of(survivors: Survivors, index: int, what: What) -> pa.FixedSizeBinaryArray:
    """The xxh3-128 of the image's bytes or of the caption's, 16 bytes for every row of shard `index`."""
    if what == "bytes":
        return survivors.table(index, ["image_hash"])["image_hash"].combine_chunks()
    captions = survivors.table(index, ["caption"])["caption"].to_pylist()
    return pa.array([content_hash(caption.encode("utf-8", "surrogatepass")) for caption in captions], UID_ARROW)
