"""An image-only model of timm: its options, the hash of its weights, and checks of both; timm_image.py loads it.

Importing timm takes seconds, so a name is first looked up in the text of timm's files. timm is imported only for a name
that is not found there.
"""

import functools
import re
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.storage import home
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.encoders.weights import (
    RANDOM,
    Weights,
    check_weights,
    checkpoint_file,
    hash_of,
    package_folder,
    weights_in_words,
)

if TYPE_CHECKING:
    import torch

    import winnow.stages.encoders.towers


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Timm(Encoder):
    """An image-only model of timm, its pooled features: column `NAME.image`.

    timm: a name of `timm.list_models()`, with or without a tag.
    checkpoint: a file of weights, or `random`. None: timm's own weights for the tag.
    image_size: side in pixels, to replace the model's own (timm's DINOv2 has 518, which costs six times as much as
        224); only for models that resample their position embedding.
    """

    timm: str
    checkpoint: Weights | None = None
    image_size: int | None = Field(default=None, ge=1)
    kind: ClassVar[str] = "timm"
    named_by: ClassVar[str] = "timm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoint", self.checkpoint and home(self.checkpoint))

    def provenance(self) -> dict[str, str]:
        """The name and the weights."""
        size = {} if self.image_size is None else {"image_size": str(self.image_size)}
        return {"timm": self.timm, "checkpoint": hash_of(self.checkpoint or "tag"), **size}

    def check(self) -> str:
        """See Encoder.check: looks in timm's files first, which needs no import."""
        file = None if self.checkpoint in (None, RANDOM) else checkpoint_file(self.checkpoint or "")
        if file is not None:
            check_weights(file)
        if (self.checkpoint not in (None, RANDOM) and file is None) or self.timm not in _timm_names():
            from winnow.stages.encoders import timm_image  # imports timm, whose answer is final

            timm_image.check_timm(self)
        return f"{self.timm}, {weights_in_words(file, self.checkpoint or 'of its own')}"

    def load(self, device: "torch.device") -> "winnow.stages.encoders.towers.Towers":
        """The image tower."""
        from winnow.stages.encoders import timm_image

        return timm_image.load_timm(self, device)


@functools.cache
def _timm_names() -> frozenset[str]:
    """Names of models with and without tags, parsed from timm's source."""
    folder = package_folder("timm")
    if folder is None:
        return frozenset()
    text = "\n".join(path.read_text(encoding="utf-8") for path in (folder / "models").glob("*.py"))
    tagged = set(re.findall(r"^    ['\"](\w+\.\w+)['\"]:", text, re.MULTILINE))
    return frozenset(tagged | set(re.findall(r"^@register_model\s+def (\w+)\(", text, re.MULTILINE)))
