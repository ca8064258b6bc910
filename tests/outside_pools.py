"""Two pool formats that winnow does not know, as small as they can be: zip files of pictures, and json with vectors."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.uid import content_hash
from winnow.stages.pools.reader import Reader, Tower
from winnow.stages.pools.sample import Reject, Sample


@dataclass(frozen=True)
class Zipped(Reader):
    """A pool of zip files with KEY.jpg and KEY.txt."""

    kind: ClassVar[str] = "zipped"
    suffix: ClassVar[str] = ".zip"

    def samples(self, url: str) -> Iterator[Sample | Reject]:
        with storage.open_read(url) as file, zipfile.ZipFile(file) as archive:
            keys = sorted(name.removesuffix(".jpg") for name in archive.namelist() if name.endswith(".jpg"))
            for position, key in enumerate(keys):
                image, caption = archive.read(f"{key}.jpg"), archive.read(f"{key}.txt")
                uid = content_hash(image, caption)
                yield Sample(position, key, uid, image, content_hash(image), caption.decode())


@dataclass(frozen=True)
class Listed(Reader):
    """A pool of json files: lists of objects with a caption and a vector."""

    encoder: str = "listed"
    kind: ClassVar[str] = "listed"
    suffix: ClassVar[str] = ".json"

    def encoders(self) -> tuple[str, ...]:
        return (self.encoder,)

    def table(self, url: str) -> pa.Table:
        return pa.table({"caption": [row["caption"] for row in _rows(url)]})

    def stored(self, url: str, encoder: str, tower: Tower) -> np.ndarray:
        return np.array([row["vector"] for row in _rows(url)], np.float32)


def _rows(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(storage.read_text(url))
    return found
