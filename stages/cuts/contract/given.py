"""Checks that a job has what each cut needs: its encoder, text vectors, images."""

from collections.abc import Mapping
from dataclasses import dataclass

from winnow.pipeline.errors import JobError


@dataclass(frozen=True)
class Given:
    """What a cut may ask of a job before anything is run.

    encoders: by name, whether it has text vectors beside those of images. images: whether the pool has the bytes of
    images, and not their vectors alone.
    """

    encoders: Mapping[str, bool]
    images: bool

    def check_encoder(self, kind: str, by: str) -> None:
        """Raises JobError unless `by`, an option of a cut, names an encoder of the job."""
        if by not in self.encoders:
            raise JobError(f"{kind}.by must be an encoder of the job ({', '.join(self.encoders)}), got {by!r}")

    def check_text(self, kind: str, by: str) -> None:
        """Raises JobError unless that encoder has text vectors too."""
        if not self.encoders[by]:
            raise JobError(f"{kind} compares image and text, but {by} has no text vectors; name a CLIP")
