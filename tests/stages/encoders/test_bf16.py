"""A processor's gain by bf16 is measured, not read from its flags: oneDNN told to go without units loses by it."""

import json
import os
import subprocess
import sys

import pytest
import torch

from winnow.stages.encoders import bf16

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def asked(device: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "winnow.stages.encoders.bf16", device]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_a_processor_without_bf16_units_trains_in_fp32() -> None:
    found = json.loads(asked("cpu", **AVX2).stdout)
    assert found["precision"] == "fp32"
    assert found["why"].startswith("a layer in bf16 takes ")
    assert found["why"].endswith(" times as long as in fp32 on this machine's processor")


@pytest.mark.parametrize(
    ("gain", "says"), [(0.25, "takes 4 times"), (0.031, "takes 32 times"), (2.0, "takes 0.5 times")]
)
def test_a_gain_is_told_as_it_is_felt(gain: float, says: str) -> None:
    assert says in bf16.gain_in_words(gain)


def test_the_choice_is_the_same_each_time_and_leaves_threads_alone() -> None:
    threads = torch.get_num_threads()
    first = bf16._timed() >= bf16.GAIN
    assert all((bf16._timed() >= bf16.GAIN) == first for _ in range(2))
    chosen, _ = bf16.fastest_precision("cpu")
    assert chosen == ("amp_bf16" if first else "fp32")
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_said(device: str) -> None:
    found = asked(device)
    assert found.returncode == 1
    assert found.stderr.strip() == (
        f"device {device} needs a GPU that torch can use, but this machine has none; set device: cpu"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_takes_bf16_where_it_has_it() -> None:
    own = torch.cuda.is_bf16_supported(including_emulation=False)
    assert bf16.fastest_precision("cuda")[0] == ("amp_bf16" if own else "amp")


def test_another_device_takes_fp32() -> None:
    assert bf16.fastest_precision("mps")[0] == "fp32"
