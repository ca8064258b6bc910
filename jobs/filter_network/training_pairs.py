"""Builds training tars of images with captions or prompts, one tar for each caption of an image.

Every input file becomes `layers` tars. Each layer holds every picture once, with a different caption. So a tar never
holds a picture twice, and every picture is seen equally often, however many captions it has.
"""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import cast

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline import storage
from winnow.pipeline.artifact import DONE, json_if_whole, write_json
from winnow.pipeline.errors import PoolError, SampleError
from winnow.pipeline.executors.contract import Executor, Needs, Stateless
from winnow.stages.pools.labelled import captioned_images, labelled_images, read_classnames
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.results.shards import SHARD_SIZES

_STRICT = ConfigDict(extra="forbid")
_MIX = 0x9E3779B97F4A7C15  # any odd number of 64 bits: spreads the first template over a set


@dataclass(frozen=True, config=_STRICT)
class Pairs:
    """Pictures with captions that are known to be correct.

    shards: tars. captions: suffix of the caption's member, or json:FIELD of one caption or a list of them.
    layers: how many tars each shard becomes; with as many layers as there are captions, all of them are used.
    side: larger pictures are stored with this shorter side in pixels, which saves the trainer most of its decoding;
        None keeps every picture byte for byte.
    """

    shards: storage.Files
    captions: str = "txt"
    layers: int = Field(default=1, ge=1, le=100)
    side: int | None = Field(default=None, ge=16)

    def urls(self) -> list[str]:
        """The files, in order; raises PoolError if there are none."""
        return storage.expand([self.shards] if isinstance(self.shards, str) else self.shards, ".tar")

    def read(self, url: str) -> Iterator[tuple[Sample, tuple[str, ...]] | Reject]:
        """Pictures of one file with their texts."""
        return captioned_images(url, self.captions)


@dataclass(frozen=True, config=_STRICT)
class Task:
    """Labelled pictures. Their captions are prompts made from their class names.

    images: tars, or parquet files. classnames: a file with one name per line. templates: `openai`, `simple`, or a list
    of texts with {} for the name. label, image: see labelled_images. layers, side: as in Pairs; each layer uses another
    template.
    """

    images: storage.Files
    classnames: storage.File
    templates: str | tuple[str, ...] = "openai"
    label: str | None = None
    image: str = "image"
    layers: int = Field(default=1, ge=1, le=100)
    side: int | None = Field(default=None, ge=16)

    def urls(self) -> list[str]:
        """The files, in order; raises PoolError if there are none."""
        return storage.expand([self.images] if isinstance(self.images, str) else self.images)

    def read(self, url: str) -> Iterator[tuple[Sample, tuple[str, ...]] | Reject]:
        """Pictures of one file with the prompts of their class. The first template varies with the picture."""
        from winnow.stages.encoders.zero_shot import prompt_templates  # torch takes three seconds to import

        templates, names = prompt_templates(self.templates), read_classnames(self.classnames)
        for found in labelled_images(url, self.label, self.image, names):
            if isinstance(found, Reject):
                yield found
                continue
            sample, label = found
            first = (int.from_bytes(sample.uid[:8]) * _MIX >> 32) % len(templates)
            turned = templates[first:] + templates[:first]
            yield sample, tuple(template.format(names[label]) for template in turned)


PairSource = Pairs | Task


