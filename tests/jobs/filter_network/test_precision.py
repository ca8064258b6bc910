"""`precision: auto` is decided once and kept: by a recipe that is there, else measured; bf16 that is slow is said."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from winnow.jobs.filter_network.precision import PRECISION, _measured, settled, settled_once
from winnow.jobs.filter_network.training import RECIPE, Recipe, TrainerPrecision, run_training
from winnow.jobs.quickstart import pocket
from winnow.pipeline.artifact import write_json
from winnow.pipeline.errors import ModelError, TrainingError

ASKED = Recipe(model=str(pocket.POCKET_CONFIG), epochs=2, timeout_s=0.2)


@pytest.fixture(scope="module")
def no_units() -> Iterator[None]:
    """oneDNN and ATen as on a processor without bf16, which is measured once."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        environment.setenv("ATEN_CPU_CAPABILITY", "avx2")
        _measured.cache_clear()
        yield
    _measured.cache_clear()


def test_auto_is_the_default() -> None:
    assert ASKED.precision == "auto"


@pytest.mark.usefixtures("no_units")
def test_without_units_auto_is_fp32_and_says_why(tmp_path: Path) -> None:
    said: list[str] = []
    found = settled(ASKED, tmp_path / RECIPE, said.append)
    assert found == replace(ASKED, precision="fp32")
    [line] = said
    assert line.startswith("precision fp32: a layer in bf16 takes ")


@pytest.mark.usefixtures("no_units")
def test_bf16_that_is_asked_for_is_given_and_its_price_said(tmp_path: Path) -> None:
    said: list[str] = []
    asked = replace(ASKED, precision="amp_bf16")
    assert settled(asked, tmp_path / RECIPE, said.append) == asked
    [line] = said
    assert line.startswith("precision amp_bf16, as the job asks, but a layer in bf16 takes ")
    assert line.endswith("; fp32 or auto would be faster")


@pytest.mark.parametrize("precision", ["amp", "fp16", "pure_fp16"])
def test_fp16_on_a_cpu_is_given_and_its_price_said_once(tmp_path: Path, precision: TrainerPrecision) -> None:
    said: list[str] = []
    asked = replace(ASKED, precision=precision)
    assert settled(asked, tmp_path / RECIPE, said.append) == asked
    [line] = said
    assert line.startswith(f"precision {precision}, as the job asks, but on a CPU a layer in fp16 takes some ten")
    assert line.endswith("; fp32 or auto would be faster")
    write_json(str(tmp_path / RECIPE), {"precision": precision})
    assert settled(asked, tmp_path / RECIPE, pytest.fail) == asked


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
def test_a_recipe_that_is_there_is_kept_to_on_any_machine(tmp_path: Path, precision: str) -> None:
    write_json(str(tmp_path / RECIPE), {"precision": precision})
    assert settled(ASKED, tmp_path / RECIPE, pytest.fail).precision == precision


@pytest.mark.usefixtures("no_units")
def test_a_training_writes_what_it_came_to_and_goes_on_in_it(tmp_path: Path) -> None:
    def recipe() -> dict[str, object]:
        found: dict[str, object] = json.loads((tmp_path / RECIPE).read_text())
        return found

    with pytest.raises(TrainingError, match="took longer"):
        run_training("nowhere/00000.tar", tmp_path, ASKED)
    assert recipe()["precision"] == "fp32"
    write_json(str(tmp_path / RECIPE), {**recipe(), "precision": "amp_bf16"})  # as on another machine
    with pytest.raises(TrainingError, match="took longer"):
        run_training("nowhere/00000.tar", tmp_path, ASKED)
    assert recipe()["precision"] == "amp_bf16"
    with pytest.raises(ModelError, match="precision was 'amp_bf16' and is 'fp32'; use another folder"):
        run_training("nowhere/00000.tar", tmp_path, replace(ASKED, precision="fp32"))


@pytest.mark.usefixtures("no_units")
def test_trainings_that_are_compared_take_one(tmp_path: Path) -> None:
    said: list[str] = []
    assert settled_once(ASKED, tmp_path, said.append).precision == "fp32"
    assert settled_once(ASKED, tmp_path, pytest.fail).precision == "fp32"
    assert settled_once(replace(ASKED, precision="amp"), tmp_path, pytest.fail).precision == "amp"
    assert json.loads((tmp_path / PRECISION).read_text()) == {"precision": "fp32"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_gpu_that_is_not_there_ends_it_before_it_begins(tmp_path: Path, precision: TrainerPrecision) -> None:
    with pytest.raises(
        ModelError, match="the device of a training must work, but: device cuda needs a GPU that torch can use"
    ):
        settled(replace(ASKED, precision=precision, device="cuda"), tmp_path / RECIPE, pytest.fail)
