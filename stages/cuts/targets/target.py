"""The stage `target`: unit vectors of a target set, embedded by the job's encoder or read from a file.

Images of the set that cannot be read are listed in `rejects.parquet`, and counted by kind.
"""

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_table, write_table
from winnow.pipeline.errors import DataError, JobError
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run, Summary
from winnow.stages.cuts.contract.finished import Contents
from winnow.stages.kernels.products import byte_order, in_byte_order
from winnow.stages.pools.brought import brought_schema
from winnow.stages.pools.columns import whole_shard
from winnow.stages.pools.images import (
    SUFFIXES,
    file_images,
    holds_images,
    holds_vectors,
    image_files,
    is_image,
    parquet_images,
    tar_images,
)
from winnow.stages.pools.precomputed.blocks import Blocks, squared_norms, unit_rows
from winnow.stages.pools.precomputed.npy_files import npy_blocks, npz_blocks
from winnow.stages.pools.precomputed.parquet_lists import list_blocks
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.survivors import Survivors
from winnow.stages.vectors import Vectors

VECTORS = "vectors.npy"
NAMES = "names.parquet"

TARGET_FILES = {"target": Contents(by_shard=False, data=(VECTORS,))}
"""For Cut.contents of a cut that has a target."""

_IMAGE_COLUMN = "image"

Kind = Literal["images", "vectors"]


@dataclass(frozen=True)
class Target:
    """The vectors of a target set: float16 (m, d), unit norm, in the order of their bytes.

    files: the files to read; a folder means all image files in it and its subfolders. key: column or array; None: the
    only one, or `image`. encoder: everything that the vectors of images depend on; None if the files hold vectors.
    The order of files and rows does not matter, except for the last bits of vectors of images, which depend on the
    batch.
    """

    files: tuple[storage.Identity, ...]
    key: str | None
    encoder: Mapping[str, object] | None
    by: str = field(metadata={"fingerprint": False})
    embedder: Vectors | None = field(metadata={"fingerprint": False})
    name: ClassVar[str] = "target"
    named: ClassVar[bool] = False
    version: ClassVar[int] = 2

    def look(self, widths: Mapping[str, int]) -> str:
        """See Looking.look."""
        if self.embedder is not None:
            return f"images of {len(self.files):,} file{'' if len(self.files) == 1 else 's'}"
        with _blocks(self.files[0].url, self.key) as blocks:
            rows, width = blocks.rows, blocks.width
        check_width(width, widths.get(self.by, width), self.by)
        return f"{rows:,} vectors of {width} numbers in {storage.name_of(self.files[0].url)}"

    def make(self, run: Run, out: Artifact) -> Summary:
        """One worker reads and embeds the whole set; it holds 6 m d bytes. Raises DataError if nothing can be read."""
        needs = None if self.embedder is None else self.embedder.needs
        [(_, found)] = run.each(_ReadTarget(self, out), ["the target set"], self.name, needs)
        if not found["vectors"]:
            kinds = ", ".join(f"{kind}: {times}" for kind, times in cast(Mapping[str, int], found["rejects"]).items())
            raise DataError(
                f"a target must have at least one vector, but nothing could be read from {self.files[0].url} "
                f"({kinds or 'it is empty'}); see {out.meta('rejects.parquet')}"
            )
        return {name: found[name] for name in ("vectors", "width", "rejected", "rejects")}


@dataclass(frozen=True)
class NamedTarget(Target):
    """The same with the name of each vector in names.parquet: the URL of its file, with its name or row inside."""

    named: ClassVar[bool] = True


