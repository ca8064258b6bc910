"""Tiny real encoders with seeded random weights on disk, and photos drawn here; nothing is downloaded."""

import io
import json

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image

from winnow.stages.encoders import OpenClip, Timm
from winnow.stages.pools.sample import Sample

VISION = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    """A CLIP of 64 px and 32 dimensions, its checkpoint in the layout of open_clip_train."""
    folder = tmp_path_factory.mktemp("clip")
    config = folder / "tiny-clip.json"
    config.write_text(json.dumps({"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}))
    torch.manual_seed(7)
    model = open_clip.CLIP(embed_dim=32, vision_cfg=VISION, text_cfg=TEXT)
    state = {f"module.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"epoch": 3, "name": "tiny", "state_dict": state}, folder / "epoch_3.pt")
    return OpenClip(str(config), str(folder / "epoch_3.pt"))


@pytest.fixture(scope="session")
def tiny_timm(tmp_path_factory: pytest.TempPathFactory) -> Timm:
    """A timm model with its classifier in the checkpoint."""
    path = tmp_path_factory.mktemp("timm") / "weights.pth"
    torch.manual_seed(8)
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    return Timm("test_vit", str(path))


def photo(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """A smooth random colour field with edges and some grain, like a photo to a decoder."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    field = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    field[height // 3 :, width // 2 :] *= 0.6
    grain = rng.normal(0, 6, field.shape)
    return Image.fromarray(np.clip(field + grain, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def sample(position: int, image: bytes | memoryview, caption: str = "a photo") -> Sample:
    """A sample of these bytes; the other fields follow the position."""
    uid = position.to_bytes(16, "big")
    return Sample(position, f"{position:05d}", uid, image, uid, caption, offset=512 * position)


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    """Twenty JPEG photos of differing sizes."""
    return [encoded(photo(i, 200 + 17 * i, 300 - 11 * i), quality=92) for i in range(20)]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hugging Face hub out of reach at once, without its minute of retries."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
