"""Other options that may read a pool: the suffixes, fields and columns that its first samples have."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product

from winnow.pipeline import storage
from winnow.pipeline.errors import SampleError
from winnow.stages.pools.columns import open_parquet
from winnow.stages.pools.images import holds_images
from winnow.stages.pools.plain import is_text
from winnow.stages.pools.tars.tar_members import list_members

CAPTIONS = ("caption", "text", "TEXT", "txt", "title", "prompt", "description", "alt")
"""The most common names of captions; these are tried first."""

_MOST = 12  # how many other values of one option are tried

Values = tuple[Sequence[object], Sequence[object]]
"""Values of the options `image` and `caption`, most likely first."""


def choices(
    kinds: Collection[str], images: Sequence[object], captions: Sequence[object]
) -> Iterator[Mapping[str, object]]:
    """The options to try for rejects of these kinds: another caption, another image, both, or uids by content."""
    if not {"no-caption", "caption-not-utf8", "caption-too-large", "json-broken"}.isdisjoint(kinds):
        yield from ({"caption": name} for name in captions)
    if not {"no-image", "image-decode", "image-empty"}.isdisjoint(kinds):
        yield from ({"image": name} for name in images)
        yield from ({"image": image, "caption": caption} for image, caption in product(images, captions))
    if "no-uid" in kinds:
        yield {"uid": "auto"}


def in_tar(url: str) -> Values:
    """Suffixes of images, and suffixes or json:FIELD of texts, among the members of a tar."""
    first: dict[str, bytes] = {}
    with storage.local_view(url) as view:
        for member in list_members(view, url)[0]:
            suffix = storage.name_of(member.name).partition(".")[2].lower()
            if suffix:
                first.setdefault(suffix, bytes(view[member.data : member.data + member.size]))
    images: list[object] = [(suffix,) for suffix, content in first.items() if is_picture(content)]
    texts = [suffix for suffix, content in first.items() if _is_text(content) and "json" not in suffix]
    fields = [f"json:{name}" for name in _fields(first.get("json", b""))]
    return images[:_MOST], _ordered([*texts, *fields])


def in_table(url: str) -> Values:
    """Columns of images, and columns of text, of a parquet file."""
    with open_parquet(url) as file:
        schema = file.schema_arrow
    flat = [schema.field(at) for at in range(len(schema)) if schema.names.count(schema.names[at]) == 1]
    images: list[object] = [field.name for field in flat if holds_images(field.type)]
    return images[:_MOST], _ordered([field.name for field in flat if is_text(field.type)])


def is_picture(content: bytes) -> bool:
    """True for an encoded image, by its header."""
    # PIL takes a while to import, and few shards are looked at
    from winnow.stages.encoders.pixels.opening import open_image

    try:
        with open_image(content):
            return True
    except SampleError:
        return False


def _ordered(names: Sequence[str]) -> Sequence[object]:
    def rank(name: str) -> tuple[bool, int]:
        bare = name.removeprefix("json:")
        return bare != name, CAPTIONS.index(bare) if bare in CAPTIONS else len(CAPTIONS)

    return sorted(names, key=rank)[:_MOST]


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
