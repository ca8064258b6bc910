"""The encoder `mean_colours`: its vectors are the mean colours of a picture's fields, in a grid over the picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from winnow import JobError
from winnow.stages.encoders.encoder import Encoder

if TYPE_CHECKING:
    import torch

    from winnow.stages.encoders.towers import Towers


@dataclass(frozen=True)
class MeanColours(Encoder):
    """The options of the encoder, as a job file gives them: the grid has `grid` · `grid` fields."""

    grid: int = 4
    kind: ClassVar[str] = "mean_colours"  # the name of the entry point

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise JobError(f"grid must be at least 1, but {self.grid} came; 4 gives vectors of 48 numbers")

    def load(self, device: "torch.device") -> "Towers":
        """Called once by each worker. What imports torch is imported here, so that other commands start fast."""
        from winnow.stages.encoders.pixels.decoding import Preprocess, to_rgb
        from winnow.stages.encoders.towers import Towers

        size = (self.grid, self.grid)  # height and width, in pixels

        def shrink(picture: Image.Image) -> Image.Image:
            return picture.resize(size, Image.Resampling.BOX)  # each pixel is the mean of a field

        half = (0.5, 0.5, 0.5)  # scales colours from 0 to 1 to numbers from -1 to 1
        preprocess = Preprocess((to_rgb, shrink), "squash", size, mean=half, std=half)
        return Towers(preprocess, image=lambda pixels: pixels.flatten(1))  # (b, 3, grid, grid) → (b, 3 · grid²)
