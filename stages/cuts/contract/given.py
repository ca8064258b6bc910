"""Checks that a job has what each cut needs: its encoder, text vectors, images."""

from collections.abc import Mapping
from dataclasses import dataclass

from winnow.pipeline.errors import JobError


@dataclass(frozen=True)
class Given:
    """What a job offers its cuts, known before anything runs.

    encoders: by name, whether the encoder has text vectors too. images: whether the pool has the bytes of images, and
    not only vectors. fields: names of the pool's fields and of the job's columns.
    """

    encoders: Mapping[str, bool]
    images: bool
    fields: tuple[str, ...] = ()

    def check_encoder(self, kind: str, by: str) -> None:
        """Raises JobError unless `by`, an option of a cut, names an encoder of the job."""
        if not self.encoders:
            lacks = "it has none under embeddings" if self.images else "its pool has neither vectors nor images"
            raise JobError(f"{kind}.by must be an encoder of the job, got {by!r}, but {lacks}")
        if by not in self.encoders:
            raise JobError(f"{kind}.by must be an encoder of the job ({', '.join(self.encoders)}), got {by!r}")

    def check_field(self, option: str, name: str) -> None:
        """Raises JobError unless `name`, given by that option of a cut, is a field of the pool or a column."""
        if name not in self.fields:
            known = f"({', '.join(self.fields)})" if self.fields else "which are none"
            raise JobError(
                f"{option} must name one of pool.fields and columns {known}, got {name!r}; add {name}: json:KEY or a "
                "column of the pool to pool.fields"
            )

    def check_text(self, kind: str, by: str) -> None:
        """Raises JobError unless that encoder has text vectors too."""
        if not self.encoders[by]:
            raise JobError(f"{kind}.by must name an encoder with text vectors, but {by} has none; name a CLIP model")
