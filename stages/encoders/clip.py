"""Loads open_clip models with their own transform and tokenizer."""

import difflib
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from winnow.pipeline.errors import ModelError
from winnow.stages.encoders.clip_model import OpenClip, carries_weights, check_config, config_file
from winnow.stages.encoders.pixels.decoding import Preprocess, pil_pieces
from winnow.stages.encoders.tokens import tokens_of
from winnow.stages.encoders.towers import Towers, does_not_load
from winnow.stages.encoders.weights import RANDOM, checkpoint_file


def load_open_clip(encoder: OpenClip, device: torch.device) -> Towers:
    """Both towers in eval mode and float32 on `device`.

    Raises: ModelError if the model is unknown, or if its weights are missing, unreachable or those of another model.
    """
    own = carries_weights(encoder)
    name = encoder.model if own else _known(encoder)
    tag = {} if own else _tag(name, encoder.pretrained or "")
    random = encoder.pretrained == RANDOM
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # random weights must be the same in every worker
            model = open_clip.create_model(
                name,
                None if random else encoder.pretrained,
                # without it OpenAI's weights run with the wrong activation, and open_clip only warns
                force_quick_gelu=bool(tag.get("quick_gelu")),
                pretrained_text=False,
                require_pretrained=not random,
                weights_only=True,
            )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:
        raise does_not_load(encoder.model, encoder.pretrained, error) from error
    model.to(device).eval()
    return Towers(_preprocess(model), model.encode_image, tokens_of(tokenizer), model.encode_text)


def check_open_clip(encoder: OpenClip) -> None:
    """Raises ModelError for a name or tag that open_clip does not know; nothing is opened or downloaded."""
    _tag(_known(encoder), encoder.pretrained or "")


def _preprocess(model: Any) -> Preprocess:
    cfg = PreprocessCfg(**model.visual.preprocess_cfg)
    transform = image_transform_v2(cfg, is_train=False)
    height, width = (cfg.size, cfg.size) if isinstance(cfg.size, int) else cfg.size
    normalize = transform.transforms[-1]
    return Preprocess(
        pil_pieces(transform.transforms),
        cfg.resize_mode,
        (height, width),
        tuple(normalize.mean),
        tuple(normalize.std),
    )


def _known(encoder: OpenClip) -> str:
    """The name under which open_clip's registry has the model; a configuration file is registered first."""
    path = config_file(encoder)
    if path is not None:
        check_config(path)
        open_clip.add_model_config(path)
        return path.stem
    name = encoder.model.replace("/", "-")  # OpenAI writes ViT-B/32
    names = open_clip.list_models()
    if name not in names:
        nearest = ", ".join(difflib.get_close_matches(name, names, cutoff=0.4)) or "none"
        raise ModelError(
            "a model must be a name of open_clip, a configuration .json, local-dir:FOLDER or hf-hub:OWNER/NAME, "
            f"got {encoder.model!r}; the nearest known names are: {nearest}"
        )
    return name


def _tag(name: str, pretrained: str) -> dict[str, object]:
    """open_clip's entry of a pretrained tag, {} for a checkpoint file or random weights."""
    if pretrained == RANDOM or checkpoint_file(pretrained) is not None:
        return {}
    tag: dict[str, object] = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ModelError(
            f"`pretrained` must be a tag of {name} or a checkpoint file, got {pretrained!r}; known tags are: {known}"
        )
    return tag
