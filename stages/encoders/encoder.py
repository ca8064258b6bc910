"""The contract of an encoder: the option that names it, the identity of its weights, how it is checked and loaded.

An encoder is a frozen dataclass of its options. It must define `kind` and `load`; all else has defaults. Nothing here
imports torch, because every command reads options, and only workers load models.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from winnow.pipeline.plugins import origin_of

if TYPE_CHECKING:
    import torch

    import winnow.stages.encoders.towers
    from winnow.pipeline.artifact import Artifact
    from winnow.pipeline.stage import Run, Stage
    from winnow.stages.cuts.contract.findings import Findings
    from winnow.stages.cuts.contract.finished import Readable
    from winnow.stages.pools.reader import Reader


@dataclass(frozen=True)
class Encoder:
    """One encoder of a job: columns `NAME.image`, and `NAME.text` if it embeds captions.

    kind: its name in a job file, `embeddings: {NAME: {kind: …}}`. named_by: the option that selects it if a job gives
    no kind; "" for none. has_text: whether it embeds captions too. has_model: whether it makes vectors; if not, they
    exist, and `joined` brings them. pools: its options that are pools of their own, with shards and format.
    """

    kind: ClassVar[str]
    named_by: ClassVar[str] = ""
    has_text: ClassVar[bool] = False
    has_model: ClassVar[bool] = True
    pools: ClassVar[tuple[str, ...]] = ()

    @property
    def trained_as(self) -> str | None:
        """The open_clip model to train on what a job keeps; None if another encoder must name it."""
        return None

    def provenance(self) -> dict[str, str]:
        """What the vectors depend on, for a fingerprint: names and sha256 of files, never a path.

        The same weights in another folder give the same provenance; one changed byte gives another. Default: the
        options as they are. An encoder with an option for a file must give the file's hash in its place.

        Raises: ModelError if there are no weights, or if a named file or folder is missing.
        """
        return {field.name: str(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def identity(self) -> dict[str, str]:
        """The provenance; for a plugin's encoder also its package, because another version makes other artifacts."""
        origin = origin_of(type(self))
        return self.provenance() if origin is None else {**self.provenance(), "encoder": f"{self.kind} of {origin}"}

    def check(self) -> str:
        """Describe the encoder without loading it.

        Raises ModelError for a name or tag that its library does not know, and for a file that does not exist or cannot
        be a model configuration or weights.
        """
        return f"{self.kind} {', '.join(str(getattr(self, field.name)) for field in dataclasses.fields(self))}".strip()

    def load(self, device: "torch.device") -> "winnow.stages.encoders.towers.Towers":
        """The model in eval mode and float32 on `device`; random weights are the same in every worker.

        Raises: ModelError if the model is unknown, or its weights are missing, unreachable or those of another model.
        """
        raise NotImplementedError

    def joined(self, samples: "Artifact", reader: "Reader", called: str) -> "Stage":
        """The stage that brings its vectors beside the samples of a pool, if it has no model.

        reader: of the pool. called: its name in the job, for messages. Lists the files of the vectors.
        """
        raise NotImplementedError

    def check_joined(self, made: "Artifact", pool: "Readable", reader: "Reader", run: "Run") -> "Findings | None":
        """Check the vectors that `joined` brought against where they came from; None if there is nothing to check."""
        return None
