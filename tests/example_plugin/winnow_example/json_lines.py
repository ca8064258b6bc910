"""The pool format `json_lines`: text files whose every line is a JSON object with an image in base64 and a caption."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from winnow.pipeline import storage
from winnow.pipeline.uid import content_hash
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import Reject, Sample


@dataclass(frozen=True)
class JsonLines(Reader):
    """The options of the format, as a job file gives them under `pool`: the names of the two fields."""

    image: str = "image"
    caption: str = "caption"
    kind: ClassVar[str] = "json_lines"  # the name of the entry point
    suffix: ClassVar[str] = ".jsonl"

    def samples(self, url: str) -> Iterator[Sample | Reject]:
        """Every sample of a shard, in order. A line that cannot be read is a reject: it is counted with its reason."""
        for position, line in enumerate(storage.read_bytes(url).splitlines()):
            key = f"{position:06d}"
            try:
                fields = json.loads(line)
                image = base64.b64decode(fields[self.image], validate=True)
                caption = fields[self.caption]
                uid = content_hash(image, caption.encode())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                message = f"a line must be JSON with {self.image} and {self.caption}, but: {error!r}"
                yield Reject(position, key, "line-broken", message)
            else:
                yield Sample(position, key, uid, image, content_hash(image), caption)
