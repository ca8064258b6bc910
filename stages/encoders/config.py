"""What a job says about encoders, and the hashes of weights that name an artifact; refuses a missing file.

Nothing here imports torch, so `winnow plan` and `winnow status` start quickly.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.pipeline.errors import ModelError
from winnow.pipeline.storage import Place, home, rooted

RANDOM = "random"
"""In place of weights: seeded random ones, the same in every worker. For benchmarks only."""

LOCAL_DIR = "local-dir:"
HUB = "hf-hub:"
_CHECKPOINT_SUFFIXES = {".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".tar", ".npz"}
_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin", "*.pth")
_STRICT = ConfigDict(extra="forbid")


def _model_place(model: str) -> str:
    if model.startswith(LOCAL_DIR):
        return rooted(model, LOCAL_DIR)
    return rooted(model) if model.endswith(".json") else str(model)


def _weights_place(weights: str) -> str:
    return rooted(weights) if _names_a_file(weights) else str(weights)


Model = Annotated[str, Place(_model_place)]
"""The type of an option that is a name of open_clip, a configuration `.json`, `local-dir:` or `hf-hub:`."""

Weights = Annotated[str, Place(_weights_place)]
"""The type of an option that is a tag, a checkpoint file, or `random`."""


@dataclass(frozen=True, config=_STRICT)
class OpenClip:
    """A CLIP of open_clip: columns `NAME.image` and `NAME.text`.

    model: a name of `open_clip.list_models()`, a model configuration `.json`, `local-dir:FOLDER` or
        `hf-hub:OWNER/NAME` (the last two carry their own weights).
    pretrained: a tag of open_clip, a checkpoint file (also open_clip_train's epoch_N.pt), or `random`.
        A text with a folder in it or a checkpoint's suffix is a file, any other is a tag. `~` is the home folder.
    """

    model: Model
    pretrained: Weights | None = None

    def __post_init__(self) -> None:
        folder = LOCAL_DIR if self.model.startswith(LOCAL_DIR) else ""
        object.__setattr__(self, "model", folder + home(self.model.removeprefix(folder)))
        object.__setattr__(self, "pretrained", self.pretrained and home(self.pretrained))


@dataclass(frozen=True, config=_STRICT)
class Timm:
    """An image-only model of timm, its pooled features: column `NAME.image`.

    timm: a name of `timm.list_models()`, with its tag or without.
    checkpoint: a file of weights, or `random`; without it timm's own weights of the tag.
    image_size: side in pixels where it shall not be the model's own (DINOv2 of timm has 518, which costs
        six times 224); only for models that resample their position embedding.
    """

    timm: str
    checkpoint: Weights | None = None
    image_size: int | None = Field(default=None, ge=1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoint", self.checkpoint and home(self.checkpoint))


@dataclass(frozen=True, config=_STRICT)
class Encoding:
    """How encoders run; of these only `preprocess`, `precision` and `batch_size` may move a vector.

    batch_size: samples a forward pass. On CPU the last bits of a vector follow it (matrix kernels differ by
        shape: up to 4e-6 in float32), so it belongs to what an artifact was made with.
    preprocess: `exact` is the model's own transform, bit for bit; `fast` lets JPEG decode at 1/2, 1/4 or 1/8
        where at least 1.125 times the wanted size is left, and resizes with torch in place of PIL.
    precision: `auto` is bf16 on a GPU and fp32 elsewhere; fp16 needs a GPU. On a CPU with avx512_bf16, bf16 runs
        the image tower of a ViT-B/32 in 0.3 of fp32's time; on one without such units it is slower. `auto` never looks
        at the machine, for a vector's name must not depend on it.
    device: `auto`, or a name that torch knows, such as `cuda:0`.
    decode_threads: threads that decode, and on CPU also run the models, a batch each; 0 is
        OMP_NUM_THREADS where that is set (Ray sets it to an actor's num_cpus), else the cores there are.
    """

    batch_size: int = Field(default=64, ge=1)
    preprocess: Literal["fast", "exact"] = "exact"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    decode_threads: int = Field(default=0, ge=0)


def provenance(encoder: OpenClip | Timm) -> dict[str, str]:
    """What decides an encoder's vectors, for a fingerprint: names of tags, sha256 of files, never a path.

    The same weights moved to another folder give the same answer; one changed byte gives another.
    A folder's hash covers its configuration, tokenizer and weights files.

    Raises: ModelError where there are no weights, or a named file or folder is missing.
    """
    if isinstance(encoder, Timm):
        size = {} if encoder.image_size is None else {"image_size": str(encoder.image_size)}
        return {"timm": encoder.timm, "checkpoint": _weights(encoder.checkpoint or "tag"), **size}
    if carries_weights(encoder):
        if encoder.model.startswith(HUB):
            return {"model": encoder.model}
        return {"model": _sha256_of_folder(Path(encoder.model.removeprefix(LOCAL_DIR)))}
    config = config_file(encoder)
    return {
        "model": encoder.model if config is None else _sha256(config),
        "pretrained": _weights(encoder.pretrained or ""),
    }


def carries_weights(encoder: OpenClip) -> bool:
    """True for `local-dir:` and `hf-hub:` models, False for those whose weights `pretrained` names.

    Raises: ModelError where both name weights, or neither does.
    """
    carries = encoder.model.startswith((LOCAL_DIR, HUB))
    if carries and encoder.pretrained is not None:
        raise ModelError(
            f"{encoder.model} carries its own weights, but pretrained: {encoder.pretrained} came too; "
            "leave `pretrained` out, or give the model's name instead of the folder"
        )
    if not carries and not encoder.pretrained:
        raise ModelError(
            f"an encoder needs weights, but {encoder.model} came without `pretrained`; "
            "give a tag of open_clip or a checkpoint file"
        )
    return carries


def config_file(encoder: OpenClip) -> Path | None:
    """The model configuration `.json` that `model` names, or None where it is no such path."""
    return _existing(encoder.model) if encoder.model.endswith(".json") else None


def check_config(path: Path) -> None:
    """Raises ModelError for a file that is no model's configuration.

    open_clip skips one without these keys in silence, and a broken one breaks every later look-up.
    """
    try:
        keys = set(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ModelError(f"a model configuration is a JSON object, but {path} is not: {error}") from error
    missing = sorted({"embed_dim", "vision_cfg", "text_cfg"} - keys)
    if missing:
        raise ModelError(
            f"a model configuration has embed_dim, vision_cfg and text_cfg, but {path} lacks {missing}; "
            "see the files in open_clip/model_configs"
        )


def checkpoint_file(weights: str) -> Path | None:
    """The file that `weights` names, or None where it is a tag or `random`.

    Raises: ModelError where it names a file that is not there.
    """
    return _existing(weights) if _names_a_file(weights) else None


def _names_a_file(weights: str) -> bool:
    return "/" in weights or "\\" in weights or Path(weights).suffix in _CHECKPOINT_SUFFIXES


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise ModelError(
            f"a model's file must be there, but {name} is not a file on this machine; "
            "put it where every worker sees it under this path"
        )
    return path


def _weights(text: str) -> str:
    path = checkpoint_file(text)
    return text if path is None else _sha256(path)


def _sha256_of_folder(folder: Path) -> str:
    if not (folder / "open_clip_config.json").is_file():
        raise ModelError(
            f"local-dir: needs a folder with open_clip_config.json, but {folder} has none; "
            "give the folder that open_clip saved the model to"
        )
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {_sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _sha256(path: Path) -> str:
    found = path.stat()
    return _sha256_of_state(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)  # a sweep asks for the same gigabytes once a job
def _sha256_of_state(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
