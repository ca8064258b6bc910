"""Refuses a trainer that leaves no checkpoint open_clip can load, or that fails without saying why."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from jobs.pocket import CONFIG, LOG, train
from jobs.world import World, render
from pipeline.errors import ModelError


def test_trains_for_real_and_the_checkpoint_loads(tmp_path: Path) -> None:
    render(World(clean_pairs=64, clean_shards=2, pool_samples=100, pool_shards=1), tmp_path / "world")
    shards = str(tmp_path / "world" / "clean" / "{00000..00001}.tar")
    checkpoint = train(shards, tmp_path / "run", epochs=1, batch_size=16, warmup_steps=1)
    assert checkpoint.name == "epoch_1.pt"
    assert "Train Epoch: 0" in (tmp_path / "run" / LOG).read_text()

    open_clip.add_model_config(CONFIG)
    model, _, preprocess = open_clip.create_model_and_transforms("pocket", pretrained=str(checkpoint))
    fresh = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in fresh.items()
    }
    pixels = preprocess(Image.new("RGB", (160, 96), (200, 30, 30))).unsqueeze(0)
    with torch.no_grad():
        image = model.eval().encode_image(pixels, normalize=True)
        text = model.encode_text(open_clip.get_tokenizer("pocket")(["a big red ball"]), normalize=True)
    np.testing.assert_allclose(image.norm().item(), 1, atol=1e-5)
    assert image.shape == text.shape


def test_missing_shards_are_a_model_error_with_the_end_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        train(str(tmp_path / "nowhere" / "00000.tar"), tmp_path / "run", epochs=1)
    message = str(caught.value)
    assert "must leave a checkpoint" in message
    assert "number of dataset samples must be specified" in message
    assert str(tmp_path / "run" / LOG) in message


def test_a_trainer_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"took longer than 0\.2 s"):
        train(str(tmp_path / "00000.tar"), tmp_path / "run", timeout_s=0.2)
