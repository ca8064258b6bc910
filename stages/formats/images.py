"""Reads the images of a target set, captions or not, from image files, tars and parquet; refuses rows without one."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from pipeline import storage
from pipeline.uid import content_hash
from stages.formats.columns import is_bytes, open_parquet
from stages.formats.sample import Reject, Sample
from stages.formats.tar_members import list_members

SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
"""How the names of image files end, in small letters or capitals."""

_BATCH_ROWS = 64  # images of up to some MB: one batch stays below a few hundred MB


def is_image(name: str) -> bool:
    """True for the name of an image file."""
    stem, _, suffix = name.rpartition(".")
    return stem != "" and suffix.lower() in SUFFIXES


def image_files(folder: str) -> list[storage.Identity]:
    """The image files in a folder and below, by URL; hidden ones and other files are passed over.

    Cost: one list request per folder.
    """
    found = [file for file in storage.listing(folder) if is_image(storage.name_of(file.url))]
    for name in storage.folders(folder):
        if not name.startswith("."):
            found += image_files(storage.join(folder, name))
    return sorted(found)


def file_images(urls: Iterable[str]) -> Iterator[Sample]:
    """One sample per image file, with its URL as key."""
    for position, url in enumerate(urls):
        yield _sample(position, url, storage.read_bytes(url))


def tar_images(url: str) -> Iterator[Sample | Reject]:
    """Every image of a tar, whatever lies beside it; its suffix is what follows the first dot, as in a webdataset.

    Damage between members is one reject of kind `tar-gap`, and one of kind `tar-truncated` stands for a lost end.
    Raises ShardError when the file is no tar.
    """
    with storage.local_view(url) as view:
        members, damage = list_members(view, url)
        images = [m for m in members if storage.name_of(m.name).partition(".")[2].lower() in SUFFIXES]
        for position, member in enumerate(images):
            content = bytes(view[member.data : member.data + member.size])
            yield _sample(position, storage.join(url, member.name), content)
        for position, lost in enumerate(damage, len(images)):
            yield Reject(position, url, "tar-truncated" if lost.rest else "tar-gap", lost.message, lost.offset)


def parquet_images(url: str, column: str) -> Iterator[Sample | Reject]:
    """One sample per row of a binary column, or of Hugging Face's struct<bytes, path>; null is a reject, `no-image`.

    Raises ShardError for a broken file.
    """
    with open_parquet(url, [column]) as file:
        position = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=[column]):
            for value in batch.column(0).to_pylist():
                image = value["bytes"] if isinstance(value, dict) else value
                key = f"{url}: row {position}"
                if image is None:
                    yield Reject(position, key, "no-image", f"a row must have an image, but {column} is null")
                else:
                    yield _sample(position, key, image)
                position += 1


def holds_images(kind: pa.DataType) -> bool:
    """True for the type of a column that `parquet_images` reads."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_images(kind.field("bytes").type)
    return is_bytes(kind)


def holds_vectors(kind: pa.DataType) -> bool:
    """True for the type of a column that `vector_blocks.list_blocks` reads."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _sample(position: int, key: str, image: bytes) -> Sample:
    name = content_hash(image)
    return Sample(position, key, name, image, name, caption="")
