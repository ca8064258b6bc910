"""Loads labelled images into memory, and measures a model's zero-shot accuracy on them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from winnow.pipeline import storage
from winnow.pipeline.errors import DataError, PoolError
from winnow.pipeline.fingerprint import fingerprint
from winnow.stages.encoders import OpenClip
from winnow.stages.pools.labelled import labelled_images, read_classnames
from winnow.stages.pools.sample import Reject

PROMPTS = ("a photo of a {}", "a picture of one {}", "a close view of a {}", "this is a {}")


@plain_dataclass(frozen=True)
class Pictures:
    """n labelled images in memory. images: encoded files. labels: int64 (n,), indices into classnames."""

    images: tuple[bytes, ...]
    labels: np.ndarray
    classnames: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A hash of all images and labels: 32 hex digits."""
        images = [hashlib.sha256(image).hexdigest() for image in self.images]
        return fingerprint([images, self.labels.tolist(), self.classnames], digits=32)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LabelledSet:
    """A set of labelled images in files.

    images: tars, or parquet in the layout of Hugging Face; a URL, a pattern or a list. classnames: a file with one name
    per line. label, image: column of parquet, suffix or json:FIELD of a tar (null: `label`, `cls`).
    templates: `openai`, `simple`, or a list of texts with {} for the name, for the zero-shot classifier.
    """

    images: storage.Files
    classnames: storage.File
    label: str | None = None
    image: str = "image"
    templates: str | tuple[str, ...] = PROMPTS

    def urls(self) -> list[str]:
        """The files, in order. Raises PoolError if there are none."""
        return storage.expand([self.images] if isinstance(self.images, str) else self.images)

    def read(self) -> Pictures:
        """Load all images; memory: the encoded images. Raises DataError for an unreadable image."""
        names = read_classnames(self.classnames)
        images, labels = [], []
        for url in self.urls():
            for found in labelled_images(url, self.label, self.image, names):
                if isinstance(found, Reject):
                    raise DataError(
                        f"every labelled image must be readable, but {found.key} of {url} is not "
                        f"({found.kind}: {found.message}); take it out of the set"
                    )
                sample, label = found
                images.append(bytes(sample.image))
                labels.append(label)
        if not images:
            raise PoolError(f"a labelled set must have images, but {self.images} has none")
        return Pictures(tuple(images), np.array(labels, np.int64), names)


def recalls(model: str, checkpoint: Path, pictures: Pictures, asked: LabelledSet, device: str) -> list[float | None]:
    """Recall of each class by open_clip's zero-shot classifier; None for a class without an image."""
    from winnow.stages.encoders.zero_shot import Judge, prompt_templates  # torch takes three seconds to import

    judge = Judge(OpenClip(model, str(checkpoint)), device)
    classifier = judge.classifier(pictures.classnames, prompt_templates(asked.templates))  # (d, c)
    named = np.concatenate([np.argmax(vectors @ classifier, axis=1) for vectors in judge.images(pictures.images)])
    right = named == pictures.labels  # (n,)
    members = [pictures.labels == label for label in range(len(pictures.classnames))]
    return [float(right[mine].mean()) if mine.any() else None for mine in members]


def top1(by_class: Sequence[float | None], labels: np.ndarray) -> float:
    """Accuracy over all images, from the recall of each class."""
    counts = np.bincount(labels, minlength=len(by_class))  # (c,)
    return float(sum((share or 0.0) * count for share, count in zip(by_class, counts, strict=True)) / counts.sum())
