"""The average of weights: against sums one by one, at its ends bit for bit, and for one model only."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.pipeline.errors import ModelError
from winnow.stages.encoders.ensemble import average, read_weights, write_config

SHAPES = {"tower.weight": (3, 2), "logit_scale": ()}


def checkpoint(path: Path, seed: int, prefix: str = "", dtype: torch.dtype = torch.float32) -> Path:
    """As open_clip_train leaves it: weights, the optimizer's state, and a count of steps among the weights."""
    made = torch.Generator().manual_seed(seed)
    weights = {prefix + name: torch.randn(shape, generator=made).to(dtype) for name, shape in SHAPES.items()}
    weights[prefix + "bn.num_batches_tracked"] = torch.tensor(seed)
    torch.save({"epoch": 1, "name": "x", "state_dict": weights, "optimizer": {"state": {0: torch.ones(9)}}}, path)
    return path


@settings(max_examples=20)  # each writes files
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([torch.float32, torch.bfloat16]))
def test_it_is_the_weighted_sum(tmp_path_factory: pytest.TempPathFactory, raw: list[int], dtype: torch.dtype) -> None:
    folder = tmp_path_factory.getbasetemp()
    shares = [number / sum(raw) for number in raw]
    paths = [checkpoint(folder / f"{n}.pt", n, "module." if n % 2 else "", dtype) for n in range(len(raw))]
    average(list(zip(paths, shares, strict=True)), folder / "out.pt")
    found = torch.load(folder / "out.pt", weights_only=True)
    assert found.keys() == {"state_dict"}, "nothing that only a trainer needs"
    parts = [read_weights(path) for path in paths]
    for name, shape in SHAPES.items():
        value = found["state_dict"][name]
        assert (value.dtype, tuple(value.shape)) == (dtype, shape)
        expected = sum(share * part[name].double() for share, part in zip(shares, parts, strict=True))
        np.testing.assert_allclose(value.float(), torch.as_tensor(expected).to(dtype).float(), rtol=1e-6)
    assert found["state_dict"]["bn.num_batches_tracked"] == len(raw) - 1


def test_one_alone_keeps_every_bit(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.pt", 1)
    average([(path, 1.0)], tmp_path / "out.pt")
    before, after = read_weights(path), read_weights(tmp_path / "out.pt")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("shares", [(), (0.5,), (0.5, 0.6), (1.0, 0.0), (1.5, -0.5)])
def test_shares_add_up(tmp_path: Path, shares: tuple[float, ...]) -> None:
    parts = [(checkpoint(tmp_path / f"{n}.pt", n), share) for n, share in enumerate(shares)]
    with pytest.raises(ModelError, match="shares of an average must be positive and sum to 1"):
        average(parts, tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_checkpoints_are_of_one_model(tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"tower.weight": torch.ones(3, 3), "logit_scale": torch.ones(())}, other)
    with pytest.raises(ModelError, match=r"other.pt differs in bn.num_batches_tracked, tower.weight"):
        average([(checkpoint(tmp_path / "a.pt", 0), 0.5), (other, 0.5)], tmp_path / "out.pt")


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers.pt")
    with pytest.raises(ModelError, match=r"text.pt must be a checkpoint of weights, got \w+"):
        read_weights(tmp_path / "text.pt")
    with pytest.raises(ModelError, match=r"numbers.pt must hold named tensors"):
        read_weights(tmp_path / "numbers.pt")


def test_a_models_configuration_is_written_by_name_and_by_file(tmp_path: Path) -> None:
    write_config("ViT-B/32", tmp_path / "named.json")
    assert json.loads((tmp_path / "named.json").read_text()) == open_clip.get_model_config("ViT-B-32")
    write_config(str(tmp_path / "named.json"), tmp_path / "copied.json")
    assert (tmp_path / "copied.json").read_bytes() == (tmp_path / "named.json").read_bytes()
    with pytest.raises(ModelError, match=r"a name of open_clip or a configuration \.json, got 'ViT-Z'"):
        write_config("ViT-Z", tmp_path / "none.json")
