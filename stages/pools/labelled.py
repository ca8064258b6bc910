"""Reads labelled images, and images with several captions, from tars and parquet.

It uses the readers of pools, with the member `cls`, or the json, in place of the caption.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.errors import DataError, JobError, PoolError
from winnow.stages.pools.columns import open_parquet
from winnow.stages.pools.images import holds_images, parquet_images
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.webdataset import Webdataset

_LISTED = "json:"


def read_classnames(url: str) -> tuple[str, ...]:
    """One class name per line, in the order of the labels. Underscores become blanks.

    Raises JobError for an empty file, for a file that is not UTF-8, and for an empty line between names, after which
    all labels would be off by one.
    """
    lines = storage.read_text(url, JobError).rstrip().split("\n")
    names = tuple(line.strip().replace("_", " ") for line in lines)
    if names == ("",):
        raise JobError(f"a file of class names must have one per line, but {url} has none")
    if "" in names:
        raise JobError(
            f"a file of class names must have one per line, but line {names.index('') + 1} of {url} is empty"
        )
    return names


def labelled_images(
    url: str, label: str | None, image: str, classnames: Sequence[str]
) -> Iterator[tuple[Sample, int] | Reject]:
    """Every image of a tar or parquet file with the number of its class, in order, and the rejects between them.

    label: for a tar, a member's suffix or json:FIELD (default `cls`); for parquet, a column (default `label`). It holds
    the number of the class, from 0, or its name. image: parquet's column of images. Memory: for parquet, the labels of
    one file. Raises DataError for a label that is not a class, or the name of two; PoolError for a missing column;
    ShardError for a broken file.
    """
    numbers = _Numbers(classnames)
    if url.endswith(".parquet"):
        labels = _label_column(url, label or "label", image)
        for found in parquet_images(url, image):
            yield found if isinstance(found, Reject) else (found, numbers.of(labels[found.position], found.key))
        return
    for sample in Webdataset(caption=label or "cls", uid="content").samples(url):
        if isinstance(sample, Reject):
            yield sample
        else:
            yield sample, numbers.of(sample.caption, f"{url}: {sample.key}")


def captioned_images(url: str, captions: str) -> Iterator[tuple[Sample, tuple[str, ...]] | Reject]:
    """Every picture of a tar with all of its captions, in order, and the rejects between them.

    captions: a member's suffix, such as `txt`, for one caption; json:FIELD for a text or a list of texts. Blank ones
    are skipped, and a picture without any other is a reject, `no-caption`. Raises ShardError if the file is not a tar.
    """
    field = captions.removeprefix(_LISTED) if captions.startswith(_LISTED) else None
    if field == "" or not captions:
        raise JobError(f"captions must be a suffix or json:FIELD, got {captions!r}")
    for sample in Webdataset(caption="json" if field else captions, uid="content").samples(url):
        if isinstance(sample, Reject):
            yield sample
            continue
        found = _texts(sample.caption, field) if field else [sample.caption]
        texts = tuple(text for text in found if text.strip())
        if texts:
            yield sample, texts
        else:
            message = f"a picture must have a caption, but its {captions} holds none"
            yield Reject(sample.position, sample.key, "no-caption", message, sample.offset)


def _texts(fields: str, field: str) -> list[str]:
    try:
        value = json.loads(fields).get(field)
    except (ValueError, AttributeError, RecursionError):  # no JSON; no object
        return []
    listed = value if isinstance(value, list) else [value]
    return [text for text in listed if isinstance(text, str)]


def _label_column(url: str, label: str, image: str) -> list[object]:
    with open_parquet(url) as file:
        schema = file.schema_arrow
        if lost := {label, image} - set(schema.names):
            raise PoolError(
                f"{url} must have columns {image} and {label}, but {', '.join(sorted(lost))} is not one of "
                f"{', '.join(schema.names)}"
            )
        if not holds_images(schema.field(image).type):
            raise PoolError(f"{url}: {image} must hold encoded images, binary or struct<bytes, path>")
        column: pa.Table = file.read(columns=[label])
    return list(column[label].to_pylist())


class _Numbers:
    """The number of each class name. Two classes may share a name, as in ImageNet; that name cannot be a label."""

    def __init__(self, classnames: Sequence[str]) -> None:
        self._count = len(classnames)
        times = Counter(classnames)
        self._numbers = {name: number for number, name in enumerate(classnames) if times[name] == 1}

    def of(self, label: object, where: str) -> int:
        """The number of a label, which is a number or a class name."""
        if isinstance(label, str) and label.strip().isdecimal():
            label = int(label)
        number = self._numbers.get(label.strip().replace("_", " "), -1) if isinstance(label, str) else label
        if not isinstance(number, int) or not 0 <= number < self._count:
            raise DataError(
                f"{where}: a label must be a class name or a number below {self._count}, got {label!r}; a name that "
                f"two classes share cannot be a label"
            )
        return number
