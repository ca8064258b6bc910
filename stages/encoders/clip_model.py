"""A CLIP of open_clip: its options, the hash of its weights, and checks of both; clip.py loads it.

Importing open_clip takes five seconds, so a name is first looked up in the text of open_clip's files. open_clip is
imported only for a name that is not found there.
"""

import ast
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from winnow.pipeline.errors import ModelError
from winnow.pipeline.storage import FileName, home, rooted
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.encoders.weights import (
    RANDOM,
    Weights,
    check_weights,
    checkpoint_file,
    existing,
    hash_of,
    package_folder,
    sha256,
    weights_in_words,
)

if TYPE_CHECKING:
    import torch

    import winnow.stages.encoders.towers

LOCAL_DIR = "local-dir:"
HUB = "hf-hub:"
_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin", "*.pth")


def _place(model: str) -> str:
    if model.startswith(LOCAL_DIR):
        return rooted(model, LOCAL_DIR)
    return rooted(model) if model.endswith(".json") else str(model)


Model = Annotated[str, FileName(_place)]
"""The type of an option that is a name of open_clip, a configuration `.json`, `local-dir:` or `hf-hub:`."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OpenClip(Encoder):
    """A CLIP of open_clip: columns `NAME.image` and `NAME.text`.

    model: a name of `open_clip.list_models()`, a model configuration `.json`, `local-dir:FOLDER` or
        `hf-hub:OWNER/NAME` (the last two have their own weights).
    pretrained: a tag of open_clip, a checkpoint file (also open_clip_train's epoch_N.pt), or `random`.
        A value with a folder or with a checkpoint's suffix is a file; any other is a tag. `~` is the home folder.
    """

    model: Model
    pretrained: Weights | None = None
    kind: ClassVar[str] = "open_clip"
    named_by: ClassVar[str] = "model"
    has_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        folder = LOCAL_DIR if self.model.startswith(LOCAL_DIR) else ""
        object.__setattr__(self, "model", folder + home(self.model.removeprefix(folder)))
        object.__setattr__(self, "pretrained", self.pretrained and home(self.pretrained))

    @property
    def trained_as(self) -> str | None:
        """See Encoder.trained_as: the name; for a user's configuration, open_clip's smallest CLIP."""
        return "ViT-B-32" if self.model.endswith(".json") else self.model

    def provenance(self) -> dict[str, str]:
        """See Encoder.provenance. The hash of a folder covers its configuration, tokenizer and weights files."""
        if carries_weights(self):
            if self.model.startswith(HUB):
                return {"model": self.model}
            return {"model": _sha256_of_folder(Path(self.model.removeprefix(LOCAL_DIR)))}
        config = config_file(self)
        return {
            "model": self.model if config is None else sha256(config),
            "pretrained": hash_of(self.pretrained or ""),
        }

    def check(self) -> str:
        """See Encoder.check: looks in open_clip's files first, which needs no import."""
        if carries_weights(self):
            if self.model.startswith(HUB):
                return f"{self.model}, from the hub"
            return f"{Path(self.model.removeprefix(LOCAL_DIR)).name}, a folder"
        path, weights = config_file(self), self.pretrained or ""
        if path is not None:
            check_config(path)
        file = None if weights == RANDOM else checkpoint_file(weights)
        if file is not None:
            check_weights(file)
        tag = "" if file is not None or weights == RANDOM else weights
        name = self.model.replace("/", "-")
        listed = path is not None or name in _configurations()
        if not (listed and (not tag or tag.lower().replace("-", "_") in _tags().get(name, ()))):
            from winnow.stages.encoders import clip  # imports open_clip, whose answer is final

            clip.check_open_clip(self)
        return f"{self.model if path is None else path.name}, {weights_in_words(file, weights)}"

    def load(self, device: "torch.device") -> "winnow.stages.encoders.towers.Towers":
        """Both towers."""
        from winnow.stages.encoders import clip

        return clip.load_open_clip(self, device)


def carries_weights(encoder: OpenClip) -> bool:
    """True for `local-dir:` and `hf-hub:` models, False for models whose weights `pretrained` names.

    Raises: ModelError if both name weights, or neither does.
    """
    carries = encoder.model.startswith((LOCAL_DIR, HUB))
    if carries and encoder.pretrained is not None:
        raise ModelError(
            f"{encoder.model} has its own weights, but pretrained: {encoder.pretrained} is given too; "
            "leave `pretrained` out, or give the model's name instead of the folder"
        )
    if not carries and not encoder.pretrained:
        raise ModelError(
            f"an encoder must have weights, got {encoder.model} without `pretrained`; "
            "give a tag of open_clip or a checkpoint file"
        )
    return carries


def config_file(encoder: OpenClip) -> Path | None:
    """The model configuration `.json` that `model` names, or None if it is not such a path."""
    return existing(encoder.model) if encoder.model.endswith(".json") else None


def check_config(path: Path) -> None:
    """Raises ModelError for a file that is not a model configuration.

    open_clip silently skips a file without these keys, and a broken file breaks every later look-up.
    """
    try:
        keys = set(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ModelError(f"a model configuration must be a JSON object, but {path} is not: {error}") from error
    missing = sorted({"embed_dim", "vision_cfg", "text_cfg"} - keys)
    if missing:
        raise ModelError(
            f"a model configuration must have embed_dim, vision_cfg and text_cfg, but {path} lacks {missing}; "
            "see the files in open_clip/model_configs"
        )


def _sha256_of_folder(folder: Path) -> str:
    if not (folder / "open_clip_config.json").is_file():
        raise ModelError(
            f"local-dir: needs a folder with open_clip_config.json, but {folder} has none; "
            "give the folder that open_clip saved the model to"
        )
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


@functools.cache
def _configurations() -> frozenset[str]:
    """The names in open_clip.list_models(), from the files that define them."""
    folder = package_folder("open_clip")
    return frozenset() if folder is None else frozenset(path.stem for path in folder.glob("model_configs/*.json"))


@functools.cache
def _tags() -> dict[str, frozenset[str]]:
    """Tags of each model, parsed from open_clip's source; {} if the source has another form."""
    folder = package_folder("open_clip")
    if folder is None or not (folder / "pretrained.py").is_file():
        return {}
    named: dict[str, frozenset[str]] = {}
    found: dict[str, frozenset[str]] = {}
    for node in ast.parse((folder / "pretrained.py").read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        if isinstance(node.value, ast.Call):
            named[node.targets[0].id] = _words(node.value)
        elif isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Name | ast.Call):
                    known = named.get(value.id, frozenset()) if isinstance(value, ast.Name) else _words(value)
                    found[str(key.value)] = known
    return found


def _words(call: ast.Call) -> frozenset[str]:
    """The keywords of `dict(openai=…, laion400m_e31=…)`."""
    return frozenset(word.arg for word in call.keywords if word.arg)