def write_pairs(sources: Sequence[PairSource], folder: str, executor: Executor) -> dict[str, object]:
    """Make the training tars of all sources and return the content of `_done.json`; does nothing if that exists.

    Every input file is a task that holds the pictures of one file. Pictures that cannot be read are counted by kind.
    Raises PoolError if no picture of a source can be read.
    """
    done = json_if_whole(storage.join(folder, DONE))
    if done is not None:
        return done
    items = [(number, source, url) for number, (source, url) in enumerate(_files(sources))]
    pieces = [_Piece(number, source, url) for number, source, url in items]
    sizes: dict[str, int] = {}
    rejects: Counter[str] = Counter()
    pictures = 0
    written = dict(executor.map(Stateless(_WriteLayers(folder)), pieces, "training pairs", Needs()))
    for piece in pieces:
        samples, rejected = written[piece.number]
        rejects.update(rejected)
        pictures += samples
        sizes |= {piece.name(layer): samples for layer in range(piece.source.layers) if samples}
    if not sizes:
        raise PoolError(
            f"training needs pictures with captions, but none could be read from {pieces[0].url} and the others: "
            f"{dict(rejects)}"
        )
    write_json(storage.join(folder, SHARD_SIZES), cast(dict[str, object], sizes))
    report: dict[str, object] = {
        "pictures": pictures,
        "pairs": sum(sizes.values()),
        "tars": len(sizes),
        "rejected": dict(sorted(rejects.items())),
    }
    write_json(storage.join(folder, DONE), report)
    return report


def pattern(folder: str) -> str:
    """The tars of a finished folder as open_clip's trainer takes them: brace patterns, joined by `::`.

    A pattern stands for a run of input files with equally many layers, so it stays short for 100,000 of them.
    """
    sizes = json.loads(storage.read_bytes(storage.join(folder, SHARD_SIZES)))
    layers = Counter(int(name.partition("-")[0]) for name in sizes)
    runs: list[list[int]] = []
    for number in sorted(layers):
        if not runs or number != runs[-1][-1] + 1 or layers[number] != layers[runs[-1][-1]]:
            runs.append([])
        runs[-1].append(number)
    names = [f"{_span(run[0], run[-1], 6)}-{_span(0, layers[run[0]] - 1, 2)}.tar" for run in runs]
    return "::".join(storage.join(folder, name) for name in names)


def _span(first: int, last: int, digits: int) -> str:
    both = f"{first:0{digits}d}", f"{last:0{digits}d}"
    return both[0] if first == last else f"{{{both[0]}..{both[1]}}}"


def _files(sources: Sequence[PairSource]) -> Iterator[tuple[PairSource, str]]:
    for source in sources:
        for url in source.urls():
            yield source, url


@plain_dataclass(frozen=True)
class _Piece:
    """One input file, by its number among all."""

    number: int
    source: PairSource
    url: str

    def name(self, layer: int) -> str:
        """Name of the tar with this layer of the file."""
        return f"{self.number:06d}-{layer:02d}.tar"


@plain_dataclass(frozen=True)
class _WriteLayers:
    """Commits the layers of one file; returns how many pictures each holds, and the rejects by kind."""

    folder: str

    def __call__(self, item: _Piece) -> tuple[int, Counter[str]]:
        rejects: Counter[str] = Counter()
        pictures = list(_readable(item, rejects))
        for layer in range(item.source.layers) if pictures else ():
            with (
                storage.committing(storage.join(self.folder, item.name(layer))) as file,
                tarfile.open(fileobj=file, mode="w|") as tar,
            ):
                for sample, texts in pictures:
                    # always .jpg: the trainer's decoder looks at the content, and accepts few suffixes
                    text = texts[(sample.position + layer) % len(texts)]
                    add_member(tar, f"{sample.position:09d}.jpg", bytes(sample.image))
                    add_member(tar, f"{sample.position:09d}.txt", text.encode())
        return len(pictures), rejects


def _readable(item: _Piece, rejects: Counter[str]) -> Iterator[tuple[Sample, tuple[str, ...]]]:
    side = item.source.side
    for found in item.source.read(item.url):
        if isinstance(found, Reject):
            rejects[found.kind] += 1
            continue
        sample, texts = found
        try:
            yield (sample if side is None else replace(sample, image=_shrunk(sample, side))), texts
        except SampleError as error:
            rejects[error.kind] += 1


def _shrunk(sample: Sample, side: int) -> bytes:
    from winnow.stages.encoders.pixels.shrink import shrunk

    return shrunk(bytes(sample.image), side)


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to a tar without time and owner, so that the same content gives the same bytes."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))
