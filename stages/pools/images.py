"""Reads the images of a target set from image files, tars and parquet."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline import storage
from winnow.pipeline.uid import content_hash
from winnow.stages.pools.columns import first_column, is_list, open_parquet
from winnow.stages.pools.plain import is_bytes, is_text, stored, stored_type
from winnow.stages.pools.precomputed.parquet_lists import vector_fault
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.tars.tar_members import list_members

SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
"""Suffixes of image files, in lower or upper case."""

_BATCH_ROWS = 64  # images of up to some MB: one batch stays below a few hundred MB


def is_image(name: str) -> bool:
    """True for the name of an image file."""
    stem, _, suffix = name.rpartition(".")
    return stem != "" and suffix.lower() in SUFFIXES


def image_files(folder: str) -> list[storage.Identity]:
    """The image files in a folder and its subfolders, sorted by URL. Hidden files and other files are skipped.

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
    """Every image of a tar, with or without other members. A suffix begins after the first dot, as in a webdataset.

    Damage between members is one reject of kind `tar-gap`. A lost end is one reject of kind `tar-truncated`.
    Raises ShardError if the file is not a tar.
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
    """One sample per row of a column for which `holds_images` is true. A null is a reject, `no-image`.

    Raises ShardError for a broken file.
    """
    with open_parquet(url, [column]) as file:
        position = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=[column]):
            images, _ = images_of(pa.chunked_array([first_column(batch, column)]))
            for image in images.to_pylist():
                key = f"{url}: row {position}"
                if image is None:
                    yield Reject(position, key, "no-image", f"a row must have an image, but {column} is null")
                else:
                    yield _sample(position, key, image)
                position += 1


def images_of(column: pa.ChunkedArray) -> tuple[pa.Array | pa.ChunkedArray, pa.ChunkedArray | None]:
    """The encoded images of a column for which `holds_images` is true, null if absent; and their paths, if any."""
    column, paths = stored(column), None
    if pa.types.is_struct(column.type):
        at, path = column.type.get_field_index("bytes"), column.type.get_field_index("path")
        if path >= 0:
            paths = pc.struct_field(column, [path])
        column = stored(pc.struct_field(column, [at]))
    return (column.chunk(0) if column.num_chunks == 1 else column), paths


def holds_images(kind: pa.DataType) -> bool:
    """True for the type of a column that `images_of` reads: bytes, or Hugging Face's struct<bytes, path>."""
    plain = _bytes_of(stored_type(kind))
    return plain is not None and is_bytes(plain)


def image_fault(kind: pa.DataType) -> str:
    """Why a column of this type holds no encoded images, and what to do; "" if it does, or if it is all null."""
    plain = stored_type(kind)
    within = _bytes_of(plain)
    if within is not None and (is_bytes(within) or pa.types.is_null(within)):
        return ""
    if is_text(plain) or (pa.types.is_struct(plain) and plain.get_field_index("path") >= 0):
        return (
            f"not {kind}: these are most likely paths or links to images; write the files themselves into a column of "
            f"bytes, or make tars of them (img2dataset does, from links)"
        )
    numbers = plain
    while is_list(numbers):
        numbers = stored_type(numbers.value_type)
    if is_list(plain) and (pa.types.is_integer(numbers) or pa.types.is_floating(numbers)):
        return f"not {kind}: numbers in lists are decoded pixels; write them as encoded files, such as PNG"
    if is_list(plain):
        return f"not {kind}: a row has one image here; write a row for each, or the one that counts into a column"
    return f"not {kind}"


def holds_vectors(kind: pa.DataType) -> bool:
    """True for the type of a column that `precomputed.parquet_lists` reads."""
    return not vector_fault(kind)


def _bytes_of(plain: pa.DataType) -> pa.DataType | None:
    """The type in which the images are stored; None for a struct with no field `bytes`, or with two."""
    if not pa.types.is_struct(plain):
        return plain
    at = plain.get_field_index("bytes")
    return stored_type(plain.field(at).type) if at >= 0 else None


def _sample(position: int, key: str, image: bytes) -> Sample:
    name = content_hash(image)
    return Sample(position, key, name, image, name, caption="")
