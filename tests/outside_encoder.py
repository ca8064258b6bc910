"""An encoder that winnow does not know, as small as it can be: the colours of a picture, coarsely, are its vector."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from winnow.stages.encoders.encoder import Encoder

if TYPE_CHECKING:
    import torch

    import winnow.stages.encoders.towers


@dataclass(frozen=True)
class Tint(Encoder):
    """side: pixels of the coarse picture."""

    side: int = 2
    kind: ClassVar[str] = "tint"

    def load(self, device: "torch.device") -> "winnow.stages.encoders.towers.Towers":
        from winnow.stages.encoders.pixels.decoding import Preprocess, to_rgb
        from winnow.stages.encoders.towers import Towers

        size = (self.side, self.side)
        pieces = (to_rgb, lambda image: image.resize(size))
        return Towers(Preprocess(pieces, "squash", size, (0.0,) * 3, (1.0,) * 3), lambda pixels: pixels.flatten(1) + 1)
