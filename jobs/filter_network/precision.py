"""Chooses the precision of a training: the one that its file names, else the faster one on this machine.

The measurement runs in its own process, because it imports torch and may take GPU memory that the trainer needs.
"""

import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from winnow.pipeline.artifact import json_if_whole, write_json
from winnow.pipeline.errors import ModelError

if TYPE_CHECKING:
    from winnow.jobs.filter_network.training import Recipe, TrainerPrecision

AUTO = "auto"
PRECISION = "precision.json"
"""File with the precision that all trainings of a folder share, because they are compared with each other."""

_BF16 = ("amp_bf16", "amp_bfloat16", "bf16", "pure_bf16")
_FP16 = ("amp", "fp16", "pure_fp16")
_TIMEOUT_S = 300.0


def settled(recipe: "Recipe", file: Path, say: Callable[[str], None] | None = None) -> "Recipe":
    """The recipe with `auto` replaced by a precision. file: JSON whose key `precision` holds an earlier choice.

    say: called with the measurement, and with a warning if the recipe asks for bf16 on a device that is slower in it or
    for fp16 on a CPU; the recipe is followed all the same.
    Raises ModelError if this machine lacks the recipe's GPU, because open_clip would train on the CPU.
    """
    before = json_if_whole(str(file))
    if before is not None:
        told = cast("TrainerPrecision", before["precision"])
        return dataclasses.replace(recipe, precision=told) if recipe.precision == AUTO else recipe
    kind = recipe.device.partition(":")[0]
    if kind == "cpu" and recipe.precision in _FP16 and say is not None:
        slow = "on a CPU a layer in fp16 takes some ten times as long as in fp32"
        say(f"precision {recipe.precision}, as the job asks, but {slow}; fp32 or auto would be faster")
    may_be_slow = kind == "cpu" and recipe.precision in _BF16 and say is not None
    if recipe.precision != AUTO and kind != "cuda" and not may_be_slow:
        return recipe
    say = say or (lambda _line: None)
    faster, why = _measured(recipe.device)
    if recipe.precision == AUTO:
        say(f"precision {faster}: {why}")
        return dataclasses.replace(recipe, precision=faster)
    if recipe.precision in _BF16 and faster not in _BF16:
        say(f"precision {recipe.precision}, as the job asks, but {why}; {faster} or auto would be faster")
    return recipe


def settled_once(recipe: "Recipe", folder: Path, say: Callable[[str], None]) -> "Recipe":
    """Like settled, with one choice for all trainings of a folder, at any time and on any machine, in PRECISION."""
    found = settled(recipe, folder / PRECISION, say)
    if recipe.precision == AUTO:
        write_json(str(folder / PRECISION), {"precision": found.precision})
    return found


@functools.cache  # one measurement per process, however many trainings it starts
def _measured(device: str) -> "tuple[TrainerPrecision, str]":
    command = [sys.executable, "-m", "winnow.stages.encoders.bf16", device]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if ran.returncode != 0:
        *_, last = ran.stderr.strip().splitlines() or [f"measuring ended with exit code {ran.returncode}"]
        raise ModelError(f"the device of a training must work, but: {last}")
    found = json.loads(ran.stdout)
    return found["precision"], found["why"]
