"""What an encoder says of itself: the option that names it, its weights' identity, and how it is checked and loaded.

An encoder is a frozen dataclass of its options. It must say `kind` and `load`; the rest has defaults. Nothing here
imports torch: options are read by every command, models are loaded by workers alone.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from winnow.pipeline.plugins import origin_of

if TYPE_CHECKING:
    import torch

    import winnow.stages.encoders.towers


@dataclass(frozen=True)
class Encoder:
    """One encoder of a job: columns `NAME.image`, and `NAME.text` where it has text.

    kind: its name in a job file, `embeddings: {NAME: {kind: …}}`. key: the option that chooses it where a job says no
    kind; "" for none. has_text: whether it embeds captions too.
    """

    kind: ClassVar[str]
    key: ClassVar[str] = ""
    has_text: ClassVar[bool] = False

    @property
    def trained_as(self) -> str | None:
        """The model of open_clip that is trained on what a job keeps; None where another encoder is to name it."""
        return None

    def provenance(self) -> dict[str, str]:
        """What decides the vectors, for a fingerprint: names, sha256 of files, never a path.

        The same weights moved to another folder give the same answer; one changed byte gives another. By default the
        options as they are: an encoder whose option names a file says the file's hash in its place.

        Raises: ModelError where there are no weights, or a named file or folder is missing.
        """
        return {field.name: str(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def identity(self) -> dict[str, str]:
        """The provenance, and of a plugin's encoder whose it is: another version makes other artifacts."""
        origin = origin_of(type(self))
        return self.provenance() if origin is None else {**self.provenance(), "encoder": f"{self.kind} of {origin}"}

    def check(self) -> str:
        """What is known of it without opening it, in words.

        Raises ModelError for a name or tag that its library does not know, and for a file that is not there or cannot
        be a model's configuration or its weights.
        """
        return f"{self.kind} {', '.join(str(getattr(self, field.name)) for field in dataclasses.fields(self))}".strip()

    def load(self, device: "torch.device") -> "winnow.stages.encoders.towers.Towers":
        """The model in eval mode and float32 on `device`; random weights are the same in every worker.

        Raises: ModelError where the model is unknown, or its weights are missing, unreachable or another model's.
        """
        raise NotImplementedError