def target_of(
    survivors: Survivors, by: str, target: str | Sequence[str], key: str | None, named: bool = False
) -> Target:
    """The stage for a job's `target`. It lists the files, because a changed file must make another artifact.

    Raises JobError for files of two kinds, for a folder or file that holds neither images nor vectors, and for images
    if the pool has precomputed vectors; PoolError for files that do not exist.
    """
    urls = storage.expand((target,) if isinstance(target, str) else target)
    kinds = {_kind(url, key) for url in urls}
    if len(kinds) != 1:
        came = "got both" if kinds else f"but {target!r} names nothing"
        raise JobError(f"a target must be a set of images or of vectors, {came}; give files of one kind")
    if key is not None and not any(_suffix(url) in ("npz", "parquet") for url in urls):
        raise JobError(f"target_key must come with an npz or parquet file, but {urls[0]} is neither; leave it out")
    made = NamedTarget if named else Target
    if kinds == {"vectors"}:
        return made(tuple(storage.identify(urls)), key, None, by, None)
    embedder = dict(survivors.embedders).get(by)
    if embedder is None:
        raise JobError(
            f"a target of images needs an encoder, but the vectors of {by} came precomputed, got {urls[0]}; give the "
            f"target as a .npy, .npz or parquet file of vectors that the same encoder made"
        )
    encoder = {
        "provenance": dict(embedder.identity),
        "batch_size": embedder.batch_size,
        "preprocess": embedder.preprocess,
        "precision": embedder.precision,
        "device": embedder.device,
    }
    return made(tuple(_identities(urls)), key, encoder, by, embedder)


def read_target(made: Artifact) -> np.ndarray:
    """The vectors of a target artifact: float16 (m, d), unit norm, in the order of their bytes."""
    with storage.open_read(made.file(VECTORS)) as file:
        return cast(np.ndarray, np.load(file, allow_pickle=False))


def read_names(made: Artifact) -> pa.Array:
    """The name of each vector of a NamedTarget's artifact, in the order of read_target: string (m,)."""
    return read_table(made.meta(NAMES))["name"].combine_chunks()


def target_shape(made: Artifact) -> tuple[int, int]:
    """(m, d) of a target artifact; reads the header only."""
    with npy_blocks(made.file(VECTORS)) as blocks:
        return blocks.rows, blocks.width


def check_width(target: int, pool: int, by: str) -> None:
    """Raises JobError if the target's vectors are not as wide as those of the pool."""
    if target != pool:
        raise JobError(
            f"a target must be embedded like the pool, but its vectors have {target} numbers and those of {by} have "
            f"{pool}; make it with the same encoder"
        )


def _suffix(url: str) -> str:
    return storage.name_of(url).rpartition(".")[2].lower()


def _kind(url: str, key: str | None) -> Kind:
    suffix = _suffix(url)
    if suffix in ("npy", "npz"):
        return "vectors"
    if suffix == "parquet":
        return _column_kind(url, key)
    return "images"


def _column_kind(url: str, key: str | None) -> Kind:
    name, schema = key or _IMAGE_COLUMN, brought_schema(url)
    if name not in schema.names:
        raise JobError(f"target_key must name a column of {url}, but {name} is not one of {', '.join(schema.names)}")
    kind = schema.field(name).type
    if not (holds_images(kind) or holds_vectors(kind)):
        raise JobError(
            f"{url}: column {name} must hold images (binary, struct<bytes, path>) or lists of floats, but is {kind}; "
            f"name another by target_key"
        )
    return "images" if holds_images(kind) else "vectors"


def _identities(urls: Sequence[str]) -> Iterator[storage.Identity]:
    """The identity of each tar, parquet or image file; for a folder, one identity for all images in it."""
    files = [url for url in urls if is_image(url) or _suffix(url) in ("tar", "parquet")]
    known = dict(zip(files, storage.identify(files), strict=True))
    for url in urls:
        yield known[url] if url in known else _folder(url, image_files(url))


def _folder(url: str, files: Sequence[storage.Identity]) -> storage.Identity:
    if not files:
        raise JobError(
            f"a target must be a folder of images ({', '.join(SUFFIXES)}), such files themselves, or tar, parquet, npy "
            f"or npz files, but {url} is none of these or holds no image"
        )
    return storage.Identity(url, sum(file.size for file in files), fingerprint(files, digits=32))


