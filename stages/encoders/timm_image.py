"""Loads image-only timm models such as DINOv2 with timm's own transform."""

import difflib
import math
import sys
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.models import load_checkpoint

from winnow.pipeline.errors import ModelError
from winnow.stages.encoders.pixels.decoding import Preprocess, pil_pieces, to_rgb
from winnow.stages.encoders.timm_model import Timm
from winnow.stages.encoders.towers import Towers, does_not_load
from winnow.stages.encoders.weights import RANDOM, checkpoint_file

_MODES: dict[str, Literal["shortest", "squash", "longest"]] = {
    "center": "shortest",
    "squash": "squash",
    "border": "longest",
}


def load_timm(encoder: Timm, device: torch.device) -> Towers:
    """The model without its classifier, so that it returns pooled features, in eval mode on `device`.

    Raises: ModelError if the model is unknown, or if its weights are missing, unreachable or those of another model.
    """
    path = check_timm(encoder)
    size = {} if encoder.image_size is None else {"img_size": encoder.image_size}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # random weights must be the same in every worker
            model = timm.create_model(encoder.timm, pretrained=encoder.checkpoint is None, num_classes=0, **size)
        if path is not None:
            load_checkpoint(model, str(path), filter_fn=_without_classifier)
    except Exception as error:
        raise does_not_load(encoder.timm, encoder.checkpoint, error) from error
    model.to(device).eval()
    return Towers(_preprocess(model, size), model)


def check_timm(encoder: Timm) -> Path | None:
    """The file of weights that an encoder names, None if it names none. Nothing is downloaded.

    Raises: ModelError for a name that timm does not know, and for a checkpoint that is not a file.
    """
    path = None if encoder.checkpoint is None else checkpoint_file(encoder.checkpoint)
    if path is None and encoder.checkpoint not in (None, RANDOM):
        raise ModelError(
            f"`checkpoint` must be a file or `random`, got {encoder.checkpoint!r}; "
            "a tag belongs to the name, as in vit_large_patch14_dinov2.lvd142m"
        )
    base = encoder.timm.partition(".")[0]
    if not timm.is_model(base):
        nearest = ", ".join(difflib.get_close_matches(base, timm.list_models(), cutoff=0.4)) or "none"
        raise ModelError(f"timm must know the model, got {encoder.timm!r}; the nearest are: {nearest}")
    tags = timm.list_models(f"{base}.*", pretrained=True)
    if encoder.checkpoint is None and not (encoder.timm in tags or (encoder.timm == base and tags)):
        raise ModelError(
            f"timm must have weights of the model, got {encoder.timm!r}; it has {', '.join(tags) or 'none'}: "
            "name one of them, or give a `checkpoint`"
        )
    return path


def _without_classifier(state: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint for this model: converted and resampled by timm, without the classifier.

    timm's loader for tags accepts missing weights if the classifier is left out. A strict load of this result does not.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, model)
    names = model.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}


def _preprocess(model: Any, size: dict[str, int]) -> Preprocess:
    data = resolve_data_config(size, model=model)
    height, width = data["input_size"][1:]
    transform = create_transform(**data, is_training=False)
    return Preprocess(
        (to_rgb, *pil_pieces(transform.transforms)),  # timm's datasets convert before its transform
        _MODES[data["crop_mode"]],
        (math.floor(height / data["crop_pct"]), math.floor(width / data["crop_pct"])),
        tuple(data["mean"]),
        tuple(data["std"]),
    )
