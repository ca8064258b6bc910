"""Chooses the device and the precision of encoders, and reports what this machine lacks for the choice of the job."""

import functools
import os
import sys

import torch

from winnow.pipeline import machine
from winnow.pipeline.errors import DeviceError, JobError
from winnow.stages.encoders import bf16


def device_of(name: str) -> torch.device:
    """The device that `encoding.device` names; auto: a GPU if there is one.

    Raises JobError for a name that is none, DeviceError if no GPU can be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise JobError(f"a device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device {name} needs a GPU that torch can use, but this machine has none; use auto or cpu")
    return device


def dtype_of(asked: str, device: torch.device) -> torch.dtype:
    """The type that `encoding.precision` names; auto: bf16 on a GPU. Raises JobError for fp16 on a CPU."""
    if asked == "auto":
        asked = "bf16" if device.type == "cuda" else "fp32"
    if asked == "fp16" and device.type != "cuda":
        raise JobError(f"precision fp16 needs a GPU, but the device is {device}; use auto, fp32 or bf16")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[asked]


@functools.cache  # one line a process
def tell_where_slow() -> None:
    """One line on stderr if bf16, as asked, is slower than fp32 on this CPU."""
    if (found := bf16.gain()) < 1:
        sys.stderr.write(
            f"encoding.precision: bf16 is used as asked, but {bf16.gain_in_words(found)}; fp32 is faster\n"
        )


def decoding_threads() -> int:
    """Threads for decoding: OMP_NUM_THREADS, else the cores that this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return machine.cores()
