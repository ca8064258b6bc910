"""Captions and thumbnails of the samples that a page shows; reads their byte ranges of the pool, and no others.

A picture that cannot be had is a sentence in its place: the pool may have moved, and its files are anyone's.
"""

import base64
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import DataError, PoolError, SampleError, ShardError, StorageError
from winnow.pipeline.stage import Run, ShardItem
from winnow.stages.encoders.thumbnail import thumbnail
from winnow.stages.pools import ImageReader, Parquet, Reader, VectorReader, Webdataset
from winnow.stages.pools.unchanged import check_unchanged

Place = tuple[int, int]
"""Number of a shard, and row of its embeddings file."""

THUMBNAIL_SIDE = 176
"""Pixels of the longer side."""

_CAPTION_CHARS = 280
_KEY_CHARS = 80
_MAX_SAMPLE_BYTES = 32 << 20
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_COLUMNS = ("key", "caption")
_SPANS = ("position", "offset", "size", "extra_ranges")
_GONE = "the pool is not readable any more"
_CHANGED = "the shard has changed since"


@dataclass(frozen=True)
class Shown:
    """One sample as a page shows it.

    caption: cut short. picture: a data URI, "" where `lack` says why there is none.
    """

    key: str
    caption: str
    picture: str
    lack: str


@dataclass(frozen=True)
class _Wanted:
    item: ShardItem
    rows: tuple[int, ...]

    @property
    def url(self) -> str:
        """For error messages."""
        return self.item.url


def look(run: Run, embeddings: Artifact, reader: Reader, places: Iterable[Place]) -> dict[Place, Shown]:
    """Every sample asked for, by place; one task for each shard that has any."""
    rows: dict[int, set[int]] = {}
    for index, row in places:
        rows.setdefault(index, set()).add(row)
    wanted = [_Wanted(run.items[index], tuple(sorted(found))) for index, found in sorted(rows.items())]
    found: dict[Place, Shown] = {}
    for at, shown in run.each(_Look(embeddings, reader), wanted, "report: pictures"):
        found |= {(wanted[at].item.index, row): sample for row, sample in shown.items()}
    return found


@dataclass(frozen=True)
class _Look:
    embeddings: Artifact
    reader: Reader

    def __call__(self, item: _Wanted) -> dict[int, Shown]:
        at = pa.array(item.rows)
        table = self.embeddings.read(item.item.index, _COLUMNS).take(at)
        pictures: Mapping[int, bytes | str] = {}
        if not isinstance(self.reader, VectorReader):
            pictures = self._pictures(item, self.embeddings.read(item.item.index, _SPANS).take(at))
        found = {}
        for row, sample in zip(item.rows, table.to_pylist(), strict=True):
            picture, lack = _as_thumbnail(pictures.get(row, ""))
            key, caption = short(sample["key"], _KEY_CHARS), short(sample["caption"] or "", _CAPTION_CHARS)
            found[row] = Shown(key, caption, picture, lack)
        return found

    def _pictures(self, item: _Wanted, spans: pa.Table) -> dict[int, bytes | str]:
        """Encoded image of each row, or why there is none."""
        reader, index, url = self.reader, item.item.index, item.url
        try:
            check_unchanged(self.embeddings, index, url, reader)
            if isinstance(reader, Parquet):
                return dict(zip(item.rows, _of_parquet(reader, url, spans), strict=True))
            if isinstance(reader, Webdataset):
                return dict(zip(item.rows, _of_tar(reader, url, spans), strict=True))
        except (StorageError, FileNotFoundError):
            return dict.fromkeys(item.rows, _GONE)
        except (ShardError, DataError, PoolError):
            return dict.fromkeys(item.rows, _CHANGED)
        return {}


def _of_parquet(reader: ImageReader, url: str, spans: pa.Table) -> list[bytes | str]:
    if not isinstance(reader, Parquet):
        return []
    positions = np.asarray(spans["position"])
    return [members[0][1] for _, members in reader.members(url, positions)]


def _of_tar(reader: Webdataset, url: str, spans: pa.Table) -> Iterator[bytes | str]:
    with storage.open_read(url) as file:
        for sample in spans.to_pylist():
            flat: list[int] = [sample["offset"], sample["size"], *(sample["extra_ranges"] or [])]
            if sum(flat[1::2]) > _MAX_SAMPLE_BYTES:
                yield f"more than {_MAX_SAMPLE_BYTES >> 20} MiB"
                continue
            blocks = []
            for start, size in zip(flat[::2], flat[1::2], strict=True):
                file.seek(start)
                blocks.append(file.read(size))
            yield _image_in(b"".join(blocks), reader.image)


def _image_in(block: bytes, suffixes: Sequence[str]) -> bytes | str:
    """The image among whole tar members of one sample; the suffix named first counts."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(block + bytes(2 * tarfile.BLOCKSIZE)), mode="r:") as tar:
            for member in tar:
                if (content := tar.extractfile(member)) is not None:
                    found[member.name.rpartition("/")[2].partition(".")[2].lower()] = content.read()
    except (tarfile.TarError, ValueError, UnicodeError):  # what a header of other bytes raises
        return _CHANGED
    return next((found[suffix] for suffix in suffixes if suffix in found), _CHANGED)


def _as_thumbnail(image: bytes | str) -> tuple[str, str]:
    """(data URI, "") of an encoded image, or ("", why there is none)."""
    if isinstance(image, str):
        return "", image
    try:
        small = thumbnail(image, THUMBNAIL_SIDE)
    except SampleError as error:
        return "", f"no picture: {error.kind}"
    return f"data:image/webp;base64,{base64.b64encode(small).decode()}", ""


def short(text: str, most: int) -> str:
    """Text for people, at most so many characters; what breaks lines or turns the text around becomes a space."""
    plain = _CONTROLS.sub(" ", text[: most + 1])
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "…"
