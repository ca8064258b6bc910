"""An image-only model of timm: its options, the hash of its weights, and whether it is there; timm_image.py loads it.

timm takes seconds to import. So its lists are first read from its files as text: a name that is there is known. Of one
that is not, it is asked itself.
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
    told,
)

if TYPE_CHECKING:
    import torch

    import winnow.stages.encoders.towers


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Timm(Encoder):
    """An image-only model of timm, its pooled features: column `NAME.image`.

    timm: a name of `timm.list_models()`, with its tag or without.
    checkpoint: a file of weights, or `random`; without it timm's own weights of the tag.
    image_size: side in pixels where it shall not be the model's own (DINOv2 of timm has 518, which costs
        six times 224); only for models that resample their position embedding.
    """

    timm: str
    checkpoint: Weights | None = None
    image_size: int | None = Field(default=None, ge=1)
    kind: ClassVar[str] = "timm"
    key: ClassVar[str] = "timm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoint", self.checkpoint and home(self.checkpoint))

    def provenance(self) -> dict[str, str]:
        """The name and the weights."""
        size = {} if self.image_size is None else {"image_size": str(self.image_size)}
        return {"timm": self.timm, "checkpoint": hash_of(self.checkpoint or "tag"), **size}

    def check(self) -> str:
        """By timm's files first, which takes no import of it."""
        file = None if self.checkpoint in (None, RANDOM) else checkpoint_file(self.checkpoint or "")
        if file is not None:
            check_weights(file)
        if (self.checkpoint not in (None, RANDOM) and file is None) or self.timm not in _timm_names():
            from winnow.stages.encoders import timm_image  # imports timm, which knows best

            timm_image.check_known(self)
        return f"{self.timm}, {told(file, self.checkpoint or 'of its own')}"

    def load(self, device: "torch.device") -> "winnow.stages.encoders.towers.Towers":
        """The image tower."""
        from winnow.stages.encoders import timm_image

        return timm_image.load(self, device)


@functools.cache
def _timm_names() -> frozenset[str]:
    """Names with tags, and without, as timm's source spells them."""
    folder = package_folder("timm")
    if folder is None:
        return frozenset()
    text = "\n".join(path.read_text(encoding="utf-8") for path in (folder / "models").glob("*.py"))
    tagged = set(re.findall(r"^    ['\"](\w+\.\w+)['\"]:", text, re.MULTILINE))
    return frozenset(tagged | set(re.findall(r"^@register_model\s+def (\w+)\(", text, re.MULTILINE)))