@dataclass(frozen=True)
class _ReadTarget:
    """Commits rejects.parquet, if there are rejects, and then vectors.npy."""

    stage: Target
    out: Artifact

    def __call__(self, item: str) -> Summary:
        rejects, names, embedder = list[Reject](), list[str](), self.stage.embedder
        vectors = _brought(self.stage, names) if embedder is None else _embedded(self.stage, embedder, rejects, names)
        kinds = dict(sorted(Counter(reject.kind for reject in rejects).items()))
        if rejects:
            rows = [{name: getattr(reject, name) for name in ("key", "kind", "message")} for reject in rejects]
            write_table(self.out.meta("rejects.parquet"), pa.Table.from_pylist(rows))
        if len(vectors) and self.stage.named:
            named = pa.array(names, pa.string()).take(pa.array(byte_order(vectors)))
            write_table(self.out.meta(NAMES), pa.table({"name": named}))
        if len(vectors):
            with storage.committing(self.out.file(VECTORS)) as file:
                np.save(file, in_byte_order(vectors))
        return {
            "rows": len(vectors),
            "vectors": len(vectors),
            "width": vectors.shape[1],
            "rejected": len(rejects),
            "rejects": kinds,
        }


def _embedded(stage: Target, embedder: Vectors, rejects: list[Reject], names: list[str]) -> np.ndarray:
    from winnow.stages.encoders import Bank  # torch takes three seconds to import, and vectors do not need it

    bank = Bank.open({stage.by: embedder.encoder}, embedder.encoding)
    column = f"{stage.by}.image"
    parts = [np.empty((0, bank.columns()[column]), np.float16)]
    for batch in bank.encode(_samples(stage)):
        refused = batch.refused[stage.by]
        parts.append(np.delete(batch.vectors[column], list(refused), axis=0))
        rejects += [*batch.rejects, *refused.values()]
        names += [sample.key for row, sample in enumerate(batch.samples) if row not in refused]
    return np.concatenate(parts)


def _samples(stage: Target) -> Iterator[Sample | Reject]:
    for file in stage.files:
        if _suffix(file.url) == "tar":
            yield from tar_images(file.url)
        elif _suffix(file.url) == "parquet":
            yield from parquet_images(file.url, stage.key or _IMAGE_COLUMN)
        elif is_image(file.url):
            yield from file_images([file.url])
        else:
            images = image_files(file.url)
            if _folder(file.url, images) != file:
                raise DataError(f"the images of a target must stay as listed, but {file.url} has changed; run again")
            yield from file_images(image.url for image in images)


def _brought(stage: Target, names: list[str]) -> np.ndarray:
    """Unit vectors of every file, in order: float16 (m, d). names: gets the name of each."""
    parts = []
    for file in stage.files:
        with _blocks(file.url, stage.key) as blocks:
            norms = squared_norms(blocks)
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if len(bad):
            raise DataError(
                f"{file.url}: every vector of a target must be finite and not zero, but {len(bad)} of {len(norms)} are "
                f"not, first in row {bad[0]}; take them out"
            )
        with _blocks(file.url, stage.key) as blocks:
            parts.append(unit_rows(blocks, None, file.url))
        names += [f"{file.url}: row {row}" for row in range(len(norms))]
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise DataError(f"the vectors of a target must have one width, got {widths}; give files of one encoder")
    return np.concatenate(parts)


def _blocks(url: str, key: str | None) -> AbstractContextManager[Blocks]:
    if _suffix(url) == "npy":
        return npy_blocks(url)
    if _suffix(url) == "npz":
        return npz_blocks(url, key or _only_array(url))
    return list_blocks(url, key or _IMAGE_COLUMN)


def _only_array(url: str) -> str:
    with whole_shard(url), storage.open_read(url) as file, zipfile.ZipFile(file) as archive:
        names = [member.removesuffix(".npy") for member in archive.namelist()]
    if len(names) != 1:
        raise JobError(
            f"{url} must hold one array, but holds {', '.join(names) or 'none'}; name the vectors by target_key"
        )
    return names[0]
