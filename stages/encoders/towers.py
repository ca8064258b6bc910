"""One loaded encoder: its image and text towers, tokenizer and preprocessing."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from winnow.pipeline.errors import ModelError, WeightsError
from winnow.pipeline.executors.task_opening import of_network
from winnow.stages.encoders.pixels.decoding import Preprocess


@dataclass(frozen=True)
class Towers:
    """What the bank needs from a model. `tokenize` and `text` are None for image-only models.

    image: float32 (b, 3, h, w) → (b, d), not normalised.
    tokenize: b captions → int64 (b, context).
    text: int64 (b, context) → (b, d), not normalised.
    """

    preprocess: Preprocess
    image: Callable[[torch.Tensor], torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor] | None = None
    text: Callable[[torch.Tensor], torch.Tensor] | None = None


def does_not_load(name: str, weights: str | None, error: Exception) -> ModelError:
    """One error for the dozen types that open_clip, timm and torch raise if weights do not load.

    A WeightsError if the network failed: another machine may reach the weights, or this one later.
    """
    kind = WeightsError if of_network(error) else ModelError
    return kind(
        f"{name} must load with the weights {weights or 'of its own'}, got "
        f"{type(error).__name__}: {error}\n"
        "If a tag cannot be downloaded, give a checkpoint file. If names or sizes of weights differ, "
        "the file belongs to another model."
    )
