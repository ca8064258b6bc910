"""Loading: every way to name weights, what a fingerprint hears of them, and the text of every refusal."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from winnow.pipeline.errors import ModelError
from winnow.stages.encoders import Bank, Encoding, OpenClip, Timm, clip, timm_image

CPU = torch.device("cpu")


def test_the_job_files_map_picks_the_encoder_and_refuses_other_keys() -> None:
    table = TypeAdapter(OpenClip | Timm)
    assert table.validate_python({"model": "ViT-B-32", "pretrained": "openai"}) == OpenClip("ViT-B-32", "openai")
    assert table.validate_python({"timm": "test_vit"}) == Timm("test_vit")
    with pytest.raises(ValidationError, match="Unexpected keyword argument"):
        table.validate_python({"model": "ViT-B-32", "pretraned": "openai"})
    with pytest.raises(ValidationError):
        Encoding(batch_size=0)


def test_the_configuration_does_not_import_torch() -> None:
    code = "import sys, winnow.stages.encoders as e; e.Encoding(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_saved_for_open_clip_loads_with_its_own_preprocessing(tiny_clip: OpenClip, tmp_path: Path) -> None:
    config = json.loads(Path(tiny_clip.model).read_text())
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash", "interpolation": "bilinear"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    (tmp_path / "open_clip_config.json").write_text(text)
    state = torch.load(tiny_clip.pretrained, weights_only=True)["state_dict"]
    torch.save({k.removeprefix("module."): v for k, v in state.items()}, tmp_path / "open_clip_pytorch_model.bin")
    towers = clip.load_open_clip(OpenClip(f"local-dir:{tmp_path}"), CPU)
    assert towers.preprocess.mode == "squash"
    assert towers.preprocess.mean == (0.5, 0.5, 0.5)
    named = clip.load_open_clip(tiny_clip, CPU)
    black = torch.zeros(1, 3, 64, 64)
    assert torch.equal(towers.image(black), named.image(black))


def test_openai_weights_get_the_activation_they_were_trained_with(
    tiny_clip: OpenClip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = json.loads(Path(tiny_clip.model).read_text())
    model = open_clip.CLIP(**config, quick_gelu=True)
    torch.save(model.state_dict(), tmp_path / "openai.pt")
    tag = {"file": str(tmp_path / "openai.pt"), "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"openai": tag})
    towers = clip.load_open_clip(OpenClip(tiny_clip.model, "openai"), CPU)
    pixels = torch.rand(1, 3, 64, 64)
    assert torch.equal(towers.image(pixels), model.eval().encode_image(pixels))


def test_provenance_hears_of_content_and_not_of_places(tiny_clip: OpenClip, tiny_timm: Timm, tmp_path: Path) -> None:
    for path in (tiny_clip.model, tiny_clip.pretrained, tiny_timm.checkpoint):
        shutil.copy(str(path), tmp_path)
    moved = OpenClip(str(tmp_path / "tiny-clip.json"), str(tmp_path / "epoch_3.pt"))
    assert moved.provenance() == tiny_clip.provenance()
    assert Timm("test_vit", str(tmp_path / "weights.pth")).provenance() == tiny_timm.provenance()
    assert str(tmp_path) not in str(moved.provenance())
    with (tmp_path / "epoch_3.pt").open("ab") as file:
        file.write(b"\0")
    assert moved.provenance()["pretrained"] != tiny_clip.provenance()["pretrained"]
    assert moved.provenance()["model"] == tiny_clip.provenance()["model"]
    assert OpenClip("ViT-B-32", "openai").provenance() == {"model": "ViT-B-32", "pretrained": "openai"}
    assert Timm("test_vit").provenance() != Timm("test_vit", image_size=96).provenance()


def test_provenance_of_a_folder_follows_its_weights(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = OpenClip(f"local-dir:{tmp_path}").provenance()
    (tmp_path / "README.md").write_text("hello")
    assert OpenClip(f"local-dir:{tmp_path}").provenance() == first
    (tmp_path / "model.safetensors").write_bytes(b"two, longer")
    assert OpenClip(f"local-dir:{tmp_path}").provenance() != first


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        (OpenClip("ViT-B-32"), "must have weights, got ViT-B-32 without"),
        (OpenClip("ViT-B-32", "/no/such/epoch_9.pt"), "/no/such/epoch_9.pt is not a file"),
        (OpenClip("no-such.json", "random"), "no-such.json is not a file"),
        (OpenClip("local-dir:/no/such"), "folder with open_clip_config.json, but /no/such has none"),
        (OpenClip("local-dir:/no/such", "openai"), "has its own weights"),
        (Timm("test_vit", "weights.pth"), "weights.pth is not a file"),
    ],
)
def test_planning_refuses_what_is_missing(encoder: OpenClip | Timm, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        encoder.provenance()


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        (OpenClip("ViT-B-23", "openai"), "'ViT-B-23'; the nearest known names are: .*ViT-B-32"),
        (OpenClip("ViT-B-32", "opanai"), "'opanai'; known tags are: .*laion2b_s34b_b79k"),
        (OpenClip("local-dir:/no/such"), "FileNotFoundError"),
        (Timm("test_vitt"), "the nearest are: .*test_vit"),
        (Timm("test_vit", "some-tag"), "a tag belongs to the name"),
        (Timm("test_resnet", "random", image_size=96), "must load with the weights random, got TypeError"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest_ones(encoder: OpenClip | Timm, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        Bank.open({"clip": encoder}, Encoding(device="cpu"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("encoder", [OpenClip("RN50", "yfcc15m"), Timm("test_vit")])
def test_a_tag_that_cannot_be_had_says_what_to_do(encoder: OpenClip | Timm) -> None:
    with pytest.raises(ModelError, match="cannot be downloaded, give a checkpoint file"):
        Bank.open({"clip": encoder}, Encoding(device="cpu"))


def test_weights_of_another_model_are_refused(tiny_clip: OpenClip, tiny_timm: Timm, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="belongs to another model"):
        clip.load_open_clip(OpenClip(tiny_clip.model, tiny_timm.checkpoint), CPU)
    state = torch.load(str(tiny_timm.checkpoint), weights_only=True)
    less = tmp_path / "less.pth"
    torch.save({k: v for k, v in state.items() if not k.startswith("blocks.0.")}, less)
    with pytest.raises(ModelError, match=r"(?s)Missing key.*blocks\.0\..*belongs to another model"):
        timm_image.load_timm(Timm("test_vit", str(less)), CPU)


@pytest.mark.parametrize(("text", "says"), [("{", "must be a JSON object"), ('{"embed_dim": 8}', "lacks .*text_cfg")])
def test_a_broken_configuration_is_refused_and_breaks_nothing_after_it(
    text: str, says: str, tmp_path: Path, tiny_clip: OpenClip
) -> None:
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(ModelError, match=says):
        clip.load_open_clip(OpenClip(str(tmp_path / "broken.json"), "random"), CPU)
    assert clip.load_open_clip(tiny_clip, CPU).text is not None
