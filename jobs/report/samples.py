"""Reads captions and thumbnails of the samples that the report shows, by their byte ranges.

If a picture cannot be read, a sentence takes its place: the pool may have been moved, and its files are untrusted.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import DataError, PoolError, SampleError, ShardError, StorageError
from winnow.pipeline.stage import Run, ShardItem
from winnow.stages.encoders.pixels.thumbnail import thumbnail
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.unchanged import check_unchanged

ShardRow = tuple[int, int]
"""(number of the shard, row in its samples file)."""

THUMBNAIL_SIDE = 176
"""Pixels of the longer side."""

_CAPTION_CHARS = 280
_KEY_CHARS = 80
_MAX_SAMPLE_BYTES = 32 << 20
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_COLUMNS = ("key", "caption")
_SIZES = ("size", "extra_ranges")
_GONE = "the pool is not readable any more"
_CHANGED = "the shard has changed since"
_TOO_LARGE = f"more than {_MAX_SAMPLE_BYTES >> 20} MiB"


@dataclass(frozen=True)
class ShownSample:
    """One sample as a page shows it.

    caption: shortened. picture: a data URI, or "" if there is none. lack: why there is none.
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


def read_shown(run: Run, samples: Artifact, reader: Reader, places: Iterable[ShardRow]) -> dict[ShardRow, ShownSample]:
    """The samples at these places, by place. Runs one task for each shard among them."""
    rows: dict[int, set[int]] = {}
    for index, row in places:
        rows.setdefault(index, set()).add(row)
    wanted = [_Wanted(run.items[index], tuple(sorted(found))) for index, found in sorted(rows.items())]
    found: dict[ShardRow, ShownSample] = {}
    for at, shown in run.each(_ReadShown(samples, reader), wanted, "report: pictures"):
        found |= {(wanted[at].item.index, row): sample for row, sample in shown.items()}
    return found


@dataclass(frozen=True)
class _ReadShown:
    samples: Artifact
    reader: Reader

    def __call__(self, item: _Wanted) -> dict[int, ShownSample]:
        at = pa.array(item.rows)
        table = self.samples.read(item.item.index, _COLUMNS).take(at)
        pictures: Mapping[int, bytes | str] = {}
        if self.reader.has_images:
            pictures = self._pictures(item, self._places(item.item.index).take(at))
        found = {}
        for row, sample in zip(item.rows, table.to_pylist(), strict=True):
            picture, lack = _as_thumbnail(pictures.get(row, ""))
            key, caption = shortened(sample["key"], _KEY_CHARS), shortened(sample["caption"] or "", _CAPTION_CHARS)
            found[row] = ShownSample(key, caption, picture, lack)
        return found

    def _places(self, index: int) -> pa.Table:
        columns = self.reader.place_columns(self.samples.columns(index))
        return self.samples.read(index, list(dict.fromkeys([*columns, *_SIZES])))

    def _pictures(self, item: _Wanted, places: pa.Table) -> dict[int, bytes | str]:
        """For each row its encoded image, or a text that says why there is none."""
        reader, index, url = self.reader, item.item.index, item.url
        sizes = _bytes(places)
        try:
            check_unchanged(self.samples, index, url, reader)
            small = [row for row, size in zip(item.rows, sizes, strict=True) if size <= _MAX_SAMPLE_BYTES]
            here = pa.array([item.rows.index(row) for row in small], pa.int64())
            images = reader.images(url, places.take(here))
            shown = {row: _CHANGED if image is None else image for row, image in zip(small, images, strict=True)}
        except (StorageError, FileNotFoundError):
            return dict.fromkeys(item.rows, _GONE)
        except (ShardError, DataError, PoolError):
            return dict.fromkeys(item.rows, _CHANGED)
        return {row: shown.get(row, _TOO_LARGE) for row in item.rows}


def _bytes(places: pa.Table) -> list[int]:
    """Size of each sample in its tar, in bytes; 0 for a sample that is in no tar."""
    return [place["size"] + sum((place["extra_ranges"] or [])[1::2]) for place in places.to_pylist()]


def _as_thumbnail(image: bytes | str) -> tuple[str, str]:
    """(data URI of a thumbnail, ""), or ("", why there is none)."""
    if isinstance(image, str):
        return "", image
    try:
        small = thumbnail(image, THUMBNAIL_SIDE)
    except SampleError as error:
        return "", f"no picture: {error.kind}"
    return f"data:image/webp;base64,{base64.b64encode(small).decode()}", ""


def shortened(text: str, most: int) -> str:
    """The text cut to at most `most` characters, with line breaks, control and direction characters as spaces."""
    plain = _CONTROLS.sub(" ", text[: most + 1])
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "…"
