"""Models are known by name without opening them, and what is told of them is what their libraries say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pools import tiny_clip
from winnow.pipeline.errors import ModelError
from winnow.stages.encoders.clip_model import OpenClip, _configurations, _tags
from winnow.stages.encoders.timm_model import Timm, _timm_names

CHECK = """
import sys
from winnow.stages.encoders import OpenClip, Timm
OpenClip("ViT-B-32", "openai").check(), OpenClip("ViT-B/16-SigLIP", "webli").check()
Timm("vit_large_patch14_dinov2.lvd142m").check(), OpenClip("hf-hub:apple/DFN-public").check()
sys.exit(sorted({"torch", "open_clip", "timm"} & set(sys.modules)) != [])
"""


def test_what_is_known_waits_for_no_library() -> None:
    assert subprocess.run([sys.executable, "-c", CHECK], check=False).returncode == 0


def test_what_the_sources_say_is_what_the_libraries_say() -> None:
    # in a process of its own: other tests teach open_clip models of their own
    program = "import json, open_clip; print(json.dumps([open_clip.list_models(), open_clip.list_pretrained()]))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    models, pretrained = json.loads(told.stdout)
    import timm

    assert _configurations() == set(models)
    listed = {(model, tag) for model, tag in pretrained}
    read = {(model, tag) for model, tags in _tags().items() for tag in tags}
    assert read <= listed
    assert {pair for pair in listed - read if not pair[0].endswith("-quickgelu")} == set()
    bare = {name for name in _timm_names() if "." not in name}
    assert bare == set(timm.list_models())


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (OpenClip("ViT-B-33", "openai"), "the nearest known names are: ViT-B-32"),
        (OpenClip("ViT-B-32", "opnai"), "known tags are: openai, "),
        (Timm("vit_larg_patch14"), "the nearest are: vit_large_"),
        (Timm("vit_large_patch14_dinov2.lvd143m"), r"it has vit_large_patch14_dinov2\.lvd142m: name one"),
        (Timm("resnet50", "imagenet"), "`checkpoint` must be a file or `random`"),
        (OpenClip("ViT-B-32", "/nowhere/a.pt"), "a model's file must exist"),
        (OpenClip("ViT-B-32"), "without `pretrained`"),
    ],
)
def test_an_unknown_model_is_told_as_its_library_tells_it(encoder: OpenClip | Timm, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        encoder.check()


def test_files_are_looked_into(tmp_path: Path) -> None:
    tiny = tiny_clip(tmp_path)
    assert tiny.check() == "tiny.json, random weights"
    pointer = tmp_path / "epoch_1.pt"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    with pytest.raises(ModelError, match=r"epoch_1\.pt begins with b'version https://git-lfs\.'.*git lfs pull"):
        OpenClip(tiny.model, str(pointer)).check()
    pointer.write_bytes(b"")
    with pytest.raises(ModelError, match="a checkpoint must be a file of torch"):
        OpenClip(tiny.model, str(pointer)).check()
    (tmp_path / "half.json").write_text('{"embed_dim": 16}')
    with pytest.raises(ModelError, match=r"half\.json lacks \['text_cfg', 'vision_cfg'\]"):
        OpenClip(str(tmp_path / "half.json"), "random").check()


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "npz", "tar"])
def test_weights_of_every_kind_are_taken(tmp_path: Path, suffix: str) -> None:
    import numpy as np
    import safetensors.numpy
    import torch

    file = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save({"a": torch.zeros(2)}, file)
        assert "weights.pt" in OpenClip("ViT-B-32", str(file)).check()
        torch.save({"a": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    elif suffix == "safetensors":
        safetensors.numpy.save_file({"a": np.zeros(2)}, file)
    elif suffix == "npz":
        np.savez(file, a=np.zeros(2))
    else:
        torch.save({"a": torch.zeros(2)}, file)
    assert f"weights.{suffix}" in OpenClip("ViT-B-32", str(file)).check()
