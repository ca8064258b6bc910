"""Whether the models and weights that a job names are there, before a worker opens them; downloads nothing.

open_clip and timm take five seconds to import. So their lists are first read from their files as text: a name that is
there is known. Of one that is not, they are asked themselves.
"""

import ast
import functools
import importlib.util
import re
from pathlib import Path

from winnow.pipeline.errors import ModelError
from winnow.stages.encoders.config import (
    HUB,
    LOCAL_DIR,
    RANDOM,
    OpenClip,
    Timm,
    carries_weights,
    check_config,
    checkpoint_file,
    config_file,
)

_BEGINNINGS = (b"PK\x03\x04", b"\x80", b"\x1f\x8b")
"""Of torch's archives, pickles and compressed tars; safetensors begin with the length of a json, npz are archives."""

_TAR_MAGIC = slice(257, 262)


def check_model(encoder: OpenClip | Timm) -> str:
    """What is known of an encoder without opening it, in words.

    Raises ModelError for a name or tag that the library does not know, and for a file that is not there or cannot be a
    model's configuration or its weights.
    """
    if isinstance(encoder, Timm):
        return _timm(encoder)
    if carries_weights(encoder):
        if encoder.model.startswith(HUB):
            return f"{encoder.model}, from the hub"
        return f"{Path(encoder.model.removeprefix(LOCAL_DIR)).name}, a folder"
    path, weights = config_file(encoder), encoder.pretrained or ""
    if path is not None:
        check_config(path)
    file = None if weights == RANDOM else checkpoint_file(weights)
    if file is not None:
        _check_weights(file)
    tag = "" if file is not None or weights == RANDOM else weights
    name = encoder.model.replace("/", "-")
    listed = path is not None or name in _configurations()
    if not (listed and (not tag or tag.lower().replace("-", "_") in _tags().get(name, ()))):
        from winnow.stages.encoders import clip  # imports open_clip, which knows best

        clip.check_known(encoder)
    return f"{encoder.model if path is None else path.name}, {_of(file, weights)}"


def _of(file: Path | None, weights: str) -> str:
    if file is not None:
        return f"weights {file.name}, {file.stat().st_size / 1e6:,.0f} MB"
    return "random weights" if weights == RANDOM else f"weights {weights!r}, a tag"


def _timm(encoder: Timm) -> str:
    file = None if encoder.checkpoint in (None, RANDOM) else checkpoint_file(encoder.checkpoint or "")
    if file is not None:
        _check_weights(file)
    if (encoder.checkpoint not in (None, RANDOM) and file is None) or encoder.timm not in _timm_names():
        from winnow.stages.encoders import timm_image  # imports timm, which knows best

        timm_image.check_known(encoder)
    return f"{encoder.timm}, {_of(file, encoder.checkpoint or 'of its own')}"


def _check_weights(path: Path) -> None:
    """A pointer that git-lfs left, a page that a proxy sent, an empty file: told before a cluster is started for it."""
    with path.open("rb") as file:
        begins = file.read(512)
    tensors = begins[8:9] == b"{" and int.from_bytes(begins[:8], "little") < path.stat().st_size
    if not (begins.startswith(_BEGINNINGS) or tensors or begins[_TAR_MAGIC] == b"ustar"):
        raise ModelError(
            f"a checkpoint must be a file of torch, safetensors or numpy, but {path} begins with {begins[:24]!r}; "
            "fetch the weights again (a text that begins with `version https://git-lfs` stands for them: git lfs pull)"
        )


def _folder(package: str) -> Path | None:
    """Where a package lies; it is not imported."""
    found = importlib.util.find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).parent


@functools.cache
def _configurations() -> frozenset[str]:
    """Names of open_clip.list_models(): each is a file."""
    folder = _folder("open_clip")
    return frozenset() if folder is None else frozenset(path.stem for path in folder.glob("model_configs/*.json"))


@functools.cache
def _tags() -> dict[str, frozenset[str]]:
    """Tags of each model, as open_clip's source spells them; {} where it is written in another way."""
    folder = _folder("open_clip")
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


@functools.cache
def _timm_names() -> frozenset[str]:
    """Names with tags, and without, as timm's source spells them."""
    folder = _folder("timm")
    if folder is None:
        return frozenset()
    text = "\n".join(path.read_text(encoding="utf-8") for path in (folder / "models").glob("*.py"))
    tagged = set(re.findall(r"^    ['\"](\w+\.\w+)['\"]:", text, re.MULTILINE))
    return frozenset(tagged | set(re.findall(r"^@register_model\s+def (\w+)\(", text, re.MULTILINE)))
