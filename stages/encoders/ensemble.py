"""Averages checkpoints of one model into one file of weights.

The mean of a fine-tuned CLIP and the CLIP before fine-tuning keeps what fine-tuning would forget: Wortsman et al. 2022,
arXiv 2109.01903 (WiSE-FT); Fang et al. 2023, arXiv 2309.17425, for filter networks.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch

from winnow.pipeline import storage
from winnow.pipeline.errors import ModelError
from winnow.stages.encoders.clip_model import OpenClip, config_file

_PREFIX = "module."  # a trainer with several processes writes this before each name


def average(parts: Sequence[tuple[Path, float]], out: Path) -> None:
    """Commit {"state_dict": sum of share · weights} of checkpoints of one model.

    parts: checkpoints of open_clip_train or of `average`, each with its share; shares are positive and sum to 1.
    Sums are float64 and rounded once to the checkpoint's dtype. Integers, such as the step count of a batch
    normalisation, are not averaged but taken from the last part; running means and variances are averaged like weights.
    A single checkpoint with share 1 keeps every bit. Memory: one checkpoint, and 8 bytes for each weight.
    Raises: ModelError for shares that do not sum to 1, and for checkpoints of different models.
    """
    if not parts or min(share for _, share in parts) <= 0 or abs(sum(share for _, share in parts) - 1) > 1e-9:
        raise ModelError(f"shares of an average must be positive and sum to 1, got {[s for _, s in parts]}")
    names: dict[str, torch.Size] = {}
    sums: dict[str, torch.Tensor] = {}
    last: dict[str, torch.Tensor] = {}
    for path, share in parts:
        last = read_weights(path)
        shapes = {name: value.shape for name, value in last.items()}
        names = names or shapes
        if shapes != names:
            differing = sorted(name for name in {*shapes, *names} if shapes.get(name) != names.get(name))
            raise ModelError(f"checkpoints must be of one model, but {path} differs in {', '.join(differing[:5])}")
        for name, value in last.items():
            if value.is_floating_point():
                added = value.to(torch.float64) * share
                sums[name] = added if name not in sums else sums[name].add_(added)
    mean = {name: sums[name].to(value.dtype) if name in sums else value for name, value in last.items()}
    with storage.committing(str(out)) as file:
        torch.save({"state_dict": mean}, file)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Names and values of a checkpoint on the CPU. No code in the file is run. Raises: ModelError for another file."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a file that is not a checkpoint
        raise ModelError(f"{path} must be a checkpoint of weights, got {type(error).__name__}: {error}") from error
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ModelError(
            f"{path} must hold named tensors or a state_dict of them; give a checkpoint of open_clip_train"
        )
    return {str(name).removeprefix(_PREFIX): value for name, value in weights.items()}


def write_config(model: str, out: Path) -> None:
    """Commit the configuration `.json` of a model, given by a name of open_clip or a file. Raises: ModelError."""
    own = config_file(OpenClip(model))
    config = open_clip.get_model_config(model.replace("/", "-")) if own is None else json.loads(own.read_bytes())
    if config is None:
        raise ModelError(f"a model must be a name of open_clip or a configuration .json, got {model!r}")
    storage.write_bytes(str(out), (json.dumps(config, indent=2) + "\n").encode())
