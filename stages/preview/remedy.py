"""Finds the option that would read the samples, when the given one reads hardly any.

Nothing is guessed: what is named was read with that option.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path

import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.errors import SampleError, WinnowError
from winnow.pipeline.terminal import escaped
from winnow.stages.encoders.opening import opened
from winnow.stages.pools import Parquet, Reader, VectorReader, Vectors, Webdataset
from winnow.stages.pools.columns import open_parquet
from winnow.stages.pools.images import holds_images
from winnow.stages.pools.plain import is_text
from winnow.stages.pools.sample import Sample
from winnow.stages.pools.tar_members import list_members
from winnow.stages.preview.head import Head, table_head, tar_head

_TAR_BYTES = 8 << 20
_SAMPLES = 32
_MOST = 12  # other values of one option that are tried
_NAMES = ("caption", "text", "TEXT", "txt", "title", "prompt", "description", "alt")  # tried first

Options = Mapping[str, object]


def remedies(reader: Reader, url: str, kinds: Iterable[str]) -> list[str]:
    """Lines for people: options of `pool` with which most of the first samples of a shard are read, best first.

    kinds: of the rejects. Empty where none is found. Cost: what `first_samples` reads of the shard, and no model.
    """
    kinds = set(kinds)
    with tempfile.TemporaryDirectory(prefix="winnow-look-") as folder:
        try:
            head = _head(reader, url, Path(folder))
            found = [line for one in _others(reader, head, kinds) if (line := _tried(reader, one, head))]
        except WinnowError:  # the shard itself is broken: no option mends that
            return []
    # two options at once only where one does not do
    single = [line for count, line in found if count == 1]
    return (single or [line for _, line in found])[:2]


def _head(reader: Reader, url: str, folder: Path) -> Head:
    if isinstance(reader, Webdataset):
        return tar_head(url, _TAR_BYTES, folder)
    more = reader.companions(url) if isinstance(reader, VectorReader) else []
    return table_head(url, more, _SAMPLES, folder)


def _others(reader: Reader, head: Head, kinds: set[str]) -> Iterator[Options]:
    images, captions = _of_tar(head) if isinstance(reader, Webdataset) else _of_table(reader, head)
    if kinds & {"no-caption", "caption-not-utf8", "caption-too-large", "json-broken"}:
        yield from ({"caption": name} for name in captions)
    if kinds & {"no-image", "image-decode", "image-empty"}:
        yield from ({"image": name} for name in images)
        yield from ({"image": image, "caption": caption} for image, caption in product(images, captions))
    if "no-uid" in kinds:
        yield {"uid": "auto"}


def _of_tar(head: Head) -> tuple[Sequence[object], Sequence[object]]:
    """Suffixes of images, and suffixes or json:FIELD of texts, among the members of the first samples."""
    first: dict[str, bytes] = {}
    with storage.local_view(head.url) as view:
        for member in list_members(view, head.url)[0]:
            suffix = storage.name_of(member.name).partition(".")[2].lower()
            if suffix:
                first.setdefault(suffix, bytes(view[member.data : member.data + member.size]))
    images: list[object] = [(suffix,) for suffix, content in first.items() if _is_image(content)]
    texts = [suffix for suffix, content in first.items() if _is_text(content) and "json" not in suffix]
    fields = [f"json:{name}" for name in _fields(first.get("json", b""))]
    return images[:_MOST], _ordered([*texts, *fields])


def _of_table(reader: Reader, head: Head) -> tuple[Sequence[object], Sequence[object]]:
    """Columns of images, and columns of text."""
    with open_parquet(head.url) as file:
        schema = file.schema_arrow
    flat = [schema.field(at) for at in range(len(schema)) if schema.names.count(schema.names[at]) == 1]
    images = [field.name for field in flat if holds_images(field.type)] if isinstance(reader, Parquet) else []
    texts = [field.name for field in flat if is_text(field.type)] if isinstance(reader, Parquet | Vectors) else []
    return list[object](images)[:_MOST], _ordered(texts)


def _ordered(names: Sequence[str]) -> Sequence[object]:
    def rank(name: str) -> tuple[bool, int]:
        bare = name.removeprefix("json:")
        return bare != name, _NAMES.index(bare) if bare in _NAMES else len(_NAMES)

    return sorted(names, key=rank)[:_MOST]


def _tried(reader: Reader, options: Options, head: Head) -> tuple[int, str] | None:
    """How many options these are, and the line for people; None where most samples are rejected with them too."""
    try:
        other = dataclasses.replace(reader, **options)  # type: ignore[arg-type]  # options of this reader
        count, captions = _read(other, head)
    except WinnowError:
        return None
    named = str(options.get("caption", "")).removeprefix("json:") in _NAMES
    good = [text for text in captions if _reads_as_caption(text, named or "caption" not in options)]
    if 2 * len(good) <= count:
        return None
    said = ", ".join(f"pool.{name}: {_yaml(value)}" for name, value in options.items())
    shown = escaped(good[0][:60])
    return len(options), f"With {said} {len(good)} of the first {count} are read, the first with the caption '{shown}'."


def _read(reader: Reader, head: Head) -> tuple[int, list[str]]:
    """How many samples came, and the captions of those that are read."""
    if isinstance(reader, VectorReader):
        table: pa.Table
        table, rejects = reader.rows(head.url)
        return table.num_rows + len(rejects), table["caption"].to_pylist()
    samples = list(islice(reader.samples(head.url), _SAMPLES))
    good = [one for one in samples if isinstance(one, Sample) and _is_image(bytes(one.image))]
    return len(samples), [one.caption for one in good]


def _reads_as_caption(text: str, named: bool) -> bool:
    """Words; one alone only where the option's name says caption, for it may be an id or a label."""
    return any(map(str.isalpha, text)) and (named or len(text.split()) > 1)


def _yaml(value: object) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value)


def _is_image(content: bytes) -> bool:
    try:
        with opened(content):
            return True
    except SampleError:
        return False


def _is_text(content: bytes) -> bool:
    try:
        return len(content) < 1 << 16 and any(map(str.isalpha, content.decode("utf-8")))
    except UnicodeDecodeError:
        return False


def _fields(content: bytes) -> list[str]:
    """The fields of a json object that hold text."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return []
    return [name for name, value in fields.items() if isinstance(value, str)] if isinstance(fields, dict) else []
