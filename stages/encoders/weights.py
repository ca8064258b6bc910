"""Files of weights: which file an option names, its hash, and whether it can be one; nothing here imports torch."""

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Annotated

from winnow.pipeline.errors import ModelError, WeightsError
from winnow.pipeline.storage import FileName, rooted

RANDOM = "random"
"""The name for seeded random weights, which are the same in every worker. For benchmarks only."""

_SUFFIXES = {".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".tar", ".npz"}
_BEGINNINGS = (b"PK\x03\x04", b"\x80", b"\x1f\x8b")
"""First bytes of torch's archives, pickles and compressed tars. npz files are archives too, and safetensors begin with
the length of a json."""

_TAR_MAGIC = slice(257, 262)


def checkpoint_file(weights: str) -> Path | None:
    """The file that `weights` names, or None for a tag or `random`.

    Raises: ModelError if it names a file that does not exist.
    """
    return existing(weights) if _names_a_file(weights) else None


def _names_a_file(weights: str) -> bool:
    return "/" in weights or "\\" in weights or Path(weights).suffix in _SUFFIXES


def _place(weights: str) -> str:
    return rooted(weights) if _names_a_file(weights) else str(weights)


Weights = Annotated[str, FileName(_place)]
"""The type of an option that is a tag, a checkpoint file, or `random`."""


def existing(name: str) -> Path:
    """The file of this name. Raises WeightsError, a ModelError, if it does not exist on this machine."""
    path = Path(name)
    if not path.is_file():
        raise WeightsError(
            f"a model's file must exist, but {name} is not a file on this machine; "
            "put it where every worker sees it under this path"
        )
    return path


def hash_of(weights: str) -> str:
    """sha256 of the file that `weights` names; a tag or `random` is returned as it is."""
    path = checkpoint_file(weights)
    return weights if path is None else sha256(path)


def sha256(path: Path) -> str:
    """sha256 of a file. A process reads the file once, unless its size or time changes."""
    found = path.stat()
    return _sha256_of_state(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)  # every job of a sweep asks for the same gigabytes
def _sha256_of_state(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def weights_in_words(file: Path | None, weights: str) -> str:
    """A description of the weights. file: the file that they name, None for a tag or `random`."""
    if file is not None:
        return f"weights {file.name}, {file.stat().st_size / 1e6:,.0f} MB"
    return "random weights" if weights == RANDOM else f"weights {weights!r}, a tag"


def check_weights(path: Path) -> None:
    """Raises ModelError for a file that cannot be weights, before a cluster is started for it.

    Such files are pointers of git-lfs, error pages of a proxy, and empty files.
    """
    with path.open("rb") as file:
        begins = file.read(512)
    tensors = begins[8:9] == b"{" and int.from_bytes(begins[:8], "little") < path.stat().st_size
    if not (begins.startswith(_BEGINNINGS) or tensors or begins[_TAR_MAGIC] == b"ustar"):
        raise ModelError(
            f"a checkpoint must be a file of torch, safetensors or numpy, but {path} begins with {begins[:24]!r}; "
            "fetch the weights again (if it begins with `version https://git-lfs`, run git lfs pull)"
        )


def package_folder(package: str) -> Path | None:
    """The folder of a package, found without importing it."""
    found = importlib.util.find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).parent
